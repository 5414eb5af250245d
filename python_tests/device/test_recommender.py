"""DeviceRecommender: files, budgets, users and what can go wrong with them."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext import _core
from peel_ext.device import (
    DeviceRecommender,
    PersonalizedElasticEmbedding,
    average_user,
    fold_in_softmax,
    fold_in_users,
)
from peel_ext.errors import (
    BudgetError,
    ClosedError,
    DataError,
    FormatError,
    SourceError,
    UnknownUserWarning,
)
from peel_ext.format import (
    EncodedRows,
    FoldInSettings,
    GroupTable,
    Layout,
    pack_prefix,
    unpack_embedding,
    write_file,
)

ROWS, DIM = 600, 16
NAMES = [f"item-{row}" for row in range(ROWS)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 600 rows, with centroids and without ids."""
    rng = np.random.default_rng(0)
    table = draw_table(LAYOUTS[0], rng, ROWS, DIM)
    centroids = rng.normal(size=(4, DIM)).astype(np.float32)
    write_file(tmp_path / "a.peel", table, centroids=centroids)
    return tmp_path / "a.peel"


def plain_rows(path: Path, budget_bytes: int | None = None) -> np.ndarray:
    """Decoded rows [ROWS, DIM], zero where not held."""
    plain = unpack_embedding(path.read_bytes(), budget_bytes)
    rows = np.zeros((plain.num_embeddings, plain.rows.shape[1]), np.float32)
    rows[plain.ids] = plain.rows
    return rows


def plain_fold_in(
    rows: np.ndarray,
    history: np.ndarray,
    steps: int,
    step_size: float,
    temperature: float,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The formula of peel_ext.device.fold_in in float64, row by row; weights [n] of the softmax."""
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    counts = np.ones(len(rows)) if weights is None else weights
    units = rows[lengths > 0] / lengths[lengths > 0, None]
    mean = np.zeros(rows.shape[1])
    known = [row for row in rows[history] if np.any(row)]
    for row in known:
        mean += row / np.linalg.norm(row) / len(known)
    user = mean / np.linalg.norm(mean)
    for _ in range(steps):
        share = counts[lengths > 0] * np.exp(units @ user / temperature)
        gradient = (share @ units / share.sum() - mean) / temperature
        user = user - step_size * gradient
        user /= np.linalg.norm(user)
    return user


# ---- recommending ----


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_answers_are_those_of_the_plain_reader(layout: Layout, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "a.peel"
    write_file(path, draw_table(layout, rng, ROWS, DIM))
    for budget in (None, 12_000, 7_000):
        rows = plain_rows(path, budget)
        held = np.flatnonzero(np.any(rows, axis=1))
        with DeviceRecommender.open(path, budget) as recommender:
            assert recommender.nbytes == unpack_embedding(path.read_bytes(), budget).nbytes
            user = rng.normal(size=DIM).astype(np.float32)
            exclude = rng.choice(ROWS, 30)
            items, scores = recommender.recommend(user=user, n=10, exclude=exclude)
            allowed = np.setdiff1d(held, exclude)
            want = rows[allowed] @ user
            order = np.argsort(-want, kind="stable")[:10]
            assert isinstance(items, np.ndarray)
            assert items.tolist() == allowed[order].tolist()
            assert np.allclose(scores, want[order], rtol=1e-5, atol=1e-6)
            got = recommender.score_items(np.arange(ROWS), user=user)
            assert np.allclose(got, rows @ user, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_fold_in_is_the_formula(layout: Layout, steps: int, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "a.peel"
    settings = FoldInSettings(steps, 0.03, 0.1)
    write_file(path, draw_table(layout, rng, ROWS, DIM), fold_in=settings)
    for budget in (None, 12_000):
        rows = plain_rows(path, budget)
        history = [*rng.choice(ROWS, 8), *np.flatnonzero(np.any(rows, axis=1))[:2]]
        history.append(history[0])  # twice counts twice
        with DeviceRecommender.open(path, budget) as recommender:
            user = recommender.fold_in(history)
            want = plain_fold_in(rows, np.array(history), steps, 0.03, 0.1)
            assert np.allclose(user, want, atol=2e-5)
            server = fold_in_softmax(rows, history, steps=steps)
            assert np.allclose(user, server, atol=2e-5)
            items, _ = recommender.recommend(history, n=ROWS)
            by_vector, _ = recommender.recommend(user=user, n=ROWS, exclude=history)
            assert np.array_equal(items, by_vector)
            assert not set(items) & set(history)


@pytest.mark.parametrize("num_rows", [2_048, 2_049, 4_500])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_fold_in_over_a_sample_of_many_rows(
    layout: Layout, num_rows: int, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    path, dim = tmp_path / "a.peel", 24
    write_file(path, draw_table(layout, rng, num_rows, dim))
    for share in (1.0, 0.9):
        budget = int(share * path.stat().st_size)
        unpacked = unpack_embedding(path.read_bytes(), budget)
        in_order = unpacked.ids[unpacked.held != 0]
        count = len(in_order)
        weights = np.zeros(num_rows)
        weights[in_order] = 1
        if count > 2_048:
            first, parts = (1024, 64) if layout.nested else (0, 128)
            weights[in_order[first:]] = 0
            for part in range(parts):  # its middle 16 rows
                middle = first + int((part + 0.5) * (count - first) / parts)
                weights[in_order[middle - 8 : middle + 8]] = (count - first) / (2048 - first)
        history = rng.choice(num_rows, 8)
        with DeviceRecommender.open(path, budget) as recommender:
            got = recommender.fold_in(history)
        rows = plain_rows(path, budget)
        assert np.allclose(got, plain_fold_in(rows, history, 20, 0.03, 0.1, weights), atol=2e-5)
        pee = PersonalizedElasticEmbedding(path.read_bytes(), budget)
        lists = held_positions(pee.row_ids, history)
        server = fold_in_users(rows[pee.row_ids], [0, len(lists)], lists, sample=pee.row_sample)
        assert np.allclose(got, server[0], atol=2e-5)


def held_positions(ids: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Positions in ascending ids of the items that are among them."""
    return np.searchsorted(ids, items[np.isin(items, ids)])


def test_a_vector_goes_on(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = plain_rows(path, 4_000)
    held, missing = np.flatnonzero(np.any(rows, axis=1)), np.flatnonzero(~np.any(rows, axis=1))
    with DeviceRecommender.open(path, 4_000) as recommender:
        user = rng.normal(size=DIM)
        user /= np.linalg.norm(user)
        new = [held[0], held[1], missing[0]]
        folded = plain_fold_in(rows, np.array(new), 20, 0.03, 0.1)
        want = 0.7 * user + 0.3 * folded
        got = recommender.continue_vector(user, 7, new)
        assert np.allclose(got, want / np.linalg.norm(want), atol=2e-5)
        same = recommender.continue_vector(user, 7, missing[:3])
        assert np.array_equal(same, user.astype(np.float32))
        assert np.array_equal(recommender.continue_vector(user, 7, []), user.astype(np.float32))


def test_a_user_of_whom_nothing_is_known_is_the_average_one(path: Path) -> None:
    centroids = np.random.default_rng(0)
    draw_table(LAYOUTS[0], centroids, ROWS, DIM)
    own = centroids.normal(size=(4, DIM)).astype(np.float32)[0]
    with DeviceRecommender.open(path, 6_000) as recommender:
        missing = np.flatnonzero(~np.any(plain_rows(path, 6_000), axis=1))[:3]
        items, _ = recommender.recommend(missing)
        assert np.array_equal(items, recommender.recommend(user=own)[0])
        assert np.array_equal(recommender.recommend([])[0], items)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("prior", [0.0, 0.4])
@pytest.mark.parametrize("num_rows", [ROWS, 3_000])
def test_without_centroids_the_average_user_of_what_is_held(
    num_rows: int, prior: float, layout: Layout, seed: int, tmp_path: Path
) -> None:
    table = draw_table(layout, np.random.default_rng(seed), num_rows, DIM)
    path = tmp_path / "a.peel"
    write_file(path, table, fold_in=FoldInSettings(prior=prior))
    pee = PersonalizedElasticEmbedding(path.read_bytes())
    rows = pee.lookup(pee.row_ids)
    user = average_user(rows, prior=prior, sample=pee.row_sample)
    assert prior or np.isclose(np.linalg.norm(user), 1)
    if num_rows == ROWS:  # all rows count once
        tastes = rows - rows.mean(axis=1, keepdims=True) if prior else rows
        mean = (tastes / np.linalg.norm(tastes, axis=1, keepdims=True)).mean(axis=0)
        want = mean / np.linalg.norm(mean) + prior / np.sqrt(DIM)
        assert np.allclose(user, want, atol=1e-5)
        assert np.allclose(average_user(rows, prior=prior), want, atol=1e-5)
    with DeviceRecommender.open(path) as recommender:
        with pytest.warns(UnknownUserWarning, match="average user of what is held") as told:
            items, scores = recommender.recommend([], n=20)
        assert [warning.filename for warning in told] == [__file__]
        by_vector = recommender.recommend(user=user, n=20)
        assert np.allclose(scores, by_vector[1], atol=1e-4)
        assert len(set(items) & set(by_vector[0])) >= 18
        with pytest.warns(UnknownUserWarning, match="average user of what is held"):
            again = recommender.recommend([], n=20, exclude=items[:3])[0]
        assert np.array_equal(again[:17], items[3:])


def test_centroids_that_have_not_arrived_are_done_without(path: Path) -> None:
    data = path.read_bytes()
    with DeviceRecommender.open(data[:-1], item_ids=False) as recommender:
        with pytest.warns(UnknownUserWarning, match="average user of what is held"):
            assert len(recommender.recommend([], n=20)[0]) == 20
        with pytest.raises(FormatError, match="cut short"):
            recommender.choose_group(np.ones(DIM))


def test_groups_are_chosen_by_centroid(path: Path) -> None:
    rng = np.random.default_rng(0)
    draw_table(LAYOUTS[0], rng, ROWS, DIM)
    centroids = rng.normal(size=(4, DIM)).astype(np.float32)
    with DeviceRecommender.open(path) as recommender:
        for user in np.random.default_rng(1).normal(size=(20, DIM)):
            assert recommender.choose_group(user) == np.argmax(centroids @ user)


@pytest.mark.parametrize("names", [NAMES, list(range(ROWS, 0, -1))])
def test_items_go_by_their_ids(names: list, tmp_path: Path) -> None:
    path = tmp_path / "a.peel"
    write_file(path, draw_table(LAYOUTS[0], np.random.default_rng(0), ROWS, DIM), item_ids=names)
    with (
        DeviceRecommender.open(path) as named,
        DeviceRecommender.open(path, item_ids=False) as plain,
    ):
        rows, scores = plain.recommend([3, 5], n=7, exclude=[9])
        items, same = named.recommend([names[3], names[5]], n=7, exclude=[names[9]])
        assert items == [names[row] for row in rows]
        assert np.array_equal(scores, same)
        assert np.array_equal(
            named.score_items([names[1]], history=[names[3]]), plain.score_items([1], history=[3])
        )
        with pytest.raises(DataError, match="item 'nobody' is not known"):
            named.recommend(["nobody"])


def test_n_above_what_is_held_gives_what_is_held(path: Path) -> None:
    with DeviceRecommender.open(path, 3_000) as recommender:
        held = np.flatnonzero(np.any(plain_rows(path, 3_000), axis=1))
        items, scores = recommender.recommend(user=np.ones(DIM), n=10_000)
        assert np.array_equal(np.sort(items), held)
        assert np.isfinite(scores).all()


# ---- the promises ----


def test_r5_growing_reads_only_what_is_missing(path: Path) -> None:
    data = path.read_bytes()
    spans: list[tuple[int, int]] = []

    class Recording(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            spans.append((self.tell(), self.tell() + (size or 0)))
            return super().read(size)

    with DeviceRecommender.open(Recording(data), 8_000) as recommender:
        assert (
            sum(end - begin for begin, end in spans) <= 8_000 + 128
        )  # header, and what lies behind
        held = unpack_embedding(data, 8_000)
        end = recommender._file.pee().prefix_bytes
        spans.clear()
        recommender.resize(5_000)
        assert spans == []
        recommender.resize(14_000)
        small = DeviceRecommender.open(path, 5_000)._file.pee().prefix_bytes
        assert spans[0][0] == small
        assert sum(end - begin for begin, end in spans) <= 14_000 - small
        assert recommender.nbytes == unpack_embedding(data, 14_000).nbytes
        assert end > small
        assert held.nbytes <= 8_000


def test_r7_every_answer_is_that_of_one_budget(path: Path) -> None:
    budgets = [4_000, 6_000, 9_000, 16_000]
    user = np.random.default_rng(1).normal(size=DIM)
    legal = set()
    with DeviceRecommender.open(path) as recommender:
        for budget in budgets:
            recommender.resize(budget)
            legal.add(recommender.recommend(user=user, n=50)[1].tobytes())
        assert len(legal) == len(budgets)
        wrong: list[bytes] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                answer = recommender.recommend(user=user, n=50)[1].tobytes()
                if answer not in legal:
                    wrong.append(answer)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for round in range(300):
            recommender.resize(budgets[round * 7 % 4])
        done.set()
        for reader in readers:
            reader.join()
        assert not wrong


def test_r9_threads_and_runs_agree_and_ties_go_by_id(path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    table = draw_table(LAYOUTS[0], rng, 4_000, DIM)
    twins = table.rows.store
    twins[2000:] = twins[:2000]
    table.rows.scales[2000:] = table.rows.scales[:2000]
    write_file(tmp_path / "b.peel", table)
    user = rng.normal(size=DIM)
    answers = []
    before = _core.num_threads()
    try:
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            with DeviceRecommender.open(tmp_path / "b.peel") as recommender:
                answers.append(recommender.recommend(user=user, n=40))
                answers.append(recommender.recommend(user=user, n=40))
    finally:
        _core.set_num_threads(before)
    for items, scores in answers:
        assert np.array_equal(items, answers[0][0])
        assert np.array_equal(scores, answers[0][1])
    items = np.asarray(answers[0][0]).reshape(-1, 2)  # twins side by side, the lower id first
    assert np.array_equal(items[:, 0] + 2000, items[:, 1])


@pytest.mark.parametrize("isa", _core.isas())
def test_r9_instruction_sets_agree_within_rounding(isa: str, path: Path) -> None:
    code = (
        "import sys, numpy as np; from peel_ext.device import DeviceRecommender;"
        "r = DeviceRecommender.open(sys.argv[1], 12_000);"
        f"items, scores = r.recommend(user=np.linspace(-1, 1, {DIM}), n=100);"
        "folded = r.fold_in([int(i) for i in items[:5]]);"
        "print(*items[:20], *scores, *folded)"
    )
    run = partial(subprocess.run, [sys.executable, "-P", "-c", code, str(path)], check=True,
                  capture_output=True, text=True)  # fmt: skip
    want = np.array(run(env={**os.environ, "PEEL_ISA": "portable"}).stdout.split(), float)
    got = np.array(run(env={**os.environ, "PEEL_ISA": isa}).stdout.split(), float)
    assert np.allclose(got, want, rtol=1e-5, atol=1e-6)


# ---- rotated rows ----


def rotated_table(seed: int) -> tuple[GroupTable, np.ndarray, np.ndarray]:
    """A table of rotated rows, the rows [ROWS, DIM] before, and the rotation."""
    rng = np.random.default_rng(seed)
    table = draw_table(LAYOUTS[0], rng, ROWS, DIM)
    weight = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    rows = EncodedRows(*table.layout.encode(weight @ rotation))
    return dataclasses.replace(table, rows=rows, rotated=True), weight, rotation


def test_a_vector_of_the_models_space_is_rotated_on_the_device(seed: int, tmp_path: Path) -> None:
    table, weight, rotation = rotated_table(seed)
    write_file(tmp_path / "a.peel", table, rotation=rotation)
    user = np.random.default_rng(seed + 1).normal(size=DIM).astype(np.float32)
    best = set(np.argsort(-weight @ user)[:20].tolist())
    with DeviceRecommender.open(tmp_path / "a.peel") as recommender:
        assert recommender.rotated
        items, scores = recommender.recommend(user=user, rotated=False, n=20)
        assert len(best & set(items.tolist())) >= 15  # but for the rounding of 8 bits
        turned = recommender.rotate(user)
        assert np.allclose(turned, user @ rotation, atol=1e-5)
        again = recommender.recommend(user=turned, rotated=True, n=20)
        assert np.array_equal(again[0], items)
        assert np.array_equal(again[1], scores)
        assert np.allclose(
            recommender.score_items(items, user=user, rotated=False), scores, atol=1e-4
        )
        both = recommender.rotate(np.stack([user, user])[None])
        assert both.shape == (1, 2, DIM)
        assert np.allclose(both[0, 1], turned, atol=1e-6)
        recommender.recommend([1, 2], n=3)  # what is folded in needs no word


def test_a_vector_that_may_be_of_either_space_is_refused(seed: int, tmp_path: Path) -> None:
    table, _, rotation = rotated_table(seed)
    write_file(tmp_path / "a.peel", table, rotation=rotation)
    write_file(tmp_path / "without.peel", table)
    user = np.ones(DIM)
    for name in ("a.peel", "without.peel"):
        with DeviceRecommender.open(tmp_path / name) as recommender:
            with pytest.raises(
                ValueError, match="rotated must be given with user, because the rows"
            ):
                recommender.recommend(user=user)
            with pytest.raises(
                ValueError, match="rotated must be given with user, because the rows"
            ):
                recommender.score_items([1], user=user)
            assert len(recommender.recommend(user=user, rotated=True)[0]) == 20
    with DeviceRecommender.open(tmp_path / "without.peel") as recommender:
        assert recommender.rotated
        for turn in (
            lambda: recommender.rotate(user),
            lambda: recommender.recommend(user=user, rotated=False),
        ):
            with pytest.raises(
                FormatError, match="does not carry the rotation: rotate vectors before"
            ):
                turn()


def test_rows_that_are_not_rotated_take_vectors_as_they_are(path: Path) -> None:
    user = np.linspace(-1, 1, DIM)
    with DeviceRecommender.open(path) as recommender:
        assert not recommender.rotated
        assert np.array_equal(recommender.rotate(user), user.astype(np.float32))
        want = recommender.recommend(user=user)[1]
        for rotated in (False, True):
            assert np.array_equal(recommender.recommend(user=user, rotated=rotated)[1], want)
        with pytest.raises(ValueError, match=r"vectors must be finite and have shape \(..., 16\)"):
            recommender.rotate(np.ones(DIM + 1))


def test_a_rotation_that_cannot_be_trusted_is_refused(seed: int, tmp_path: Path) -> None:
    table, _, rotation = rotated_table(seed)
    write_file(tmp_path / "a.peel", table, rotation=rotation)
    data = (tmp_path / "a.peel").read_bytes()
    damaged = bytearray(data)
    damaged[-1] ^= 1
    for torn, says in ((bytes(damaged), "checksum of section 3"), (data[:-64], "cut short")):
        with DeviceRecommender.open(torn, item_ids=False) as recommender:
            with pytest.raises(FormatError, match=says):
                recommender.rotate(np.ones(DIM))
            assert len(recommender.recommend(user=np.ones(DIM), rotated=True)[0]) == 20


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_r10_module_generated_and_exported_agree(layout: Layout, seed: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from peel_ext import ElasticEmbedding

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(150, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(weight, num_groups=3, layout=layout)
    module.set_row_values(torch.rand(3, 150, generator=generator))
    if layout.nested:
        module.fit_rotation()
    module.refine_rows(1, torch.arange(0, 150, 7))
    assert module.refinement is not None
    with torch.no_grad():
        module.refinement.normal_(generator=generator)
    path = tmp_path / "a.peel"
    module.export(path, group=1)
    whole = path.read_bytes()
    least = module.minimum_budget_bytes(1)
    assert DeviceRecommender.open(path, least).nbytes == least
    with DeviceRecommender.open(path) as opened:
        for budget in (least - 1, -1):
            for hold in (
                partial(DeviceRecommender.open, path),
                partial(PersonalizedElasticEmbedding, whole),
                opened.resize,
            ):
                with pytest.raises(BudgetError, match=f"^budget_bytes is {budget}, but") as caught:
                    hold(budget)
                assert caught.value.minimum_bytes == least
    ids = np.arange(150)
    for budget in [least + 8, *range(least, len(whole) + 6_000, 1_111)]:
        generated = module.generate(1, budget)
        opened = DeviceRecommender.open(path, budget)
        assert generated.nbytes == opened.nbytes <= budget
        assert whole.startswith(generated.buffer.tobytes())
        rows = opened._file.pee()
        assert rows.prefix_bytes == len(generated.buffer)
        torn = PersonalizedElasticEmbedding(whole[: rows.prefix_bytes + 5])
        assert np.array_equal(torn.lookup(ids), generated.lookup(ids))
        with module.budget(max(budget, *(module.minimum_budget_bytes(g) for g in range(3)))):
            if module.budget_bytes == budget:
                seen = module(torch.from_numpy(ids), groups=1)
                assert torch.allclose(
                    module.rotate(seen), torch.from_numpy(generated.lookup(ids)), atol=1e-5
                )


_PEAK = """
import resource, sys
from peel_ext.device import DeviceRecommender
import numpy as np
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = DeviceRecommender.open(sys.argv[1], 100_000)
small.recommend(user=np.ones(64), n=10)
before = peak()
r = DeviceRecommender.open(sys.argv[1], int(sys.argv[2]))
r.recommend(user=np.ones(64), n=10)
print(peak() - before, r.nbytes)
"""


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("budget", [1 << 20, 16 << 20])
def test_memory_from_outside_is_what_nbytes_says(budget: int, tmp_path: Path) -> None:
    """A file of 64 MB; beyond nbytes at most 1 MiB, most of it the block list of opening."""
    from peel_ext.format import EncodedRows, GroupTable, PlanesLayout

    layout, num_rows = PlanesLayout(), 900_000
    rng = np.random.default_rng(0)
    store = rng.integers(0, 256, (num_rows, 64), dtype=np.uint8)
    scales = np.ones((num_rows, 1), np.float16)
    sizes = layout.item_group_sizes(num_rows)
    groups = np.split(np.arange(num_rows), np.cumsum(sizes)[:-1])
    order = np.arange(len(sizes) * 5).reshape(-1, 5).ravel()
    path = tmp_path / "large.peel"
    table = GroupTable(layout, 64, EncodedRows(store, scales), groups, order)
    path.write_bytes(pack_prefix(table).tobytes())
    assert path.stat().st_size > 60e6
    command = [sys.executable, "-P", "-c", _PEAK, str(path), str(budget)]
    grown, nbytes = map(
        int, subprocess.run(command, check=True, capture_output=True).stdout.split()
    )
    assert 0.9 * budget < nbytes <= budget
    assert grown < nbytes + (1 << 20)


# ---- servers ----


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    made = Server(path.read_bytes())
    yield made
    made.close()


def test_a_server_sends_only_what_is_held(server: Server, path: Path) -> None:
    with DeviceRecommender.open(server.url, 8_000) as recommender:
        total = sum(end - begin for begin, end in server.sent)
        assert total <= 8_000 + 128
        assert len(server.sent) == 3  # header, blocks, and what lies behind them
        user = np.ones(DIM)
        with DeviceRecommender.open(path, 8_000) as local:
            assert np.array_equal(
                recommender.recommend(user=user)[0], local.recommend(user=user)[0]
            )
        server.sent.clear()
        recommender.resize(6_000)
        assert server.sent == []
        held = recommender._file.pee().prefix_bytes
        recommender.resize(12_000)
        assert min(begin for begin, _ in server.sent) == held
        assert sum(end - begin for begin, end in server.sent) <= 12_000 - held


def test_what_a_server_can_do_wrong(server: Server) -> None:
    with pytest.raises(SourceError, match="the server answers 404"):
        DeviceRecommender.open(server.url + "x", 8_000)
    recommender = DeviceRecommender.open(server.url, 6_000)
    before = recommender.nbytes
    server.tag = "two"
    with pytest.raises(SourceError, match="another file than the one opened"):
        recommender.resize(9_000)
    assert recommender.nbytes == before
    server.ranges = False
    with pytest.raises(SourceError, match="the server answers no ranges"):
        DeviceRecommender.open(server.url, 8_000)
    server.close()
    with pytest.raises(SourceError, match="cannot be read"):
        DeviceRecommender.open(server.url, 8_000)
    assert len(recommender.recommend(user=np.ones(DIM))[0]) > 0


def test_a_cache_fetches_nothing_twice(server: Server, path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.peel"
    user = np.ones(DIM)
    with DeviceRecommender.open(server.url, 9_000, cache=cache) as recommender:
        server.sent.clear()
        for budget in (5_000, 9_000, 3_000, 8_000):
            recommender.resize(budget)
            with DeviceRecommender.open(path, budget) as local:
                want = local.recommend(user=user)[0]
            assert np.array_equal(recommender.recommend(user=user)[0], want)
        assert server.sent == []
        held = cache.stat().st_size
        recommender.resize(14_000)
        assert [begin for begin, _ in server.sent] == [held]
    server.sent.clear()
    with DeviceRecommender.open(server.url, 14_000, cache=cache):
        assert sum(end - begin for begin, end in server.sent) <= 128  # is it still the same file?
    assert path.read_bytes().startswith(cache.read_bytes())
    with DeviceRecommender.open(cache, 9_000, item_ids=False) as offline:
        with DeviceRecommender.open(path, 9_000) as local:
            want = local.recommend(user=user)[0]
        assert np.array_equal(offline.recommend(user=user)[0], want)
    other = bytearray(cache.read_bytes())
    other[20] ^= 1  # of another file
    cache.write_bytes(other)
    with DeviceRecommender.open(server.url, 5_000, cache=cache) as recommender:
        assert recommender.nbytes <= 5_000
    with pytest.raises(SourceError, match="cannot be a cache"):
        DeviceRecommender.open(server.url, 5_000, cache=tmp_path)
    cache.write_bytes(b"my notes")
    with pytest.raises(SourceError, match="cannot be a cache: it holds something else"):
        DeviceRecommender.open(server.url, 5_000, cache=cache)
    assert cache.read_bytes() == b"my notes"
    with pytest.raises(TypeError, match="cache must be a path, got 0"):
        DeviceRecommender.open(server.url, 5_000, cache=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cache is for files on a server"):
        DeviceRecommender.open(path, 5_000, cache=cache)


# ---- what can go wrong ----


def test_a_file_replaced_or_shortened_underneath(path: Path, tmp_path: Path) -> None:
    recommender = DeviceRecommender.open(path, 6_000)
    user = np.ones(DIM)
    want = recommender.recommend(user=user)[0]
    other = draw_table(LAYOUTS[0], np.random.default_rng(9), ROWS, DIM)
    write_file(path, other)  # renamed over: the file that is open is still the old one
    recommender.resize(9_000)
    recommender.resize(6_000)
    assert np.array_equal(recommender.recommend(user=user)[0], want)
    second = DeviceRecommender.open(path, 6_000)
    with path.open("r+b") as file:  # overwritten in place by a third
        third = draw_table(LAYOUTS[0], np.random.default_rng(10), ROWS, DIM)
        file.write(pack_prefix(third).tobytes())
    with pytest.raises(FormatError, match="damaged, or no longer the file that was opened"):
        second.resize(9_000)
    os.truncate(path, 7_000)
    with pytest.raises(SourceError, match="was shortened while in use"):
        second.resize(12_000)
    assert second.nbytes <= 6_000
    assert len(second.recommend(user=user)[0]) == 20


def test_two_recommenders_on_one_file(path: Path) -> None:
    with DeviceRecommender.open(path) as one, DeviceRecommender.open(path, 5_000) as two:
        two.resize(4_000)
        assert one.nbytes > two.nbytes
        one.close()
        assert len(two.recommend(user=np.ones(DIM), n=3)[0]) == 3


def test_a_damaged_cache_heals(server: Server, path: Path, tmp_path: Path) -> None:
    cache, whole = tmp_path / "cache.peel", path.read_bytes()
    with DeviceRecommender.open(path) as recommender:
        expected = recommender.recommend(user=np.ones(DIM))
        everything = recommender.nbytes

    def answers_right(recommender: DeviceRecommender) -> bool:
        found = recommender.recommend(user=np.ones(DIM))
        return np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])

    # What the server once sent wrong is not kept.
    with DeviceRecommender.open(server.url, 9_000, cache=cache) as recommender:
        server.data = whole[:12_000] + bytes([whole[12_000] ^ 1]) + whole[12_001:]
        with pytest.raises(FormatError, match="checksum"):
            recommender.resize(None)
        assert recommender.nbytes <= 9_000
        assert 5_000 < len(cache.read_bytes()) <= 9_000  # what was right is kept
        server.data = whole
        recommender.resize(None)
        assert answers_right(recommender)
        kept = cache.read_bytes()
        assert len(kept) > 12_000
        assert whole.startswith(kept)
        server.sent.clear()
        recommender.resize(5_000)
        recommender.resize(None)
        assert server.sent == []
    cache.unlink()
    server.data = whole[:12_000] + bytes([whole[12_000] ^ 1]) + whole[12_001:]
    with pytest.raises(FormatError, match=r"a\.peel: .*checksum"):
        DeviceRecommender.open(server.url, cache=cache)
    server.data = whole
    with DeviceRecommender.open(server.url, cache=cache) as recommender:
        assert recommender.nbytes == everything
        assert answers_right(recommender)
    # A cache that went bad on the disk is fetched again.
    for at in (3_000, 12_000):
        damaged = bytearray(cache.read_bytes())
        damaged[at] ^= 1
        cache.write_bytes(damaged)
        with DeviceRecommender.open(server.url, cache=cache) as recommender:
            assert answers_right(recommender)
        assert whole.startswith(cache.read_bytes())
    # Ids and centroids are not kept, so they cannot go bad.
    with DeviceRecommender.open(server.url, cache=cache) as recommender:
        recommender.recommend([])
        assert whole.startswith(cache.read_bytes())
        assert cache.read_bytes() == kept
    # Of what is no such file nothing is kept, and what is there stays.
    server.data = b"no such file" * 100
    with pytest.raises(FormatError, match=r"not a \.peel file"):
        DeviceRecommender.open(server.url, cache=cache)
    assert cache.read_bytes() == kept
    server.data = whole
    cache.write_bytes(whole[:3])  # killed while it began
    with DeviceRecommender.open(server.url, cache=cache) as recommender:
        assert answers_right(recommender)


def test_a_cache_serves_one_at_a_time(server: Server, path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.peel"
    with DeviceRecommender.open(server.url, 9_000, cache=cache) as recommender:
        with pytest.raises(SourceError, match="cannot be a cache: it is in use as one"):
            DeviceRecommender.open(server.url, 5_000, cache=cache)
        recommender.resize(14_000)
    with DeviceRecommender.open(server.url, 5_000, cache=cache) as recommender:
        recommender.resize(None)
    whole = path.read_bytes()
    cache.unlink()
    server.data = whole[:12_000] + bytes([whole[12_000] ^ 1]) + whole[12_001:]
    try:
        DeviceRecommender.open(server.url, cache=cache)
    except FormatError:  # whose traceback holds what failed
        server.data = whole
        DeviceRecommender.open(server.url, cache=cache).close()
    else:
        pytest.fail("a damaged block was taken")
    assert path.read_bytes().startswith(cache.read_bytes())


def test_a_budget_beyond_64_bits_is_all_there_is(path: Path) -> None:
    with DeviceRecommender.open(path, 2**64) as recommender:
        everything = recommender.nbytes
        recommender.resize(9_000)
        recommender.resize(2**63)
        assert recommender.nbytes == everything


def test_a_closed_recommender_says_so(path: Path) -> None:
    recommender = DeviceRecommender.open(path)
    recommender.close()
    recommender.close()
    for call in (
        lambda: recommender.recommend([1]),
        lambda: recommender.score_items([1], history=[1]),
        lambda: recommender.resize(5_000),
        lambda: recommender.nbytes,
        lambda: recommender.fold_in([1]),
    ):
        with pytest.raises(ClosedError, match="has been closed"):
            call()


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda r: r.recommend(), ValueError, "history or user must be given, got neither"),
        (
            lambda r: r.recommend([ROWS]),
            IndexError,
            "history[0] is 600, expected an id in [0, 600)",
        ),
        (lambda r: r.recommend([0, -1]), IndexError, "history[1] is -1"),
        (lambda r: r.recommend([2**63]), IndexError, "history[0] is 9223372036854775808"),
        (lambda r: r.recommend([2**70]), TypeError, "history must hold integers of at most 64"),
        (lambda r: r.recommend(["a"]), TypeError, "history must hold integers"),
        (lambda r: r.recommend([1], n=0), ValueError, "n must be an integer of at least 1, got 0"),
        (lambda r: r.recommend([1], exclude=[700]), IndexError, "exclude[0] is 700"),
        (lambda r: r.recommend(user=np.ones(3)), ValueError, f"shape ({DIM},), got (3,)"),
        (lambda r: r.recommend(1), TypeError, "history must be a sequence of items, got 1"),
        (lambda r: r.recommend("7"), TypeError, "history must be a sequence of items, got '7'"),
        (lambda r: r.fold_in(None), TypeError, "history must be a sequence of items, got None"),
        (lambda r: r.recommend(np.array(1)), TypeError, "history must be a sequence of items"),
        (lambda r: r.recommend([[1, 2]]), TypeError, "got int64 of shape (1, 2)"),
        (lambda r: r.continue_vector(np.ones(DIM), "1", [1]), TypeError, "must be an integer"),
        (lambda r: r.continue_vector(np.ones(DIM), 2**63, [1]), ValueError, "below 2^63, got"),
        (
            lambda r: r.recommend(user=np.full(DIM, np.nan)),
            ValueError,
            "user must be finite, user[0] is nan",
        ),
        (lambda r: r.score_items([601], history=[1]), IndexError, "ids[0] is 601"),
        (lambda r: r.continue_vector(np.ones(DIM), -1, [1]), ValueError, "known_count must be"),
        (lambda r: r.resize(100), BudgetError, "budget_bytes is 100, but this file needs at least"),
        (lambda r: r.resize(-1), BudgetError, "budget_bytes is -1"),
        (lambda r: r.resize(1.5), TypeError, "budget_bytes must be an integer, got 1.5"),
    ],
)
def test_rejects(call, error: type[Exception], named: str, path: Path) -> None:
    with DeviceRecommender.open(path) as recommender:
        with pytest.raises(error) as caught:
            call(recommender)
        assert named in str(caught.value)


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened: No such file"):
        DeviceRecommender.open(tmp_path / "none.peel")
    with pytest.raises(SourceError, match="not a file"):
        DeviceRecommender.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="not a file"):
        DeviceRecommender.open(tmp_path / "pipe")  # and does not wait for who writes to it
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FormatError, match=r"text: not a \.peel file"):
        DeviceRecommender.open(str(tmp_path / "text"))
    with pytest.raises(FormatError, match=r"not a \.peel file"):
        DeviceRecommender.open(b"hello")
    with pytest.raises(SourceError, match="cannot seek"):
        DeviceRecommender.open(object())  # type: ignore[arg-type]
    no_centroids = pack_prefix(draw_table(LAYOUTS[0], np.random.default_rng(0), ROWS, DIM))
    recommender = DeviceRecommender.open(no_centroids)
    with pytest.raises(FormatError, match="no centroids to choose a group by"):
        recommender.choose_group(np.ones(DIM))


def test_r3_a_torn_file_goes_by_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.peel"
    write_file(path, draw_table(LAYOUTS[0], np.random.default_rng(0), ROWS, DIM), item_ids=NAMES)
    data = path.read_bytes()
    for size in (5_000, len(data) - 1_000):
        with DeviceRecommender.open(data[:size]) as recommender:
            assert recommender.nbytes == unpack_embedding(data[:size]).nbytes
            with pytest.raises(FormatError, match=r"cut short.*item_ids=False"):
                recommender.recommend(["item-1"])
        with DeviceRecommender.open(data[:size], item_ids=False) as recommender:
            assert len(recommender.recommend(user=np.ones(DIM))[0]) == 20
