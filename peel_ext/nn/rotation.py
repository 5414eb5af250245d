"""The rotation after which every coordinate of a table is near Gaussian with the same variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: A matrix product rounds a row by its place among as many, or among fewer.
_RUN_ROWS = 64

#: Rows that are multiplied at once, a multiple of that.
_ROWS_AT_ONCE = 1 << 14


def fit_rotation(weight: Tensor, seed: int = 0, *, keep_mean: bool = False) -> Tensor:
    """An orthogonal matrix R for rows [n, dim]: the rotated rows are ``weight @ R``.

    PCA makes the coordinates uncorrelated; a random-sign Hadamard matrix then mixes them, so that
    all have the mean variance. Where dim is not a power of two the discrete cosine transform takes
    its place, and plane rotations even out what it leaves.

    Args:
        weight: float32 [n, dim]; n may be 0.
        seed: seeds the signs.
        keep_mean: whether the axis ``(1, ..., 1)`` stays where it is, so that the mean of a row's
            values does: the place of its prior. Nothing is evened out then.

    Returns:
        float32 [dim, dim].
    """
    moments = second_moments(weight).cpu()  # all that leaves the weight's device
    return rotation_of_moments(moments, seed, keep_mean=keep_mean).to(weight.device)


def rotate_run(rows: Tensor, rotation: Tensor, first: int, num_embeddings: int) -> Tensor:
    """Some rows of a table, rotated, with the bits that they have where all are multiplied at once.

    A matrix product may round a row by its place, and otherwise where rows are few. So each is multiplied
    at its place in a run of ``_RUN_ROWS``, or of all where there are fewer, filled up with zeros.

    Args:
        rows: float32 [n, dim].
        rotation: float32 [dim, dim].
        first: the place of the first of them in the table.
        num_embeddings: rows of the whole table.
    """
    rotated = torch.empty_like(rows, memory_format=torch.contiguous_format)
    run = max(1, min(_RUN_ROWS, num_embeddings))
    for begin in range(-(first % run), len(rows), _ROWS_AT_ONCE):
        end, before = min(begin + _ROWS_AT_ONCE, len(rows)), max(0, -begin)
        part, behind = rows[begin + before : end], -(end - begin) % run
        if before or behind:
            part = torch.nn.functional.pad(part, (0, 0, before, behind))
        with torch.autocast(rows.device.type, enabled=False):
            rotated[begin + before : end] = (part @ rotation)[before : end - begin]
    return rotated


def second_moments(rows: Tensor) -> Tensor:
    """The sums of the products of every two values of rows [n, dim], float64 [dim, dim]."""
    rows = rows.detach().double()
    return rows.T @ rows


def rotation_of_moments(moments: Tensor, seed: int, *, keep_mean: bool) -> Tensor:
    """The rotation of rows of which the second moments [dim, dim] are known; see above."""
    dim = len(moments)
    axes = _principal_axes_beside_mean(moments) if keep_mean else _principal_axes(moments)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (dim,), generator=generator, device="cpu").double() * 2 - 1
    if keep_mean:
        signs[0] = 1  # the first axis is the mean's, which mixing spreads over all values alike
    rotation = axes * signs @ _mixing_matrix(dim)
    if dim & (dim - 1) != 0 and not keep_mean:
        rotation = rotation @ _evening_matrix(rotation.T @ moments @ rotation)
    return rotation.float()


def _principal_axes(moments: Tensor) -> Tensor:
    """Columns [dim, dim], in ascending order of their variance."""
    _, axes = torch.linalg.eigh(moments)
    # The sign of an eigenvector is arbitrary; fix it, so that runs agree.
    pivot = axes.abs().argmax(dim=0, keepdim=True)
    return axes * axes.gather(0, pivot).sign()


def _principal_axes_beside_mean(moments: Tensor) -> Tensor:
    """Columns [dim, dim]: the axis (1, ..., 1), then the principal axes of what is orthogonal to it."""
    dim = len(moments)
    if dim == 1:
        return torch.ones_like(moments)
    reflection = torch.eye(dim, dtype=moments.dtype, device=moments.device)
    normal = reflection[0] - 1 / math.sqrt(dim)  # takes the first axis to (1, ..., 1) / sqrt(dim)
    reflection = reflection - 2 * torch.outer(normal, normal) / normal.square().sum()
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
    even = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)  # R.T
    turned = covariance.clone()
    variances = turned.diagonal()  # a view, which sees every turn
    mean = float(variances.mean())
    for _ in range(dim - 1):
        high, low = int(variances.argmax()), int(variances.argmin())
        pair, shared = variances[[high, low]].tolist(), float(turned[high, low])
        middle, half = (pair[0] + pair[1]) / 2, (pair[0] - pair[1]) / 2
        if half <= 1e-12 * mean:
            break
        share = max(-1.0, min(1.0, (mean - middle) / math.hypot(half, shared)))
        angle = (math.atan2(shared, half) + math.acos(share)) / 2
        cosine, sine = math.cos(angle), math.sin(angle)
        turn = covariance.new_tensor([[cosine, sine], [-sine, cosine]])
        # A turn changes two rows and two columns of the covariance: dim steps, not dim^3.
        turned[[high, low]] = turn @ turned[[high, low]]
        turned[:, [high, low]] = turned[:, [high, low]] @ turn.T
        even[[high, low]] = turn @ even[[high, low]]
    return even.T
