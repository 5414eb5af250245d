"""The rotation after which every coordinate of a table is near Gaussian with the same variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fit_rotation(weight: Tensor, seed: int = 0) -> Tensor:
    """An orthogonal matrix R for rows [n, dim]: the rotated rows are ``weight @ R``.

    PCA makes the coordinates uncorrelated; an orthogonal matrix whose entries are all of the order
    of dim^-1/2, with random signs, then mixes them, so that all have the mean variance (Hadamard
    where dim is a power of two, else the discrete cosine transform).

    Args:
        weight: float32 [n, dim]; n may be 0.
        seed: of the signs.

    Returns:
        float32 [dim, dim].
    """
    dim = weight.shape[1]
    rows = weight.detach().double()
    _, axes = torch.linalg.eigh(rows.T @ rows)  # [dim, dim], columns are the principal axes
    # The sign of an eigenvector is arbitrary; fix it, so that runs agree.
    pivot = axes.abs().argmax(dim=0, keepdim=True)
    axes = axes * axes.gather(0, pivot).sign()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (dim,), generator=generator).double() * 2 - 1
    return (axes * signs @ _mixing_matrix(dim)).float()


def _mixing_matrix(dim: int) -> Tensor:
    """An orthogonal matrix [dim, dim] that spreads every coordinate over all."""
    if dim & (dim - 1) == 0:
        hadamard = torch.ones(1, 1, dtype=torch.float64)
        while len(hadamard) < dim:
            top = torch.cat([hadamard, hadamard], dim=1)
            hadamard = torch.cat([top, torch.cat([hadamard, -hadamard], dim=1)])
        return hadamard / math.sqrt(dim)
    row = torch.arange(dim, dtype=torch.float64)[:, None]
    column = torch.arange(dim, dtype=torch.float64)[None]
    cosine = torch.cos(math.pi * (column + 0.5) * row / dim) * math.sqrt(2 / dim)
    cosine[0] /= math.sqrt(2)
    return cosine
