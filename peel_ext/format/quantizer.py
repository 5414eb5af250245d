"""The embedded Gaussian quantiser: one 8-bit code whose first b bits are the b-bit code.

A rotated row is near Gaussian with standard deviation ``scale``, its root mean square. With
``Phi`` the standard normal distribution function, the code of a value x is::

    code = floor(256 * Phi(x / (1.5 * scale)))

The factor 1.5 widens the cells towards the tails, between the equal-probability partition (1) and
the high-rate optimum of a Gaussian (sqrt(3); Panter and Dite, 1951). Cells nest, because
``code >> 8 - b`` is the same formula with 2^b in place of 256. A b-bit code stands for the mean of
a standard normal variable inside its cell, times the scale.
"""

from __future__ import annotations

import functools
import math
import warnings
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import EncodingWarning

MAX_BITS = 8
_WIDTH = 1.5
_NORMAL = NormalDist()


def _edges(bits: int) -> list[float]:
    """Edges of the 2^bits cells, in units of the scale, infinities included."""
    cells = 1 << bits
    inner = [_WIDTH * _NORMAL.inv_cdf(i / cells) for i in range(1, cells)]
    return [-math.inf, *inner, math.inf]


def _cell_moments(bits: int) -> tuple[list[float], list[float]]:
    """Probability and mean of a standard normal variable in each cell."""
    edges = _edges(bits)
    below = [0.0, *(_NORMAL.cdf(edge) for edge in edges[1:-1]), 1.0]
    density = [0.0, *(_NORMAL.pdf(edge) for edge in edges[1:-1]), 0.0]
    mass = [below[i + 1] - below[i] for i in range(1 << bits)]
    mean = [(density[i] - density[i + 1]) / mass[i] for i in range(1 << bits)]
    return mass, mean


@functools.cache
def thresholds() -> NDArray[np.float32]:
    """The 255 values [255], in units of the scale, at which the 8-bit code steps up."""
    return np.array(_edges(MAX_BITS)[1:-1], dtype=np.float32)


@functools.cache
def level_table() -> NDArray[np.float32]:
    """The value that every code stands for, float32 [510]: the levels of b bits start at 2^b - 2."""
    table = [mean for bits in range(1, MAX_BITS + 1) for mean in _cell_moments(bits)[1]]
    result = np.array(table, dtype=np.float32)
    result.setflags(write=False)
    return result


@functools.cache
def distortion(bits: int) -> float:
    """Mean squared error of the b-bit code of a standard normal variable; 1 for no bits."""
    if bits == 0:
        return 1.0
    mass, mean = _cell_moments(bits)
    return 1.0 - sum(p * m * m for p, m in zip(mass, mean, strict=True))


def encode_rows(
    rows: NDArray[np.float32], spread: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Codes uint8 [n, dim] and scales float16 [n] of float32 rows [n, dim].

    Args:
        rows: to encode.
        spread: times a row's root mean square is its scale.

    Raises:
        ValueError: a row is not finite, its scale exceeds float16 (65504), or all are too small.
    """
    scale32 = np.sqrt(np.mean(np.square(rows, dtype=np.float32), axis=1, dtype=np.float32))
    scale32 *= np.float32(spread)
    if not np.all(scale32 <= np.finfo(np.float16).max):
        bad = int(np.flatnonzero(~(scale32 <= np.finfo(np.float16).max))[0])
        raise ValueError(
            f"row {bad} cannot be quantised: its scale is {scale32[bad]}, "
            "expected a finite value of at most 65504"
        )
    scales = scale32.astype(np.float16)
    tell_lost(rows, scales[:, None])
    divisor = scales.astype(np.float32)
    divisor[divisor == 0] = np.inf  # such a row decodes to zeros whatever its codes
    relative = rows / divisor[:, None]
    codes = np.searchsorted(thresholds(), relative.ravel(), side="right")
    return codes.astype(np.uint8).reshape(rows.shape), scales


def tell_lost(rows: NDArray[np.float32], encoded: NDArray[np.floating]) -> None:
    """Warns of rows [n, dim] that have values, but whose float16 values or scales [n, m] are zero.

    The text stays the same from step to step of a training, so that Python shows it once.

    Raises:
        ValueError: no row is left that is not zero.
    """
    zeroed = np.all(encoded == 0, axis=1)
    lost = np.flatnonzero(zeroed)
    lost = lost[rows[lost].any(axis=1)]
    if not len(lost):
        return
    remark = f"row {lost[0]} is too small for float16 scales: multiply all rows by a constant"
    if zeroed.all():
        raise ValueError(f"no row can be encoded, {remark}")
    warnings.warn(f"encoded as zeros: {remark}", EncodingWarning, stacklevel=3)


def pack_planes(codes: NDArray[np.uint8], layer_bits: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bit planes uint8 [n, bits * ceil(dim / 8)] of codes uint8 [n, dim], highest bit first.

    Bit d % 8 of byte d // 8 of a plane belongs to coordinate d.
    """
    planes = [
        np.packbits((codes >> (MAX_BITS - 1 - bit)) & 1, axis=1, bitorder="little")
        for bit in range(sum(layer_bits))
    ]
    return np.concatenate(planes, axis=1)


def unpack_planes(planes: NDArray[np.uint8], bits: int, dim: int) -> NDArray[np.uint8]:
    """The b-bit codes uint8 [n, dim] of the first b planes [n, >= bits * ceil(dim / 8)]."""
    width = (dim + 7) // 8
    codes = np.zeros((len(planes), dim), dtype=np.uint8)
    for bit in range(bits):
        plane = planes[:, bit * width : (bit + 1) * width]
        codes <<= 1
        codes |= np.unpackbits(plane, axis=1, count=dim, bitorder="little")
    return codes


def decode_codes(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], bits: int
) -> NDArray[np.float32]:
    """Rows float32 [n, dim] that b-bit codes [n, dim] and scales [n] stand for; zeros for b = 0."""
    if bits == 0:
        return np.zeros(codes.shape, dtype=np.float32)
    levels = level_table()[(1 << bits) - 2 :][codes]
    return levels * scales.astype(np.float32)[:, None]
