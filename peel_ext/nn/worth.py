"""The worth of the blocks of an elastic embedding: ``block_weights`` and item groups.

Functions over the module, whose methods of the same names call them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.nn import state
from peel_ext.nn.blending import blend_blocks, check_worth
from peel_ext.nn.tensor_cache import count_together
from peel_ext.ops import check_memory

#: Groups whose rows are sorted, and whose blocks are weighed, at a time: it takes memory.
_GROUPS = 16

#: What an item group may be: a float would be cut to an integer in silence.
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def set_row_values(module: Any, values: Tensor) -> None:
    """See :meth:`peel_ext.nn.ElasticEmbedding.set_row_values`."""
    state.check_blocks(module)
    shape = (module.num_groups, module.num_embeddings)
    values = check_worth("values", values, shape).to(module.block_weights.device)
    if module.layout.nested:
        sizes = module.layout.item_group_sizes(module.num_embeddings)
        of_rank = torch.from_numpy(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
        of_rank = of_rank.to(values.device)
        item_group = values.new_empty(shape, dtype=torch.int32)
        for part, own_values in zip(item_group.split(_GROUPS), values.split(_GROUPS), strict=True):
            order = own_values.sort(dim=1, descending=True, stable=True).indices
            part.scatter_(1, order, of_rank.expand(order.shape))
        module.item_group = item_group
    _weigh(module, values)


def set_item_groups(module: Any, item_group: Tensor) -> None:
    """See :meth:`peel_ext.nn.ElasticEmbedding.set_item_groups`."""
    if module.layout.nested:
        raise ValueError("item groups of the planes layout follow from set_row_values")
    state.check_blocks(module)
    num_item_groups = module.block_weights.shape[1]
    kind = item_group.dtype if isinstance(item_group, Tensor) else type(item_group).__name__
    if kind not in _INTEGERS:
        raise TypeError(f"item_group must be a tensor of integers, got {kind}")
    if tuple(item_group.shape) != (module.num_embeddings,):
        raise ValueError(
            f"item_group must have shape ({module.num_embeddings},), got {tuple(item_group.shape)}"
        )
    check_memory("item_group", item_group)
    if item_group.numel() and not (
        int(item_group.min()) >= 0 and int(item_group.max()) < num_item_groups
    ):
        raise ValueError(
            f"item_group must hold values in [0, {num_item_groups}), got "
            f"{int(item_group.min())} to {int(item_group.max())}"
        )
    module.item_group = item_group.to(module.item_group.device, torch.int32)[None].clone()
    shape = (module.num_groups, module.num_embeddings)
    _weigh(module, module.item_group.new_ones(shape, dtype=torch.float64))


def blend(module: Any, shares: Tensor, row_values: Tensor | None) -> Any:
    """See :meth:`peel_ext.nn.ElasticEmbedding.blend`."""
    if shares.dim() != 2 or len(shares) == 0:
        raise ValueError(
            f"shares must be a matrix of at least one row, got shape {tuple(shares.shape)}"
        )
    where = module.block_weights.device
    shares = check_worth("shares", shares, (len(shares), module.num_groups)).to(where)
    if row_values is not None:
        shape = (len(shares), module.num_embeddings)
        row_values = check_worth("row_values", row_values, shape).to(where)
    made = module.from_pretrained(
        module._parameter("weight").detach(), True, module.padding_idx, module.max_norm,
        module.norm_type, num_groups=len(shares), layout=module.layout,
    )  # fmt: skip
    count_together(made._parameter("weight"), module._parameter("weight"))
    made.block_weights, made.item_group = blend_blocks(
        module.block_weights, module.item_group, shares, row_values, module.layout, _gains(module)
    )
    made.rotation, made.row_mean = module.rotation, module.row_mean
    largest = shares.argmax(dim=1)
    made._named_groups = [module._named_groups[group] for group in largest.tolist()]
    if module.refinement is not None and module.refinement_slot is not None:
        made.refinement_slot = module.refinement_slot[largest]
        made.refinement = nn.Parameter(module.refinement.detach(), requires_grad=False)
        count_together(made.refinement, module.refinement)
    return made


@torch.no_grad()
def _weigh(module: Any, values: Tensor) -> None:
    """Sets block weights from the worth of rows, float64 [num_groups, num_embeddings]."""
    groups, num_item_groups, _ = module.block_weights.shape
    worth = values.new_zeros(groups, num_item_groups)
    add_worth(worth, values, module.item_group)
    weights = weights_of_worth(worth, _gains(module))
    if module.block_weights.is_inference():  # of a module that was made so
        module.block_weights = weights
    else:
        module.block_weights.copy_(weights)


def add_worth(worth: Tensor, values: Tensor, item_group: Tensor) -> None:
    """Adds what rows are worth to what their item groups are, row after row.

    Args:
        worth: float64 [num_groups, num_item_groups], changed.
        values: float64 [num_groups, n], what rows are worth.
        item_group: int32 [num_groups or 1, n], where they belong.
    """
    item_group = item_group.expand(len(values), -1)
    for own_worth, own_groups, own_values in zip(
        worth.split(_GROUPS), item_group.split(_GROUPS), values.split(_GROUPS), strict=True
    ):
        own_worth.scatter_add_(1, own_groups.long(), own_values)


def weights_of_worth(worth: Tensor, gains: NDArray[np.float64]) -> Tensor:
    """Block weights float32 [num_groups, num_item_groups, num_layers].

    Args:
        worth: float64 [num_groups, num_item_groups], the sum over the rows of each.
        gains: [num_layers], what each layer makes of a row's value.
    """
    return (worth[:, :, None] * torch.from_numpy(gains).to(worth.device)).float()


def _gains(module: Any) -> NDArray[np.float64]:
    """What each layer makes of a row's value [num_layers]."""
    weight = module._parameter("weight")
    state.check_plain(weight)
    layout = module.layout
    if layout.nested:  # gains of bits, whatever the rows are
        gains: NDArray[np.float64] = layout.layer_gains(
            np.zeros((0, module.embedding_dim), np.float32)
        )
        return gains
    rows = weight.detach().float()
    if not rows.is_cpu:  # one row of the same energy is all that has to come here
        rows = rows.double().square().sum(dim=0, keepdim=True).sqrt().float().cpu()
    gains = layout.layer_gains(rows.clone().numpy())
    return gains
