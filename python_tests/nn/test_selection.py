from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext.errors import BudgetError
from peel_ext.format import ColumnsLayout, PlanesLayout
from peel_ext.format.layout import page_padding_bytes
from peel_ext.nn.selection import minimum_bytes, order_blocks, select_blocks

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
