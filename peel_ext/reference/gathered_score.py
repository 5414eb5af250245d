"""gathered_score by the whole users x items matrix and a stable sort."""

from __future__ import annotations

import torch
from torch import Tensor


def gathered_score(
    users: Tensor,
    table: Tensor,
    n: int,
    *,
    candidates: Tensor | None = None,
    exclude_indptr: Tensor | None = None,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`peel_ext.ops.gathered_score`; a packed table comes decoded, its ids as candidates."""
    scores = users @ table.T
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if candidates is not None:
        allowed[:] = torch.isin(torch.arange(len(table), device=table.device), candidates)
    if exclude is not None and exclude_indptr is not None:
        for user in range(len(users)):
            allowed[user, exclude[exclude_indptr[user] : exclude_indptr[user + 1]]] = False
    scores = torch.where(allowed & ~scores.isnan(), scores, -torch.inf)
    best, order = scores.sort(dim=1, descending=True, stable=True)
    indices = torch.where(allowed.gather(1, order), order, -1)[:, :n]
    missing = n - indices.shape[1]
    if missing > 0:
        indices = torch.nn.functional.pad(indices, (0, missing), value=-1)
        best = torch.nn.functional.pad(best, (0, missing), value=-torch.inf)
    return indices, torch.where(indices < 0, -torch.inf, best[:, :n])
