"""Rows of a user group with a refinement of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peel_ext.nn import state
from peel_ext.ops import check_memory
from peel_ext.ops.lookup import check_group


def refine_rows(module: Any, group: int, indices: Tensor) -> None:
    """See :meth:`peel_ext.nn.ElasticEmbedding.refine_rows`."""
    check_group(group, module.num_groups)
    state.check_blocks(module)
    weight = module._parameter("weight")
    if weight.dtype != torch.float32:
        raise TypeError(f"weight must be float32 to be refined, got {weight.dtype}")
    if weight.is_meta:
        raise ValueError("weight must have values to be refined, got one on the meta device")
    check_memory("indices", indices)
    rows = torch.unique(indices).to(weight.device)
    if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < module.num_embeddings:
        bad = int(rows[0]) if int(rows[0]) < 0 else int(rows[-1])
        raise IndexError(f"indices contain {bad}, expected values in [0, {module.num_embeddings})")
    if module.refinement is None or module.refinement_slot is None:
        shape = (module.num_groups, module.num_embeddings)
        module.refinement_slot = rows.new_full(shape, -1, dtype=torch.int32)
        module.refinement = nn.Parameter(weight.new_zeros(0, module.embedding_dim))
    slots, refinement = module.refinement_slot, module.refinement
    fresh = rows[slots[group, rows] < 0]
    first = len(refinement)
    slots[group, fresh] = torch.arange(
        first, first + len(fresh), dtype=torch.int32, device=slots.device
    )
    zeros = refinement.new_zeros(len(fresh), module.embedding_dim)
    module.refinement = nn.Parameter(torch.cat([refinement.detach(), zeros]))
