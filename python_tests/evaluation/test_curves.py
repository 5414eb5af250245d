from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from peel_ext.config import BlendConfig, ExposureConfig, PipelineConfig, SplitConfig
from peel_ext.data import ItemLists
from peel_ext.device.fold_in import continue_vectors, fold_in_users
from peel_ext.errors import BudgetError, DataError, DependencyError
from peel_ext.evaluation import (
    Evaluation,
    Measurement,
    choice,
    curves,
    evaluate_run,
    lead,
    ranking,
)
from peel_ext.evaluation.curves import rival_inputs
from peel_ext.evaluation.plan import Plan, Ship
from peel_ext.evaluation.rivals import Rival, build_rivals
from peel_ext.evaluation.rivals.dimensions import TrainedDimensions
from peel_ext.metrics import RankingQuality, rank_quality
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.blending import blend_for_users
from peel_ext.train.clustering import nearest_group
from peel_ext.train.pipeline import TrainedRun, run_pipeline

BUDGETS = [1200, 4000]


def plain_lists(
    tables: list[np.ndarray], held: list[np.ndarray], vectors: np.ndarray,
    group_of: np.ndarray, seen: list[np.ndarray],
    shipped: list[dict[int, float]] | None = None,
) -> np.ndarray:  # fmt: skip
    """Full ranking, ten items, with NumPy alone, from the rows each group holds.

    Shipped are items of each user with their scores, which they keep where they are not held.
    """
    lists = np.full((len(vectors), 10), -1)
    for user, vector in enumerate(vectors):
        group = group_of[user]
        scores = (tables[group] @ vector)[held[group]]
        candidates = held[group]
        more = {} if shipped is None else shipped[user]
        more = {item: score for item, score in more.items() if item not in candidates}
        candidates = np.concatenate([candidates, np.array(list(more), dtype=np.int64)])
        scores = np.concatenate([scores, list(more.values())])
        scores[np.isin(candidates, seen[user])] = -np.inf
        best = np.lexsort((candidates, -scores))[:10]
        best = best[np.isfinite(scores[best])]
        lists[user, : len(best)] = candidates[best]
    return lists


def others(found: Evaluation, method: str) -> list[Measurement]:
    return [each for each in found.others if each.method == method]


def tables_of(
    run: TrainedRun, budget: int | None, embedding: ElasticEmbedding | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Decoded rows in the space of the model, and ids, of every group."""
    embedding = run.embedding if embedding is None else embedding
    num_groups = embedding.num_groups
    if budget is None:
        every = run.embedding.weight.detach().numpy()
        return [every] * num_groups, [np.arange(len(every))] * num_groups
    pees = [embedding.generate(group, budget) for group in range(num_groups)]
    rotation = run.embedding.rotate(torch.eye(16)).numpy()
    return (
        [pee.lookup(np.arange(len(run.items))) @ rotation.T for pee in pees],
        [np.sort(pee.row_ids) for pee in pees],
    )


def fold(run: TrainedRun, rows: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
    lists = ItemLists.from_lists(histories)
    return fold_in_users(
        rows, lists.indptr, lists.items, temperature=run.temperature, prior=run.prior
    )


def assert_close(found: RankingQuality, plain: RankingQuality) -> None:
    assert found.num_users == plain.num_users > 0
    for name in ("recall", "ndcg", "hit_rate", "mrr"):
        # The order of additions differs, which may swap near ties.
        assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=2e-3)


def test_known_users_equal_a_plain_full_ranking(run: TrainedRun) -> None:
    found = evaluate_run(run, "known", BUDGETS, n=10)
    seen = list(run.train)
    for budget, row in zip([None, *BUDGETS], [found.ceiling, *found.curve], strict=True):
        lists = plain_lists(*tables_of(run, budget), run.user_vectors, run.user_group, seen)
        assert_close(row.users.mean(), rank_quality(lists, run.test.indptr, run.test.items))
    assert found.floor is None
    assert found.gap_recovered(found.curve[0]) is None


def test_new_users_equal_a_plain_full_ranking(run: TrainedRun, monkeypatch) -> None:
    monkeypatch.setattr(ranking, "_BLENDED_CELLS", 7 * len(run.items))  # some users at once
    found = evaluate_run(run, "new", BUDGETS, n=10, with_blends=True)
    fold_in = functools.partial(fold, run)
    histories = list(run.history)
    targets = (run.history_test.indptr, run.history_test.items)
    items = run.embedding.weight.detach().numpy()
    vectors = fold_in(items, histories)
    groups = nearest_group(vectors, run.centroids)
    assert len(vectors) == len(run.new_users) == 80
    rows = [found.ceiling, *found.curve]
    for budget, row in zip([None, *BUDGETS], rows, strict=True):
        lists = plain_lists(*tables_of(run, budget), vectors, groups, histories)
        assert_close(row.users.mean(), rank_quality(lists, *targets))
    for budget, row in zip(BUDGETS, others(found, "PEE, folded in on the device"), strict=True):
        tables, held = tables_of(run, budget)
        folded = np.stack(
            [
                fold_in(tables[group], [history])[0]
                for group, history in zip(groups, histories, strict=True)
            ]
        )
        lists = plain_lists(tables, held, folded, groups, histories)
        assert_close(row.users.mean(), rank_quality(lists, *targets))
    blend = blend_for_users(
        run.embedding, vectors, run.history, run.centroids, BlendConfig(), ExposureConfig()
    )
    for budget, row in zip(BUDGETS, others(found, "PEE, blended for the user"), strict=True):
        lists = plain_lists(*tables_of(run, budget, blend), vectors, np.arange(80), histories)
        assert_close(row.users.mean(), rank_quality(lists, *targets))
        assert 0 < row.max_bytes <= budget


def test_the_offline_protocol_equals_a_plain_one(run: TrainedRun) -> None:
    found = evaluate_run(run, "offline", BUDGETS, n=10, with_blends=True)
    fold_in = functools.partial(fold, run)
    histories = list(run.history)
    targets = (run.history_test.indptr, run.history_test.items)
    items = run.embedding.weight.detach().numpy()
    before = [history[: len(history) // 2] for history in histories]
    after = [history[len(history) // 2 :] for history in histories]
    shipped = np.stack([fold_in(items, [part])[0] for part in before])
    groups = nearest_group(shipped, run.centroids)
    fresh = fold_in(items, histories)
    lists_shipped = []
    for user, vector in enumerate(shipped):  # twice the ten of a list
        scores = items @ vector
        scores[before[user]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:20]
        lists_shipped.append(dict(zip(best.tolist(), scores[best].tolist(), strict=True)))

    def quality(budget: int | None, vectors: np.ndarray) -> RankingQuality:
        lists = plain_lists(*tables_of(run, budget), vectors, groups, histories, lists_shipped)
        return rank_quality(lists, *targets)

    def updated(tables: list[np.ndarray], group_of: np.ndarray) -> np.ndarray:
        vectors = []
        for user, group in enumerate(group_of):
            folded = fold_in(tables[group], [after[user]])[0]
            share = len(after[user]) / len(histories[user])
            vectors.append(continue_vectors(shipped[user], folded, share, prior=run.prior))
        return np.stack(vectors)

    seen = ItemLists.from_lists(before)
    blend = blend_for_users(
        run.embedding, shipped, seen, run.centroids, BlendConfig(), ExposureConfig()
    )
    assert found.floor is not None
    assert_close(found.ceiling.users.mean(), quality(None, fresh))
    assert_close(found.floor.users.mean(), quality(None, shipped))
    for at, budget in enumerate(BUDGETS):
        stale = others(found, "PEE, vector never updated")[at]
        assert_close(stale.users.mean(), quality(budget, shipped))
        tables, _ = tables_of(run, budget)
        assert_close(found.curve[at].users.mean(), quality(budget, updated(tables, groups)))
        tables, held = tables_of(run, budget, blend)
        own = np.arange(len(histories))
        lists = plain_lists(tables, held, updated(tables, own), own, histories, lists_shipped)
        blended = others(found, "PEE, blended for the user")[at]
        assert_close(blended.users.mean(), rank_quality(lists, *targets))

    # So small a model may rank better with the vector of the download: one way round there is a gap.
    turned = dataclasses.replace(found, ceiling=found.floor, floor=found.ceiling)
    for each in (found, turned):
        assert each.floor is not None
        ceiling, floor = (part.users.recall.mean() for part in (each.ceiling, each.floor))
        assert ceiling != floor
        if ceiling < floor:
            assert each.gap_recovered(each.curve[0]) is None
            continue
        expected = (each.curve[0].users.recall.mean() - floor) / (ceiling - floor)
        assert each.gap_recovered(each.curve[0]) == pytest.approx(expected)
        assert each.gap_recovered(each.ceiling) == 1
        assert each.gap_recovered(each.floor) == 0


def test_bytes_never_exceed_the_budget(run: TrainedRun) -> None:
    budgets = [1200, 1301, 4000, 10**6]
    found = evaluate_run(run, "known", budgets)
    rows = [row.mean_rows for row in found.curve]
    assert rows == sorted(rows)
    assert rows[-1] == len(run.items)
    for budget, row in zip(budgets, found.curve, strict=True):
        assert row.budget_bytes == budget
        assert 0 < row.max_bytes <= budget
    assert found.ceiling.max_bytes == run.full_bytes == len(run.items) * 16 * 4


def test_every_budget_is_checked_before_the_first_is_measured(run: TrainedRun) -> None:
    passes: list[int] = []
    with pytest.raises(BudgetError, match="budget_bytes is 9, but user group") as caught:
        evaluate_run(run, "new", [1200, 9], on_progress=lambda done, total: passes.append(done))
    assert passes == []
    least = caught.value.minimum_bytes
    evaluate_run(run, "new", [least])
    with pytest.raises(BudgetError):
        evaluate_run(run, "new", [least - 1])


def test_rivals_get_the_same_bytes_and_one_of_each_family_is_measured(run: TrainedRun) -> None:
    passes: list[tuple[int, int]] = []
    found = evaluate_run(
        run, "new", BUDGETS, with_blends=True, with_rivals=True,
        on_progress=lambda *at: passes.append(at),
    )  # fmt: skip
    assert found.left_out == []
    assert {rival.method for rival in found.rivals} == {
        "global popularity", "group popularity", "smaller dimension (PCA)", "magnitude pruning",
        "column blocks (PEEL, plain)", "product quantisation",
    }  # fmt: skip
    for rival in found.rivals:
        assert rival.budget_bytes is not None
        assert 0 < rival.max_bytes <= rival.budget_bytes
        assert len(rival.users.users) == len(found.ceiling.users.users) == found.num_choosers
    assert len({(r.method, r.budget_bytes) for r in found.rivals}) == len(found.rivals)
    assert {rival.budget_bytes for rival in found.best_rivals(4000)} == {4000}
    shared = next(rival for rival in found.rivals if rival.budget_bytes == 1200)
    difference = lead(found.curve[0], shared)
    ours, theirs = found.curve[0].users.recall, shared.users.recall
    assert difference.mean == pytest.approx(ours.mean() - theirs.mean())
    assert difference.low < difference.mean < difference.high
    variants = build_rivals(*[np.ones((20, 16), np.float32)] * 3)[0]
    total = 1 + 2 * len(BUDGETS) + len(variants) + len({rival.family for rival in variants})
    assert passes == [(done, total) for done in range(1, total + 1)]


def test_where_everybody_chooses_a_rival_is_the_best_variant(run: TrainedRun) -> None:
    found = evaluate_run(run, "known", [4000], with_rivals=True)
    audience = Plan.of_run(run, "known").device
    everybody = np.arange(len(audience.vectors))
    best: dict[str, float] = {}
    for rival in build_rivals(*rival_inputs(run))[0]:
        try:
            lists = ranking.rank_rival(audience, rival, 4000, 20, everybody)
        except BudgetError:
            continue
        recall = rank_quality(lists.indices, audience.targets.indptr, audience.targets.items).recall
        best[rival.family] = max(recall, best.get(rival.family, 0.0))
    assert {rival.method: rival.users.recall.mean() for rival in found.rivals} == best
    assert len(set(best.values())) > 3


def test_choosers_are_some_of_those_with_targets(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    audience = Plan.of_run(run, "known").device
    all_of_them = np.flatnonzero(audience.targets.counts)
    assert choice.draw_choosers(audience).tolist() == all_of_them.tolist()
    monkeypatch.setattr(choice, "_USERS", 30)
    monkeypatch.setattr(choice, "_GROUPS", 2)
    some = choice.draw_choosers(audience)
    assert len(np.unique(some)) == len(some) == 30
    assert set(some) < set(all_of_them)
    assert len(set(audience.groups[some])) == 2
    assert some.tolist() == choice.draw_choosers(audience).tolist()
    found = evaluate_run(run, "known", [4000], with_rivals=True)
    assert found.num_choosers == 30
    for rival in found.rivals:
        assert rival.users.users.tolist() == found.ceiling.users.users.tolist()


def test_of_two_finalists_everybody_keeps_the_better(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chooser, who thinks a wrong variant as good as the right one."""
    items, audience = run.embedding.weight.detach().numpy(), Plan.of_run(run, "known").device
    right = TrainedDimensions(lambda dim: (audience.vectors, items), len(items), 16, 32)
    wrong = TrainedDimensions(lambda dim: (vectors, items), len(items), 16, 32)
    vectors = -audience.vectors
    chooser = int(np.flatnonzero(audience.targets.counts)[0])
    vectors[chooser] = audience.vectors[chooser]
    monkeypatch.setattr(choice, "draw_choosers", lambda _: np.array([chooser]))
    monkeypatch.setattr(curves, "draw_choosers", choice.draw_choosers)
    found = evaluate_run(run, "known", [run.full_bytes], more_rivals=lambda ship: [wrong, right])
    (kept,) = found.rivals
    np.testing.assert_array_equal(kept.users.recall, found.ceiling.users.recall)


@pytest.mark.parametrize("protocol", ["known", "new"])
def test_a_rival_trained_to_the_same_model_is_the_full_table(
    run: TrainedRun, protocol: str
) -> None:
    """What is shipped of another model are vectors of the same users, for the same lists."""
    items = run.embedding.weight.detach().numpy()

    def same_model(ship: Ship) -> list[Rival]:
        vectors = ship(run.user_vectors, items)
        return [TrainedDimensions(lambda dim: (vectors, items), len(items), 16, 32)]

    found = evaluate_run(run, protocol, [run.full_bytes], more_rivals=same_model)
    (rival,) = found.rivals
    np.testing.assert_array_equal(rival.users.recall, found.ceiling.users.recall)
    assert rival.max_bytes == items.nbytes
    assert rival.method == "smaller dimension (retrained)"


def test_offline_all_have_the_list_of_the_download(run: TrainedRun) -> None:
    """With the least a table can hold, a list is nearer to the one shipped."""
    stale = Plan.of_run(run, "offline").floor
    assert stale is not None
    assert stale.shipped is not None
    without = dataclasses.replace(stale, shipped=None)
    floor = ranking.rank_full(stale, run.embedding.weight.detach().numpy(), 20).indices

    def share(lists: ranking.RankedLists) -> float:
        pairs = zip(lists.indices, floor, strict=True)
        return float(np.mean([np.isin(own, best).mean() for own, best in pairs]))

    rival = next(each for each in build_rivals(*rival_inputs(run))[0] if not each.per_group)
    everybody = np.arange(len(stale.vectors))
    least = max(map(run.embedding.minimum_budget_bytes, range(run.embedding.num_groups)))
    ((ours, bare),) = ranking.rank_elastic([stale, without], run.embedding, [least], 20)
    for listed, alone in (
        (ours, bare),
        (ranking.rank_rival(stale, rival, 600, 20, everybody),
         ranking.rank_rival(without, rival, 600, 20, everybody)),
    ):  # fmt: skip
        assert share(alone) < share(listed)


def test_offline_a_rival_gets_the_vector_of_the_download(run: TrainedRun) -> None:
    plan = Plan.of_run(run, "offline")
    assert plan.floor is not None
    shipped = plan.ship(run.user_vectors, run.embedding.weight.detach().numpy())
    np.testing.assert_array_equal(shipped, plan.floor.vectors)
    assert not np.array_equal(shipped, plan.ceiling.vectors)


def test_what_cannot_be_measured_is_said(
    tmp_path: Path, run: TrainedRun, small_config: PipelineConfig
) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,2\n2,2\n")
    config = dataclasses.replace(small_config, split=SplitConfig())
    lonely = run_pipeline(tmp_path / "a.csv", tmp_path / "run", config)
    with pytest.raises(DataError, match="no test interactions to measure on"):
        evaluate_run(lonely, "known", [])
    for protocol in ("new", "offline"):
        with pytest.raises(DataError, match=r"no users were held out .*--new-user-share 0\.1"):
            evaluate_run(lonely, protocol, [])
    with pytest.raises(DataError, match=r"not later .*\(split: random\); train with --split time"):
        evaluate_run(run, "time", [])
    with pytest.raises(
        ValueError, match="protocol must be one of known, new, offline, time, got 'x'"
    ):
        evaluate_run(run, "x", [])


def test_a_run_split_by_time(tmp_path: Path, small_config: PipelineConfig, shop: Path) -> None:
    split = SplitConfig(method="time", new_user_share=0.2)
    config = dataclasses.replace(small_config, split=split)
    timed = run_pipeline(shop, tmp_path / "run", config)
    found = evaluate_run(timed, "time", [4000])
    assert 0 < found.curve[0].users.recall.mean() <= 1
    assert found.ceiling.users.users.tolist() == np.flatnonzero(timed.test.counts).tolist()
    assert evaluate_run(timed, "offline", [4000]).floor is not None


def test_few_users_and_few_items(tmp_path: Path, small_config: PipelineConfig) -> None:
    lines = ["a,x", "b,x", "b,y", "c,y", "c,z", "d,x", "d,z"]
    (tmp_path / "train.csv").write_text("user,item\n" + "\n".join(lines))
    (tmp_path / "test.csv").write_text("user,item\n" + "a,y\nb,z\nc,x\nd,y\n")
    config = dataclasses.replace(small_config, split=SplitConfig(new_user_share=0.25))
    few = run_pipeline(tmp_path, tmp_path / "run", config)
    for protocol in ("known", "new"):
        found = evaluate_run(few, protocol, [10**4], with_rivals=True)
        # Nobody has more than two items to choose from, and all are returned.
        assert found.ceiling.users.recall.min() == found.curve[0].users.recall.min() == 1
        assert {rival.users.recall.min() for rival in found.rivals} == {1}


def test_groups_without_users_are_passed_over(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedRun, "user_group", np.full_like(run.user_group, 3))
    found = evaluate_run(run, "known", [4000], with_rivals=True)
    assert found.curve[0].max_bytes == run.embedding.generate(3, 4000).nbytes


def test_a_frame_has_a_line_for_every_measurement(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    for protocol in ("known", "offline"):
        found = evaluate_run(run, protocol, BUDGETS, with_rivals=True)
        frame = found.to_frame()
        ends = [each for each in (found.ceiling, found.floor) if each is not None]
        measured = [*ends, *found.curve, *found.others, *found.rivals]
        assert frame["method"].tolist() == [each.method for each in measured]
        assert frame["max_bytes"].tolist() == [each.max_bytes for each in measured]
        assert frame["recall"].tolist() == [each.users.recall.mean() for each in measured]
        assert frame["num_users"].tolist() == [len(each.users.users) for each in measured]
        full = frame["budget_bytes"].isna()
        assert full.sum() == len(ends)
        assert frame["budget_bytes"][~full].tolist() == [
            m.budget_bytes for m in measured[len(ends) :]
        ]
        gaps = [found.gap_recovered(each) for each in measured]
        np.testing.assert_array_equal(frame["gap_recovered"], np.array(gaps, dtype=float))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match=r"Evaluation.to_frame needs pandas: install it with"):
        found.to_frame()
