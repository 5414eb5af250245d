from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext.errors import BudgetError
from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.format.layout import page_padding_bytes
from peel_ext.nn.selection import (
    block_costs,
    even_block_weights,
    minimum_bytes,
    order_blocks,
    overhead_bytes,
    select_blocks,
)

OVERHEAD = 64


def plain_runs(weights: np.ndarray, costs: np.ndarray) -> list[tuple[float, int, int, int]]:
    """Of one user group: whole runs of layers, in the order of their joint weight per byte.

    From the layers before it, the next run of an item group is the one with the largest joint
    ratio; the longest of equals. Of each its negative ratio, item group, first layer and end.
    """
    num_item_groups, num_layers = weights.shape
    runs = []
    for item_group in range(num_item_groups):
        at = 0
        while at < num_layers:
            ends = range(at + 1, num_layers + 1)
            ratio, end = max(
                (weights[item_group, at:end].sum() / costs[item_group, at:end].sum(), end)
                for end in ends
            )
            runs.append((-ratio, item_group, at, end))
            at = end
    return sorted(runs)


def plain_selection(
    runs: list[tuple[float, int, int, int]], costs: np.ndarray, budget: int
) -> list[int]:
    """The layers held of each item group: run by run, until a block is too big."""
    held = [0] * len(costs)
    used, blocks = OVERHEAD, 0
    for _, item_group, begin, end in runs:
        for layer in range(begin, end):
            used += costs[item_group, layer]
            blocks += 1
            if used + -blocks % 8 * 8 > budget:  # entries of 8 bytes come in pages of 8
                return held
            held[item_group] |= 1 << layer
    return held


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_nested_layers_go_by_joint_weight_per_byte(num_layers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = PlanesLayout(layer_bits=(1,) * num_layers)
    for _ in range(20):
        weights = rng.lognormal(sigma=2, size=(1, 6, num_layers)).astype(np.float32)
        costs = rng.integers(1, 50, size=(6, num_layers)) * 8
        tensors = torch.from_numpy(weights), torch.from_numpy(costs)
        least = int(minimum_bytes(*tensors, layout, OVERHEAD)[0])
        before = np.zeros(6, np.int64)
        runs = plain_runs(weights[0].astype(float), costs)
        for budget in range(least, OVERHEAD + int(costs.sum()) + 65, 56):
            held = select_blocks(*tensors, layout, budget, OVERHEAD)[0]
            assert held.tolist() == plain_selection(runs, costs, budget)
            assert (before & ~held.numpy() == 0).all(), "a smaller budget kept what a larger drops"
            before = held.numpy()
        whole = OVERHEAD + int(costs.sum()) + page_padding_bytes(costs.size)
        everything = select_blocks(*tensors, layout, whole, OVERHEAD)[0]
        assert everything.tolist() == [(1 << num_layers) - 1] * 6
        with pytest.raises(BudgetError, match=f"needs at least {least} bytes"):
            select_blocks(*tensors, layout, least - 1, OVERHEAD)


def test_one_block_of_every_item_group_comes_first() -> None:
    layout = ColumnsLayout(block_dim=1, keep_one_block=True)
    weights = torch.tensor([[[1.0, 9.0, 8.0], [0.1, 0.3, 0.2]]])
    costs = torch.full((2, 3), 10)
    assert int(minimum_bytes(weights, costs, layout, OVERHEAD)[0]) == OVERHEAD + 20 + 48
    assert order_blocks(weights, costs, layout).tolist() == [[1, 4, 2, 0, 5, 3]]
    masks = [
        select_blocks(weights, costs, layout, OVERHEAD + budget, OVERHEAD)[0].tolist()
        for budget in (20 + 48, 30 + 39, 30 + 40, 40 + 32, 60 + 16)
    ]
    assert masks == [[2, 2], [2, 2], [6, 2], [7, 2], [7, 7]]


def test_each_user_group_has_its_own_selection() -> None:
    layout = ColumnsLayout(block_dim=1)
    weights = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]])
    held = select_blocks(weights, torch.full((1, 2), 10), layout, OVERHEAD + 66, OVERHEAD)
    assert held.tolist() == [[1], [2]]
    with pytest.raises(BudgetError, match="user group 0 needs at least 130 bytes") as caught:
        select_blocks(weights, torch.full((1, 2), 10), layout, 129, OVERHEAD)
    assert caught.value.minimum_bytes == 130


def draw_layout(rng: np.random.Generator, dim: int) -> Layout:
    if rng.random() < 0.5:
        cuts = np.flatnonzero(rng.random(7) < 0.5) + 1
        layer_bits = np.diff([0, *cuts, 8]).tolist()
        return PlanesLayout(layer_bits, rng.choice([None, 1, 7, 64, 1000]))
    return ColumnsLayout(
        int(rng.integers(-(-dim // 64), dim + 1)), str(rng.choice(["float32", "float16", "int8"])),
        int(rng.integers(1, 50)),
    )  # fmt: skip


def test_without_values_every_budget_holds_a_prefix_of_the_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for trial in range(30):
        n, dim = int(rng.integers(1, 10 ** rng.integers(1, 5))), int(rng.integers(1, 300))
        layout = draw_layout(rng, dim)
        if trial == 0:  # the largest blocks
            n, dim, layout = 30_000_000, 16, ColumnsLayout()
        sizes = layout.item_group_sizes(n)
        item_group = torch.from_numpy(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))[None]
        costs = block_costs(item_group, layout, dim)
        weights = even_block_weights(layout, n, dim)
        assert weights.shape == costs.shape
        assert (weights > 0).all()
        overhead = overhead_bytes(item_group, layout, len(sizes))
        least = int(minimum_bytes(weights[None], costs, layout, overhead)[0])
        for budget in (least, *rng.integers(least, least + int(costs.sum()) * 11 // 10 + 1, 8)):
            held = select_blocks(weights[None], costs, layout, int(budget), overhead)[0]
            assert held[0] > 0
            # Every layer, and with it every row, is held from the first row on.
            for layer in range(costs.shape[1]):
                has = (held >> layer & 1).tolist()
                assert has == sorted(has, reverse=True), (n, dim, layout, budget)


def test_without_values_the_bits_of_planes_go_by_their_gains() -> None:
    layout, n, dim = PlanesLayout(), 3000, 64
    weights = even_block_weights(layout, n, dim)
    gains = layout.layer_gains(np.zeros((0, dim), np.float32))
    assert np.allclose(weights.sum(dim=0) / n, gains, rtol=1e-3)
    assert even_block_weights(layout, 0, dim).shape == (0, 5)
