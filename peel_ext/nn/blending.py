"""Block weights for users between groups: sums of the groups' own, each with its share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.format.layout import Layout
from peel_ext.ops import check_memory


def check_worth(name: str, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Checks what something is worth, and returns it as float64.

    Raises:
        TypeError: no tensor.
        ValueError: a wrong shape, no memory, or a value that is negative or not finite.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got a {type(values).__name__}")
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(values.shape)}")
    check_memory(name, values)
    wrong = ~(torch.isfinite(values) & (values >= 0))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{row}, {column}] must be finite and not negative, got "
            f"{float(values[row, column])}"
        )
    return values.detach().double()


def blend_blocks(
    block_weights: Tensor,
    item_group: Tensor,
    shares: Tensor,
    row_values: Tensor | None,
    layout: Layout,
    gains: NDArray[np.float64],
) -> tuple[Tensor, Tensor]:
    """Weights and item groups of blends of user groups.

    The weights of every group are scaled to a sum of 1. Where all have the same item groups, block
    weights are summed, each group's with its share. In the planes layout a row has in a group what is
    its part of the weights of its blocks; that is summed over the groups, and item groups become
    runs of rows in descending worth, as in :meth:`peel_ext.nn.ElasticEmbedding.set_row_values`.

    Args:
        block_weights: float32 [num_groups, num_item_groups, num_layers].
        item_group: int32 [num_groups or 1, num_embeddings].
        shares: float64 [m, num_groups].
        row_values: float64 [m, num_embeddings], added to the worth of rows, or None.
        layout: layout of the blocks.
        gains: [num_layers], what the layers make of a row's value; their sum is taken as 1.

    Returns:
        block_weights float32 [m, num_item_groups, num_layers] and item_group int32
        [m or 1, num_embeddings].
    """
    num_item_groups, num_layers = block_weights.shape[1:]
    num_embeddings = item_group.shape[1]
    totals = block_weights.sum(dim=(1, 2), dtype=torch.float64)
    shares = shares / torch.where(totals > 0, totals, 1.0)
    of_layer = torch.from_numpy(gains / gains.sum()).to(shares.device)
    if not layout.nested or (len(item_group) == 1 and row_values is None):
        weights = torch.einsum("mg,gil->mil", shares, block_weights.double())
        if row_values is not None:
            own = weights.new_zeros(len(shares), num_item_groups)
            own.index_add_(1, item_group[0].long(), row_values)
            weights += own[:, :, None] * of_layer
        return weights.float(), item_group.clone()
    sizes = layout.item_group_sizes(num_embeddings)
    rows_of = torch.from_numpy(sizes).double()[:, None].to(shares.device)
    of_rank = torch.from_numpy(np.repeat(np.arange(num_item_groups, dtype=np.int32), sizes))
    of_rank = of_rank.to(shares.device)
    weights = shares.new_zeros(len(shares), num_item_groups, num_layers)
    groups = item_group.new_empty((len(shares), num_embeddings), dtype=torch.int32)
    for blend, share in enumerate(shares):
        worth = shares.new_zeros(num_embeddings, num_layers)
        if row_values is not None:
            worth += row_values[blend][:, None] * of_layer
        for group in share.nonzero()[:, 0].tolist():
            per_row = share[group] * block_weights[group].double() / rows_of
            worth += per_row.index_select(0, item_group[0 if len(item_group) == 1 else group])
        order = worth.sum(dim=1).sort(descending=True, stable=True).indices
        groups[blend, order] = of_rank
        weights[blend].index_add_(0, of_rank.long(), worth[order])
    return weights.float(), groups
