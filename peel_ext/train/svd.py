"""The vectors that training starts from: a truncated singular value decomposition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Extra columns, and rounds of subspace iteration. A start need not be exact.
_OVERSAMPLING = 16
_ROUNDS = 4


def truncated_svd(
    matrix: Tensor, transposed: Tensor, dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Leading singular vectors, each times the root of its singular value.

    Subspace iteration from a random start (Halko et al., 2011, arXiv 0909.4061, algorithm 4.4).

    Args:
        matrix: sparse or dense [rows, columns].
        transposed: its transpose.
        dim: number of singular vectors.
        generator: makes the random start, on whatever device.

    Returns:
        [rows, dim] and [columns, dim]; columns beyond the rank are 0.
    """
    num_rows, num_columns = matrix.shape
    rank = min(dim + _OVERSAMPLING, num_rows, num_columns)
    start = torch.randn(
        num_columns, rank, generator=generator, dtype=matrix.dtype, device=generator.device
    ).to(matrix.device)
    basis = matrix @ start  # [rows, rank]
    for _ in range(_ROUNDS):
        basis = _orthonormal(matrix @ _orthonormal(transposed @ basis))
    # matrix is about basis @ small.T
    small = transposed @ basis  # [columns, rank]
    right, values, mixing = torch.linalg.svd(small, full_matrices=False)
    left = basis @ mixing.T  # [rows, rank]
    kept = min(dim, rank)
    padding = (0, dim - kept)
    roots = values[:kept].sqrt()
    return F.pad(left[:, :kept] * roots, padding), F.pad(right[:, :kept] * roots, padding)


def scale_start(vectors: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Scales the vectors that training starts from to a root mean square of ``scale``.

    The noise gives a direction to what the SVD leaves at zero: items nobody touched, and columns
    beyond its rank, where zeros on both sides would have no gradient.
    """
    size = vectors.square().mean().sqrt().clamp(min=torch.finfo(vectors.dtype).tiny)
    noise = torch.randn(
        vectors.shape, generator=generator, dtype=vectors.dtype, device=generator.device
    ).to(vectors.device)
    # The SVD comes column by column; rows are what training reads, and what a checkpoint restores.
    return (scale * (vectors / size + 0.01 * noise)).contiguous()


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis
