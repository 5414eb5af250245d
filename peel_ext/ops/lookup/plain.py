"""Dense rows in plain torch, for other dtypes and function transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from peel_ext.ops.lookup.table import Options, Pairs


def look_up(
    weight: Tensor,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    pairs: Pairs,
    options: Options,
) -> Tensor:
    """Rows [m, dim] of the dtype of ``weight``; arguments as of :class:`Table`."""
    indices, frequent = pairs.indices, options.scale_grad_by_freq
    rows = F.embedding(indices, weight, options.padding_idx, scale_grad_by_freq=frequent)
    if refinement is None or refinement_slot is None:
        return rows
    slot = refinement_slot[pairs.each_group(), indices].long()  # [m]
    own = F.embedding(
        torch.where(slot < 0, refinement.shape[0], slot),
        F.pad(refinement, (0, 0, 0, 1)),  # a last row for those that have none
        scale_grad_by_freq=frequent,
    )
    if options.padding_idx is not None:
        own = torch.where((indices == options.padding_idx)[:, None], own.detach(), own)
    return torch.where((slot >= 0)[:, None], rows + own, rows)


def straight_through(rows: Tensor, decoded: Tensor, known: Tensor) -> Tensor:
    """``decoded`` to the bit, with the gradient of ``rows`` where values are known."""
    return decoded - torch.where(known, rows.detach() - rows, 0)
