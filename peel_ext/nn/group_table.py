"""The table of one user group as files and packed embeddings are made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from peel_ext.format import EncodedRows, GroupTable
from peel_ext.nn import selection


def group_table(module: Any, group: int) -> GroupTable:
    """The rows of a user group of an elastic embedding, and the order in which budgets take blocks.

    Args:
        module: the embedding.
        group: user group, in range.
    """
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
