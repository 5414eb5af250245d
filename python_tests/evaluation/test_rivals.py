from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext.errors import BudgetError, DependencyError
from peel_ext.evaluation.rivals import Rival, build_rivals
from peel_ext.evaluation.rivals.columns import ColumnBlocks
from peel_ext.evaluation.rivals.dimensions import (
    PrincipalDimensions,
    TrainedDimensions,
    affordable_dim,
)
from peel_ext.evaluation.rivals.encodings import Encoding, index_bytes, quantise
from peel_ext.evaluation.rivals.popularity import PopularRows, order_items
from peel_ext.evaluation.rivals.product_quantisation import ProductCodes, ProductQuantisers
from peel_ext.evaluation.rivals.pruning import LargestValues
from peel_ext.format import ColumnsLayout
from peel_ext.nn import ElasticEmbedding

NUM_ITEMS, DIM = 300, 8


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def items(rng: np.random.Generator) -> np.ndarray:
    scales = 2.0 ** -np.arange(DIM)
    return (rng.normal(size=(NUM_ITEMS, DIM)) * scales).astype(np.float32)


@pytest.fixture
def popularity(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 50, size=(3, NUM_ITEMS)).astype(np.float64)


def smallest_budget(rival: Rival, budget: int) -> int | None:
    """What a rival says it needs, or None where the budget will do."""
    try:
        rival.hold(budget, 1)
    except BudgetError as error:
        return error.minimum_bytes
    return None


@pytest.mark.parametrize("budget", [40, 137, 1000, 10**6])
def test_every_rival_keeps_the_budget_or_says_what_it_needs(
    items: np.ndarray, popularity: np.ndarray, budget: int
) -> None:
    rivals, left_out = build_rivals(items, popularity, popularity)
    assert left_out == []
    assert len({(rival.family, rival.name) for rival in rivals}) == len(rivals)
    for rival in rivals:
        minimum = smallest_budget(rival, budget)
        if minimum is not None:
            assert minimum > budget
            rival.hold(minimum, 1)
            assert smallest_budget(rival, minimum - 1) == minimum
            continue
        held = rival.hold(budget, 1)
        assert 0 < held.nbytes <= budget
        assert held.decoded().shape == (len(held.ids), DIM)
        assert held.decoded().dtype == np.float32
        assert np.array_equal(held.ids, np.unique(held.ids))
        if budget == 10**6 and rival.family != "product quantisation":
            assert len(held.ids) == NUM_ITEMS
            # The largest value may be cut to half, by a step that is rounded to fp16.
            half = 0.5 + 2.0**-11
            assert np.abs(held.decoded() - items).max() < half * np.abs(items).max()


@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize("rotated", [False, True])
def test_popular_rows_are_the_most_popular_ones_and_bytes_add_up(
    items: np.ndarray, popularity: np.ndarray, bits: int, rotated: bool
) -> None:
    encoding = Encoding(bits, rotated)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0].astype(np.float32)
    decoded = encoding.decoded(items, turn)
    rival = PopularRows(order_items(popularity[0]), [(encoding, decoded)])
    width = {32: 4 * DIM, 8: DIM + 2, 4: DIM // 2 + 2}[bits]
    for count in (1, 7, 18):
        held = rival.hold(count * (width + 2), 0)
        assert len(held.ids) == count
        assert held.nbytes == count * (width + 2)
        order = np.argsort(-popularity[0], kind="stable")
        assert set(held.ids) == set(order[:count])
        assert np.array_equal(held.rows, decoded[held.ids])
    # Beyond one id in sixteen a bitmap is shorter than a list, and all need neither.
    assert index_bytes(20, NUM_ITEMS) == 38
    assert rival.hold(NUM_ITEMS * width, 0).nbytes == NUM_ITEMS * width


def test_groups_hold_their_own(items: np.ndarray, popularity: np.ndarray) -> None:
    rival = PopularRows(order_items(popularity), [(Encoding(32), items)])
    assert rival.per_group
    kept = [set(rival.hold(500, group).ids) for group in range(3)]
    for group in range(3):
        best = np.argsort(-popularity[group], kind="stable")
        assert kept[group] == set(best[: len(kept[group])])
    assert kept[0] != kept[1]


def test_mixed_rows_give_the_most_popular_more_bits(
    items: np.ndarray, popularity: np.ndarray
) -> None:
    fine, coarse = items + 1, items + 2
    order = order_items(popularity[0])
    rival = PopularRows(order, [(Encoding(8), fine), (Encoding(4), coarse)], 0.5)
    held = rival.hold(400, 0)
    num_fine = 400 // 2 // (DIM + 2 + 2)
    row = dict(zip(held.ids, held.rows, strict=True))
    is_fine = np.array([np.array_equal(row[i], fine[i]) for i in order[: len(held.ids)]])
    assert is_fine[:num_fine].all()
    assert not is_fine[num_fine:].any()
    assert held.nbytes <= 400


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_quantised_values_are_few_and_near(items: np.ndarray, bits: int, axis: int) -> None:
    coded = quantise(items, bits, axis)
    lines = coded if axis == 1 else coded.T
    assert max(len(np.unique(line)) for line in lines) <= (1 << bits) - 1
    error = np.square(coded - items).mean()
    top = (1 << bits - 1) - 1
    step = np.abs(items).max(axis=axis, keepdims=True) / top
    plain = np.clip(np.rint(items / step), -top, top) * step
    assert error <= np.square(plain - items).mean() * 1.01
    assert not quantise(np.zeros((3, 2), np.float32), bits, axis).any()


def test_principal_dimensions_lose_least(items: np.ndarray) -> None:
    dim, nbytes = affordable_dim(NUM_ITEMS * 4 * 3 + 5, NUM_ITEMS, DIM, 32)
    assert (dim, nbytes) == (3, NUM_ITEMS * 12)
    held = PrincipalDimensions(items, 32).hold(nbytes, 0)
    left, values, right = np.linalg.svd(items, full_matrices=False)
    assert held.decoded() == pytest.approx((left[:, :3] * values[:3]) @ right[:3], abs=1e-5)


def test_trained_dimensions_ask_for_what_fits(rng: np.random.Generator) -> None:
    asked: list[int] = []

    def train(dim: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(dim)
        made = rng.normal(size=(NUM_ITEMS + 6, dim)).astype(np.float32)
        return made[:6], made[6:]

    held = TrainedDimensions(train, NUM_ITEMS, 64, 32).hold(NUM_ITEMS * 20, 0)
    assert asked == [5]
    assert held.vectors is not None
    assert held.vectors.shape == (6, 5)
    assert held.rows.shape == (NUM_ITEMS, 5)
    assert TrainedDimensions(train, NUM_ITEMS, 64, 4).hold(NUM_ITEMS * 20, 0).nbytes <= 6000
    assert asked == [5, 39]  # 39 columns of half a byte and a scale each
    with pytest.raises(BudgetError, match="2 dimensions of 300 rows need 2400"):
        TrainedDimensions(train, NUM_ITEMS, 64, 32).hold(NUM_ITEMS * 7, 0)


@pytest.mark.parametrize("principal", [False, True])
def test_pruning_keeps_the_largest_values(items: np.ndarray, principal: bool) -> None:
    rival = LargestValues(items, 32, principal)
    for budget in (100, 1000, 5000):
        held = rival.hold(budget, 0)
        axes = np.eye(DIM)
        if principal:
            axes = np.linalg.eigh(items.T.astype(np.float64) @ items)[1]
        rows = np.zeros_like(items)
        rows[held.ids] = held.decoded()
        values, kept = items @ axes, rows @ axes
        is_kept = np.abs(kept) > 1e-6
        assert np.abs(values[is_kept]).min() > np.abs(values[~is_kept]).max() - 1e-4
        count, num_held = int(is_kept.sum()), len(held.ids)
        places = min(NUM_ITEMS * DIM // 8, NUM_ITEMS + count, 3 * num_held + count)
        assert held.nbytes == 4 * count + places <= budget


@pytest.mark.parametrize("bits", [32, 8])
def test_column_blocks_follow_popularity_and_lose_least(
    bits: int, items: np.ndarray, popularity: np.ndarray
) -> None:
    rival = ColumnBlocks(items, popularity.sum(axis=0), popularity, "popularity", 20, bits)
    # Of all eight columns, with scales in int8; aligned, with its entry.
    block = 15 * (DIM * 4 if bits == 32 else DIM + 2) + 44
    held = rival.hold(5 * block // 2, 0)  # room for two
    order = np.argsort(-popularity.sum(axis=0), kind="stable")
    runs = {int(np.flatnonzero(order == item)[0]) // 15 for item in held.ids}
    assert len(runs) == 2
    assert len(held.ids) == 30
    assert held.decoded() == pytest.approx(items[held.ids], abs=1e-5 if bits == 32 else 0.03)


@pytest.mark.parametrize("bits", [32, 8])
def test_column_blocks_are_those_of_the_packed_table(
    bits: int, items: np.ndarray, popularity: np.ndarray
) -> None:
    """Nothing is packed to measure this rival, but it must hold and cost what a device would."""
    wide = np.tile(items, (1, 3))[:, :20]  # layers of 8, 8 and 4 columns
    rival = ColumnBlocks(wide, popularity.sum(axis=0), popularity, "popularity", 20, bits)
    order = np.argsort(-popularity.sum(axis=0), kind="stable")
    turned = torch.from_numpy(np.ascontiguousarray(wide[order] @ rival.hold(10**6, 0).axes))
    layout = ColumnsLayout(value_type="float32" if bits == 32 else "int8")
    packed = ElasticEmbedding.from_pretrained(turned, num_groups=3, layout=layout)
    packed.set_row_values(torch.from_numpy(popularity[:, order]))
    free = layout.overhead_bytes(20, NUM_ITEMS, listed=False)
    for budget in (1_000, 3_000, 7_000, 10**6):
        for group in range(3):
            held = rival.hold(budget, group)
            pee = packed.generate(group, budget + free)
            numbers = np.argsort(order)[held.ids]
            assert np.array_equal(np.sort(numbers), pee.row_ids)
            assert np.array_equal(held.rows, pee.lookup(numbers))
            assert held.nbytes == pee.nbytes - free


def test_product_codes_of_fewer_rows_than_values(seed: int) -> None:
    few = np.random.default_rng(seed).normal(size=(38, 64)).astype(np.float32)
    quantisers = ProductQuantisers(few)
    held = ProductCodes(quantisers, rotated=True).hold(64 << 10, group=0)
    plain = ProductCodes(quantisers, rotated=False).hold(64 << 10, group=0)
    np.testing.assert_array_equal(held.rows, plain.rows)
    assert np.isfinite(held.rows).all()


@pytest.mark.parametrize("rotated", [False, True])
def test_product_codes_are_as_good_as_faiss_says(items: np.ndarray, rotated: bool) -> None:
    rival = ProductCodes(ProductQuantisers(items), rotated)
    small, large = (rival.hold(budget, 0) for budget in (500, 4000))
    errors = [np.square(held.rows - items).sum() for held in (small, large)]
    assert errors[1] < errors[0] < np.square(items - items.mean(axis=0)).sum()
    assert small.nbytes == (NUM_ITEMS * 4 + 7) // 8 + 2 * DIM * 16  # one code of 4 bits


def test_without_faiss_the_rest_is_measured_and_it_is_said(
    items: np.ndarray, popularity: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(DependencyError, match=r"pip install 'peel_ext\[rivals\]'"):
        ProductQuantisers(items)
    rivals, left_out = build_rivals(items, popularity, popularity)
    assert len(left_out) == 1
    assert "faiss" in left_out[0]
    assert "product quantisation" not in {rival.family for rival in rivals}


@pytest.mark.parametrize("num_items", [1, 2, 3])
def test_a_tiny_catalogue(num_items: int, rng: np.random.Generator) -> None:
    few = rng.normal(size=(num_items, DIM)).astype(np.float32)
    rivals, left_out = build_rivals(few, np.ones((2, num_items)), np.zeros((2, num_items)))
    assert left_out == [f"product quantisation needs at least 16 items, got {num_items}"]
    for rival in rivals:
        held = rival.hold(10**6, 0)
        assert held.ids.tolist() == list(range(num_items))
        # Column blocks pay for their entries and alignment, which tiny ones are mostly made of.
        allowance = 160 if isinstance(rival, ColumnBlocks) else 0
        assert held.nbytes <= 4 * DIM * num_items + DIM * num_items + allowance
