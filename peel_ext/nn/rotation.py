"""The rotation after which every coordinate of a table is near Gaussian with the same variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fit_rotation(weight: Tensor, seed: int = 0, *, keep_mean: bool = False) -> Tensor:
    """An orthogonal matrix R for rows [n, dim]: the rotated rows are ``weight @ R``.

    PCA makes the coordinates uncorrelated; a random-sign Hadamard matrix then mixes them, so that
    all have the mean variance. Where dim is not a power of two the discrete cosine transform takes
    its place, and plane rotations even out what it leaves.

    Args:
        weight: float32 [n, dim]; n may be 0.
        seed: of the signs.
        keep_mean: whether the axis ``(1, ..., 1)`` stays where it is, so that the mean of a row's
            values does: the place of its prior. Nothing is evened out then.

    Returns:
        float32 [dim, dim].
    """
    dim = weight.shape[1]
    rows = weight.detach().to("cpu", torch.float64)
    moments = rows.T @ rows  # [dim, dim]
    axes = _principal_axes_beside_mean(moments) if keep_mean else _principal_axes(moments)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (dim,), generator=generator, device="cpu").double() * 2 - 1
    if keep_mean:
        signs[0] = 1  # the first axis is the mean's, which mixing spreads over all values alike
    rotation = axes * signs @ _mixing_matrix(dim)
    if dim & (dim - 1) != 0 and not keep_mean:
        rotation = rotation @ _evening_matrix(rotation.T @ moments @ rotation)
    return rotation.float().to(weight.device)


def _principal_axes(moments: Tensor) -> Tensor:
    """Columns [dim, dim], in ascending order of their variance."""
    _, axes = torch.linalg.eigh(moments)
    # The sign of an eigenvector is arbitrary; fix it, so that runs agree.
    pivot = axes.abs().argmax(dim=0, keepdim=True)
    return axes * axes.gather(0, pivot).sign()


def _principal_axes_beside_mean(moments: Tensor) -> Tensor:
    """Columns [dim, dim]: the axis (1, ..., 1), then the principal axes of what is orthogonal to it."""
    dim = len(moments)
    reflection = torch.eye(dim, dtype=moments.dtype, device=moments.device)
    normal = reflection[0] - 1 / math.sqrt(dim)  # takes the first axis to (1, ..., 1) / sqrt(dim)
    length = normal.square().sum()
    if dim > 1:
        reflection = reflection - 2 * torch.outer(normal, normal) / length
    beside = reflection[:, 1:]
    axes = beside @ _principal_axes(beside.T @ moments @ beside)
    return torch.cat([reflection[:, :1], axes], dim=1)


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
