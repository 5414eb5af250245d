"""The table of one user group as files and packed embeddings are made of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import ArrayLike

from peel_ext.format import EncodedRows, FoldInSettings, GroupTable, write_file
from peel_ext.nn import selection, state
from peel_ext.nn.arguments import check_budget
from peel_ext.nn.encoding import held_blocks
from peel_ext.ops.lookup import check_group


def group_table(module: Any, group: int) -> GroupTable:
    """The rows of a user group of an elastic embedding, and the order in which budgets take blocks.

    Args:
        module: the embedding.
        group: user group.

    Raises:
        IndexError: a group out of range.
    """
    check_group(group, module.num_groups)
    costs = module.block_costs()
    store, scales = module.encoded_rows()
    if module.refinement_slot is not None:
        slot = module.refinement_slot[group].long()
        own = torch.arange(module.num_embeddings, device=slot.device)
        rows = torch.where(slot < 0, own, module.num_embeddings + slot)
        store, scales = store[rows], scales[rows]
    weights = module.block_weights.detach()[group : group + 1]
    order = selection.order_blocks(weights, costs, module.layout)[0]
    which = module.item_group[0 if len(module.item_group) == 1 else group]
    ids = which.sort(stable=True).indices.cpu().numpy()
    num_item_groups = module.block_weights.shape[1]
    sizes = torch.bincount(which.long(), minlength=num_item_groups).cpu().numpy()
    return GroupTable(
        layout=module.layout,
        dim=module.embedding_dim,
        rows=EncodedRows(store.cpu().numpy(), scales.cpu().numpy()),
        item_groups=np.split(ids, np.cumsum(sizes)[:-1]) if num_item_groups else [],
        order=order.cpu().numpy(),
        group=module._named_groups[group],
        rotated=module.rotation is not None,
    )


def held_table(module: Any, group: int, budget_bytes: int) -> tuple[GroupTable, int]:
    """See :meth:`peel_ext.nn.ElasticEmbedding.held_table`."""
    check_group(group, module.num_groups)
    limit = check_budget(budget_bytes)
    state.check_blocks(module)
    weights = module.block_weights[group : group + 1]
    held = held_blocks(weights, module.item_group, module.layout, module.embedding_dim, limit)[0]
    # The mask of 64 layers is negative as a signed integer.
    num_blocks = sum((mask & (1 << 64) - 1).bit_count() for mask in held.tolist())
    return group_table(module, group), num_blocks


def write_table(
    module: Any,
    path: str | os.PathLike[str] | BinaryIO,
    group: int,
    budget_bytes: int | None,
    fold_in: FoldInSettings | None,
    centroids: ArrayLike | None,
    item_ids: Sequence[int | str] | np.ndarray | None,
    keep_rotation: bool | None,
) -> None:
    """See :meth:`peel_ext.nn.ElasticEmbedding.export`."""
    if budget_bytes is None:
        table = group_table(module, group)
    else:
        table, num_blocks = held_table(module, group, budget_bytes)
        table = dataclasses.replace(table, order=table.order[:num_blocks])
    rotation = row_mean = None
    if keep_rotation is None:
        keep_rotation = module.row_mean is not None
    if keep_rotation and module.rotation is not None:
        rotation = module.rotation.cpu().numpy()
    if module.row_mean is not None:
        row_mean = module.rotate(module.row_mean).cpu().numpy()
    write_file(
        path, table, fold_in=fold_in, centroids=centroids, item_ids=item_ids, rotation=rotation,
        row_mean=row_mean,
    )  # fmt: skip
