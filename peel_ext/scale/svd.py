"""Orthonormal columns and the truncated singular value decomposition of tables in parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peel_ext.scale.collectives import Collectives
from peel_ext.scale.draws import draw_normal
from peel_ext.scale.partition import Partition
from peel_ext.scale.propagation import Propagation

#: Extra columns, and rounds of subspace iteration, as one process has them.
_OVERSAMPLING = 16
_ROUNDS = 4


def factor_rows(rows: Tensor, ranks: Collectives) -> tuple[Tensor, Tensor]:
    """The own rows of Q, and R, of the QR factors of a table [n, k] with n at least k.

    Each rank factors its own rows, and the first one the small factors of all (Demmel et al., 2012,
    SIAM J. Sci. Comput. 34, A206): as stable as the factors of one process, and every rank has the same
    R whatever its processor.

    Args:
        rows: the own rows of the table.
        ranks: the processes.
    """
    own, small = torch.linalg.qr(rows)
    sizes = ranks.stack(torch.tensor([len(small)], dtype=torch.int64, device="cpu"))[:, 0]
    edges = [0, *sizes.cumsum(0).tolist()]
    stacked = ranks.collect(small)
    turned, factor = torch.linalg.qr(stacked) if ranks.is_first else (stacked, stacked)
    return own @ ranks.deal(turned, edges), ranks.copy(factor, (rows.shape[1],) * 2)


def truncated_svd(
    propagation: Propagation,
    users: Partition,
    items: Partition,
    dim: int,
    generator: torch.Generator,
    ranks: Collectives,
) -> tuple[Tensor, Tensor]:
    """Computes what :func:`peel_ext.train.svd.truncated_svd` does, up to signs and rounding, in parts.

    Args:
        propagation: the matrix.
        users: the partition of its rows.
        items: the partition of its columns.
        dim: how many singular vectors.
        generator: makes the random start, the same on all ranks.
        ranks: the processes.

    Returns:
        The own rows of both tables of singular vectors, each times the root of its value.
    """
    rank = min(dim + _OVERSAMPLING, users.size, items.size)
    start = draw_normal(items, ranks.rank, rank, generator).to(propagation.device)
    basis = propagation.to_users(start)
    for _ in range(_ROUNDS):
        turned, _ = factor_rows(propagation.to_items(basis), ranks)
        basis, _ = factor_rows(propagation.to_users(turned), ranks)
    right, factor = factor_rows(propagation.to_items(basis), ranks)
    made = torch.linalg.svd(factor) if ranks.is_first else (factor, factor[0], factor)
    mixed, values, mixing = (
        ranks.copy(each, shape)
        for each, shape in zip(made, ((rank, rank), (rank,), (rank, rank)), strict=True)
    )
    kept = min(dim, rank)
    padding, roots = (0, dim - kept), values[:kept].sqrt()
    left = basis @ mixing.T
    return (
        F.pad(left[:, :kept] * roots, padding),
        F.pad((right @ mixed)[:, :kept] * roots, padding),
    )
