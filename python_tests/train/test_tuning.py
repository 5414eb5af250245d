from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.data import IdMap, Interactions, ItemLists, SyntheticConfig, make_interactions
from peel_ext.device.item_prior import part_tastes
from peel_ext.metrics import rank_quality
from peel_ext.train import tuning
from peel_ext.train.held_out import TrainingData, draw_users, hold_out
from peel_ext.train.pretraining import PretrainedVectors, pretrain
from peel_ext.train.tuning import ListJudge, Tuned, choose_settings, make_chooser

SMALL = PretrainingConfig(embedding_dim=8, epochs=3, steps_per_epoch=4)


def make_data(*, times: bool = False) -> TrainingData:
    made = make_interactions(SyntheticConfig(num_users=120, num_items=150, mean_interactions=12))
    stamps = np.random.default_rng(0).random(len(made)) if times else None
    return TrainingData(made.csr(), made.num_items, None, stamps)


def quality_of(
    data: TrainingData, left: TrainingData, held_out: ItemLists, temperature: float, epochs: int
) -> float:
    """The best NDCG at 100 over some weights of popularity, by a plain computation."""
    settings = dataclasses.replace(SMALL, temperature=temperature, epochs=epochs)
    vectors = pretrain(left.lists, data.num_items, settings)
    users, items = part_tastes(vectors.users), part_tastes(vectors.items)
    counts = np.bincount(left.lists.items, minlength=data.num_items).clip(1)
    best = 0.0
    for weight in np.arange(-0.2, 1.0, 0.025) + 0.25 * temperature:
        scores = users @ items.T + weight * np.log(counts)
        scores[left.lists.owners(), left.lists.items] = -np.inf
        lists = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        best = max(best, rank_quality(lists, held_out.indptr, held_out.items).ndcg)
    return best


def test_the_candidate_that_ranks_best_with_the_prior_that_suits_it_is_taken() -> None:
    data = make_data()
    config = TuningConfig(temperatures=(0.02, 0.2, 1.0), validation_share=0.3, epochs=2)
    tuned = choose_settings(data, config, SMALL)
    left, held_out = data.hold_out("random", 0.3, config.seed)
    expected = [quality_of(data, left, held_out, each, 2) for each in config.temperatures]
    tried = expected[: 2 + (expected[1] > expected[0])]  # none after one that is worse
    assert len(tuned.qualities) == len(tried) + 1  # and the one the prior was chosen after
    # The search takes no step that gains next to nothing, and stops at the first peak; the grid
    # tries all.
    np.testing.assert_allclose(tuned.qualities[:-1], tried, rtol=0.05)
    assert tuned.temperature == config.temperatures[int(np.argmax(tuned.qualities[:-1]))]


def test_larger_rows_have_to_be_worth_their_bytes() -> None:
    data = make_data()
    free = dataclasses.replace(SMALL, embedding_dim=None, temperature=0.2)
    for least_gain in (0.0, 10.0):
        config = TuningConfig(embedding_dims=(2, 8, 9), least_gain=least_gain)
        tuned = choose_settings(data, config, free)
        print(least_gain, tuned)
        found = tuned.qualities[:-1]
        if least_gain:
            assert tuned.embedding_dim == 2
            assert len(found) == 2
        else:
            assert tuned.embedding_dim == (2, 8, 9)[int(np.argmax(found))] > 2
    assert choose_settings(data, TuningConfig(), SMALL).embedding_dim == 8


def test_what_is_popular_of_late_counts_where_it_is_what_comes_next() -> None:
    seed = 5
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    # What was in fashion for a long time, items 0 to 29, is not any more: items 30 to 59 are.
    users = np.repeat(np.arange(200), 20)
    late = np.tile(np.arange(20) >= 15, 200)
    items = rng.integers(0, 30, len(users)) + 30 * late
    made = Interactions(
        users, items, late + rng.random(len(users)), IdMap(np.arange(200)), IdMap(np.arange(100))
    ).deduplicated()
    data = TrainingData(made.csr(), 100, None, made.csr_timestamps())
    settings = TuningConfig(temperatures=(0.2,))
    by_time = choose_settings(data, settings, SMALL, method="time")
    at_random = choose_settings(data, settings, SMALL, method="random")
    print(by_time, at_random)
    assert sum(by_time.prior[1:]) > 0.1
    assert sum(by_time.prior[1:]) > sum(at_random.prior[1:])


def test_settings_that_are_given_are_kept() -> None:
    data = make_data()
    given = dataclasses.replace(SMALL, prior=(0.3,))
    tuned = choose_settings(data, TuningConfig(temperatures=(0.1, 0.2)), given)
    assert tuned.prior == (0.3,)
    assert len(tuned.qualities) == 2
    given = dataclasses.replace(SMALL, temperature=0.17)
    tuned = choose_settings(data, TuningConfig(), given)
    assert tuned.temperature == 0.17
    assert len(tuned.qualities) == 1


def test_finished_trainings_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(times=True)
    config = TuningConfig(temperatures=(0.05, 0.1, 0.2, 0.4))
    expected = choose_settings(data, config, SMALL, method="last")
    total = len(expected.qualities)
    assert total >= 3
    saved: list[dict[str, np.ndarray]] = []
    loaded = [0]

    class Memory:
        def load(self) -> dict[str, np.ndarray] | None:
            return saved[loaded[0] - 1] if loaded[0] else None

        def save(self, state) -> None:
            saved.append(dict(state))

    assert same(choose_settings(data, config, SMALL, method="last", checkpoint=Memory()), expected)
    trained: list[float | None] = []

    def note(*arguments, **options) -> PretrainedVectors:
        trained.append(arguments[2].temperature)
        return pretrain(*arguments, **options)

    monkeypatch.setattr(tuning, "pretrain", note)
    for count in (total - 2, total - 1, total):
        loaded[0] = count
        trained.clear()
        again = choose_settings(data, config, SMALL, method="last", checkpoint=Memory())
        assert len(trained) == total - count
        assert trained[-1:] in ([], [expected.temperature])
        assert same(again, expected)


def test_a_prior_that_is_given_fits_the_features() -> None:
    one = dataclasses.replace(SMALL, temperature=0.2, prior=(0.1, 0.2))
    with pytest.raises(ValueError, match=r"prior must have at most 1 weights.*without timestamps"):
        choose_settings(make_data(), TuningConfig(), one)
    assert choose_settings(make_data(times=True), TuningConfig(), one).prior == (0.1, 0.2)
    none = dataclasses.replace(SMALL, prior=())
    tuned = choose_settings(make_data(), TuningConfig(temperatures=(0.1, 0.2)), none)
    assert tuned.prior == ()


def test_one_moment_is_no_order_to_hold_out_by() -> None:
    data = make_data()
    moment = dataclasses.replace(data, timestamps=np.full(len(data.lists.items), 7.0))
    for method in ("time", "last"):
        left, held_out = moment.hold_out(method, 0.2, 0)
        expected = data.hold_out("random", 0.2, 0)
        assert np.array_equal(held_out.items, expected[1].items)
        assert np.array_equal(left.lists.items, expected[0].lists.items)


def same(one: Tuned, other: Tuned) -> bool:
    return (
        one.temperature == other.temperature
        and one.prior == other.prior
        and np.array_equal(one.qualities, other.qualities)
    )


@pytest.mark.parametrize(
    ("lists", "temperatures", "expected"),
    [
        ([[0, 1], [2]], (0.3,), 0.3),  # nothing to choose
        ([[0], [1]], (0.3, 0.4), 0.1),  # nothing to choose by
        ([], (0.3, 0.4), 0.1),
    ],
)
def test_nothing_to_choose(lists: list[list[int]], temperatures, expected: float) -> None:
    tuned = choose_settings(
        TrainingData(ItemLists.from_lists(lists), 3), TuningConfig(temperatures=temperatures), SMALL
    )
    assert tuned.temperature == expected
    assert tuned.prior == pytest.approx((0.25 * expected,))


def test_a_judge_of_nobody_keeps_the_weights_to_begin_with() -> None:
    data, chosen = make_data(), {}
    nothing = ItemLists.from_lists([[]] * len(data.lists))
    judge = ListJudge.of(data, TuningConfig(), "random", nothing, "cpu")
    users, items = (np.ones((count, 4), np.float32) for count in (len(data.lists), 150))
    prior = make_chooser(judge, [0.05], chosen)(users, items)
    assert chosen == {"prior_weights": [0.05]}
    counts = np.bincount(data.lists.items, minlength=150)
    np.testing.assert_allclose(prior, 0.05 * np.log(counts.clip(1)), rtol=1e-6)


def test_progress_runs_over_all_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[int, int]] = []
    config = TuningConfig(temperatures=(0.1, 0.2), epochs=2)
    choose_settings(
        make_data(), config, SMALL, on_progress=lambda done, total, _: reports.append((done, total))
    )
    assert reports == [(done, 28) for done in range(1, 29)]  # 2, 2 and 3 epochs of 4 steps
    reports.clear()
    qualities = iter((0.3, 0.2, 0.3))  # the second temperature is worse than the first
    monkeypatch.setattr(tuning, "choose_prior", lambda *_, **__: ([0.0], next(qualities)))
    config = TuningConfig(temperatures=(0.1, 0.2, 0.3, 0.4), epochs=1)
    choose_settings(
        make_data(), config, SMALL, on_progress=lambda done, total, _: reports.append((done, total))
    )
    done = [*range(1, 9), *range(17, 29)]  # two of four temperatures were needless
    assert reports == [(each, 28) for each in done]


def test_held_out_items_are_the_rest(seed: int) -> None:
    data = make_data()
    left, held_out = hold_out(data.lists, data.num_items, 0.25, seed)
    for parts, whole in zip(zip(left, held_out, strict=True), data.lists, strict=True):
        assert sorted(np.concatenate(parts)) == whole.tolist()
        assert len(parts[1]) == min(max(round(0.25 * sum(map(len, parts))), 1), len(parts[0]))


def test_some_of_many_users_are_drawn(seed: int) -> None:
    users = np.arange(0, 30, 3)
    assert draw_users(users, 10, seed).tolist() == users.tolist()
    drawn = draw_users(users, 4, seed)
    assert np.array_equal(drawn, np.unique(drawn))
    assert len(drawn) == 4
    assert set(drawn) <= set(users)


@pytest.mark.parametrize(
    "change",
    [
        {"temperatures": ()},
        {"temperatures": (0.1, -1.0)},
        {"temperatures": (0.2, 0.1)},
        {"temperatures": 0.1},
        {"embedding_dims": (1, 64)},
        {"embedding_dims": ()},
        {"least_gain": -0.1},
        {"prior_epochs": 0},
        {"validation_share": 1.0},
        {"epochs": 0},
        {"max_users": 0},
    ],
)
def test_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TuningConfig(**change)
