"""The rotation after which every coordinate of a table is near Gaussian with the same variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fit_rotation(weight: Tensor, seed: int = 0) -> Tensor:
    """An orthogonal matrix R for rows [n, dim]: the rotated rows are ``weight @ R``.

    PCA makes the coordinates uncorrelated; a random-sign Hadamard matrix then mixes them, so that
    all have the mean variance. Where dim is not a power of two the discrete cosine transform takes
    its place, and plane rotations even out what it leaves.

    Args:
        weight: float32 [n, dim]; n may be 0.
        seed: of the signs.

    Returns:
        float32 [dim, dim].
    """
    dim = weight.shape[1]
    rows = weight.detach().to("cpu", torch.float64)
    _, axes = torch.linalg.eigh(rows.T @ rows)  # [dim, dim], columns are the principal axes
    # The sign of an eigenvector is arbitrary; fix it, so that runs agree.
    pivot = axes.abs().argmax(dim=0, keepdim=True)
    axes = axes * axes.gather(0, pivot).sign()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (dim,), generator=generator, device="cpu").double() * 2 - 1
    rotation = axes * signs @ _mixing_matrix(dim)
    if dim & (dim - 1) != 0:
        rotation = rotation @ _evening_matrix(rotation.T @ (rows.T @ rows) @ rotation)
    return rotation.float().to(weight.device)


def _mixing_matrix(dim: int) -> Tensor:
    """An orthogonal matrix [dim, dim] that spreads every coordinate over all."""
    if dim & (dim - 1) == 0:
        hadamard = torch.ones(1, 1, dtype=torch.float64, device="cpu")
        while len(hadamard) < dim:
            top = torch.cat([hadamard, hadamard], dim=1)
            hadamard = torch.cat([top, torch.cat([hadamard, -hadamard], dim=1)])
        return hadamard / math.sqrt(dim)
    number = torch.arange(dim, dtype=torch.float64, device="cpu")
    row, column = number[:, None], number[None]
    cosine = torch.cos(math.pi * (column + 0.5) * row / dim) * math.sqrt(2 / dim)
    cosine[0] /= math.sqrt(2)
    return cosine


def _evening_matrix(covariance: Tensor) -> Tensor:
    """The orthogonal matrix R [dim, dim] for which the diagonal of R.T @ covariance @ R is even.

    A turn in the plane of the largest and the smallest variance brings one of the two to the mean;
    dim - 1 turns bring all (Bendel and Mickey, 1978).
    """
    dim = len(covariance)
    even = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
    mean = float(covariance.diagonal().mean())
    for _ in range(dim - 1):
        turned = even.T @ covariance @ even
        high, low = int(turned.diagonal().argmax()), int(turned.diagonal().argmin())
        middle = float(turned[high, high] + turned[low, low]) / 2
        swing = float(turned[high, high] - turned[low, low]) / 2, float(turned[high, low])
        reach = math.hypot(*swing)
        if reach <= 1e-12 * mean:
            break
        share = max(-1.0, min(1.0, (mean - middle) / reach))
        angle = (math.atan2(swing[1], swing[0]) + math.acos(share)) / 2
        pair = even[:, [high, low]]
        even[:, high] = math.cos(angle) * pair[:, 0] + math.sin(angle) * pair[:, 1]
        even[:, low] = math.cos(angle) * pair[:, 1] - math.sin(angle) * pair[:, 0]
    return even
