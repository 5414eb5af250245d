"""The costs of blocks, and the choice of those that a byte budget keeps, for all user groups at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peel_ext.errors import BudgetError
from peel_ext.format import ColumnsLayout, Layout
from peel_ext.format.layout import page_padding_bytes
from peel_ext.ops import topk_blocks
from peel_ext.ops.lookup import DEVICES


def block_costs(item_group: Tensor, layout: Layout, dim: int) -> Tensor:
    """Bytes of every block, int64 [num_item_groups, num_layers].

    Args:
        item_group: int32 [num_groups or 1, num_embeddings].
        layout: layout of the blocks.
        dim: values of a row.
    """
    num_embeddings = item_group.shape[1]
    sizes = layout.item_group_sizes(num_embeddings)
    if not layout.nested:
        sizes = torch.bincount(item_group[0].long(), minlength=len(sizes)).cpu().numpy()
    costs = torch.from_numpy(layout.block_costs(sizes, dim, num_embeddings))
    return costs.to(item_group.device)


def overhead_bytes(item_group: Tensor, layout: Layout, num_item_groups: int) -> int:
    """Bytes a device holds whatever is kept; arguments as of :func:`block_costs`."""
    which = item_group[0]
    listed = not layout.nested and bool((which[1:] < which[:-1]).any())
    return layout.overhead_bytes(num_item_groups, item_group.shape[1], listed)


def even_block_weights(layout: Layout, num_embeddings: int, dim: int) -> Tensor:
    """Weights of the blocks of rows that are all worth the same, float32 [num_item_groups, num_layers].

    A byte of a layer is worth the same in every item group, however much padding its blocks have:
    the layer's gain over the bytes of all its blocks. Ties go to the lower index, so that what any
    budget holds is a prefix of the rows. In the columns layout all layers are worth the same a byte.

    Args:
        layout: layout of the blocks.
        num_embeddings: rows, in the order in which item groups take them.
        dim: values of a row.
    """
    sizes = layout.item_group_sizes(num_embeddings)
    costs = torch.from_numpy(layout.block_costs(sizes, dim, num_embeddings))
    if costs.numel() == 0:
        return costs.float()
    total = costs.sum(dim=0, keepdim=True).double()  # [1, num_layers]
    worth = total * num_embeddings / total.sum()
    if layout.nested:
        gains = layout.layer_gains(np.zeros((0, dim), np.float32))
        worth = torch.from_numpy(gains)[None] * num_embeddings
    per_byte = (_selection_order_weights(worth[None], total, layout)[0, 0] / total[0]).float()
    # Weights must come back to equal ratios when they are divided by their costs. Costs are multiples
    # of 4, so products with ratios of this many bits are exact in float32.
    bits = max(1, 26 - int(costs.max()).bit_length())
    mantissa, exponent = np.frexp(per_byte.numpy())
    rounded = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    return (torch.from_numpy(rounded) * costs).float()


def select_blocks(
    block_weights: Tensor,
    costs: Tensor,
    layout: Layout,
    budget_bytes: int,
    overhead_bytes: int,
) -> Tensor:
    """Masks of the layers to keep, by the largest weight per byte until the budget is full.

    Selection stops at the first block that does not fit, so smaller budgets keep subsets. In the
    planes layout a block never comes before those it needs: where a layer is worth more per byte
    than the one below, the two are ranked by their joint weight per byte.

    Args:
        block_weights: float32 [num_groups, num_item_groups, num_layers].
        costs: int64 [num_item_groups, num_layers], bytes of each block.
        layout: layout of the blocks.
        budget_bytes: for everything the device holds.
        overhead_bytes: what it holds whatever is kept.

    Returns:
        int64 [num_groups, num_item_groups].

    Raises:
        BudgetError: not even the first block of some group fits; names the minimum.
        ValueError: a weight is NaN.
    """
    num_groups, num_item_groups, num_layers = block_weights.shape
    minimum = minimum_bytes(block_weights, costs, layout, overhead_bytes)
    if num_groups and budget_bytes < int(minimum.max()):
        group = int(minimum.argmax())
        raise BudgetError(
            f"budget_bytes is {budget_bytes}, but user group {group} needs at least "
            f"{int(minimum[group])} bytes",
            int(minimum[group]),
        )
    chosen = order_blocks(block_weights, costs, layout, max(0, budget_bytes - overhead_bytes))
    # Costs count entries alone; the pages they share may leave no room for the last blocks.
    own = torch.where(chosen >= 0, costs.reshape(-1)[chosen.clamp(min=0)], 0)
    padding = torch.tensor(
        [page_padding_bytes(n) for n in range(1, chosen.shape[1] + 1)],
        dtype=torch.int64, device=costs.device,
    )  # fmt: skip
    held_bytes = overhead_bytes + own.cumsum(dim=1) + padding
    fits = (chosen >= 0) & (held_bytes <= budget_bytes)
    rows, places = torch.nonzero(fits, as_tuple=True)
    kept = torch.zeros_like(chosen, dtype=torch.bool)
    kept[rows, chosen[rows, places]] = True
    bits = 1 << torch.arange(num_layers, device=costs.device)
    return (kept.reshape(num_groups, num_item_groups, num_layers) * bits).sum(dim=2)


def order_blocks(
    block_weights: Tensor, costs: Tensor, layout: Layout, budget_bytes: int | None = None
) -> Tensor:
    """The blocks in the order in which budgets take them: that of a ``.peel`` file.

    Args:
        block_weights: float32 [num_groups, num_item_groups, num_layers].
        costs: int64 [num_item_groups, num_layers], bytes of each block.
        layout: layout of the blocks.
        budget_bytes: stop before the block with which the costs are more; None: at the last block.

    Returns:
        int64 [num_groups, num_item_groups * num_layers], ``item_group * num_layers + layer`` of each
        block, then -1.

    Raises:
        ValueError: a weight is NaN.
    """
    order = _selection_order_weights(block_weights, costs, layout)  # float64, same shape
    floor = _floor_blocks(order, costs, layout)  # bool, same shape
    flat_costs = costs.reshape(-1)
    budget = int(flat_costs.sum()) if budget_bytes is None else budget_bytes
    if floor is None:
        flat = order.reshape(len(order), -1)  # [num_groups, num_item_groups * num_layers]
        return _select(flat, costs=flat_costs, budget_bytes=budget)
    result = costs.new_full((len(order), flat_costs.numel()), -1)
    for group in range(len(order)):
        left, at = budget, 0
        for part in (floor[group].reshape(-1), ~floor[group].reshape(-1)):
            blocks = torch.nonzero(part)[:, 0]
            chosen = _select(
                order[group].reshape(-1)[blocks], costs=flat_costs[blocks], budget_bytes=left
            )
            taken = blocks[chosen[chosen >= 0]]
            result[group, at : at + len(taken)] = taken
            at += len(taken)
            left -= int(flat_costs[taken].sum())
            if len(taken) < len(blocks):
                break
    return result


def _select(weights: Tensor, k: int | None = None, **by_bytes: Any) -> Tensor:
    """topk_blocks; where a device has no kernels, the CPU selects for it."""
    if weights.device.type in DEVICES:
        return topk_blocks(weights, k, **by_bytes)
    there: dict[str, Any] = {
        name: value.cpu() if isinstance(value, Tensor) else value
        for name, value in by_bytes.items()
    }
    return topk_blocks(weights.cpu(), k, **there).to(weights.device)


def minimum_bytes(
    block_weights: Tensor, costs: Tensor, layout: Layout, overhead_bytes: int
) -> Tensor:
    """The smallest feasible budget of each user group, int64 [num_groups].

    Args and errors are those of :func:`select_blocks`.
    """
    num_groups = len(block_weights)
    order = _selection_order_weights(block_weights, costs, layout)
    floor = _floor_blocks(order, costs, layout)
    if floor is not None:
        pages = page_padding_bytes(len(costs))
        return overhead_bytes + pages + (floor * costs).sum(dim=(1, 2))
    if costs.numel() == 0:
        return costs.new_full((num_groups,), overhead_bytes)
    per_byte = (order / costs).reshape(num_groups, -1)  # [num_groups, blocks]
    first = _select(per_byte, 1)[:, 0]
    return overhead_bytes + page_padding_bytes(1) + costs.reshape(-1)[first]


def _selection_order_weights(block_weights: Tensor, costs: Tensor, layout: Layout) -> Tensor:
    """Weights float64 whose ratio to the costs ranks a block after all it needs."""
    if bool(block_weights.isnan().any()):
        group, item_group, layer = block_weights.isnan().nonzero()[0].tolist()
        raise ValueError(f"block_weights[{group}, {item_group}, {layer}] is NaN, expected a number")
    if not layout.nested:
        return block_weights.double()
    weight = torch.nn.functional.pad(block_weights.double().cumsum(dim=2), (1, 0))
    cost = torch.nn.functional.pad(costs.double().cumsum(dim=1), (1, 0))
    num_layers = costs.shape[1]
    # The concave majorant's slope at layer l: min over a <= l of max over b >= l of the joint ratio
    # of layers a..b (isotonic regression, min-max form).
    slopes = []
    for layer in range(num_layers):
        joint = [
            torch.stack(
                [
                    (weight[:, :, b + 1] - weight[:, :, a]) / (cost[:, b + 1] - cost[:, a])
                    for b in range(layer, num_layers)
                ]
            ).amax(dim=0)
            for a in range(layer + 1)
        ]
        slopes.append(torch.stack(joint).amin(dim=0))
    # float32 times a cost below 2^29 is exact in float64, so layers ranked together stay exact ties
    # and keep their order; rounding must not make a higher layer worth more either.
    ratio = torch.stack(slopes, dim=2).float().cummin(dim=2).values
    return ratio.double() * costs.double()


def _floor_blocks(order: Tensor, costs: Tensor, layout: Layout) -> Tensor | None:
    """The best block of every item group where the layout keeps one of each, bool; else None."""
    if not isinstance(layout, ColumnsLayout) or not layout.keep_one_block:
        return None
    first = (order / costs).argmax(dim=2, keepdim=True)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(2, first, True)
