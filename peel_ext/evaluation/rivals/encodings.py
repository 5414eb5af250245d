"""Encodings of the values of rival tables: float32, or 8 or 4 bits with fp16 scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Shares of the largest value that are tried as the end of the range of a row or column.
_CLIPS = np.linspace(0.3, 1.0, 15)


@dataclass(frozen=True)
class Encoding:
    """Bits of a value, and whether rows are rotated first.

    Attributes:
        bits: 32 for float32 as it is, 8 or 4 for symmetric uniform codes.
        rotated: whether a rotation evens out the coordinates before.
    """

    bits: int
    rotated: bool = False

    @property
    def name(self) -> str:
        """As it is shown."""
        kind = value_kind(self.bits)
        return f"{kind} rotated" if self.rotated else kind

    def row_bytes(self, dim: int) -> int:
        """Bytes of a row of values, with its scale."""
        return 4 * dim if self.bits == 32 else (dim * self.bits + 7) // 8 + 2

    def decoded(
        self, rows: NDArray[np.float32], rotation: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Encodes rows [n, dim] and decodes them again, in their own space, with one scale a row."""
        if self.bits == 32:
            return rows
        turned = rows @ rotation if self.rotated else rows
        coded = quantise(turned, self.bits, axis=1)
        return coded @ rotation.T if self.rotated else coded


def value_kind(bits: int) -> str:
    """The name of values of 32, 8 or 4 bits."""
    return "fp32" if bits == 32 else f"int{bits}"


def quantise(values: NDArray[np.float32], bits: int, axis: int) -> NDArray[np.float32]:
    """Values [n, dim] after symmetric uniform coding with one fp16 scale per row or column.

    The step of each is that of a few candidates with the least squared error.

    Args:
        values: [n, dim].
        bits: bits of a code; codes run from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1.
        axis: 1 for a scale per row, 0 for one per column.
    """
    top = (1 << bits - 1) - 1
    largest = np.abs(values).max(axis=axis, keepdims=True, initial=0)
    best = np.zeros_like(values)
    least = np.full(largest.shape, np.inf)
    for clip in _CLIPS:
        step = (largest * clip / top).astype(np.float16).astype(np.float32)
        divisor = np.where(step > 0, step, np.inf)
        coded = np.clip(np.rint(values / divisor), -top, top) * step
        error = np.square(coded - values).sum(axis=axis, keepdims=True)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, coded, best)
    return np.asarray(best, dtype=np.float32)


def index_bytes(num_held: int, num_items: int) -> int:
    """Bytes of saying which rows are held: the shorter of a list of ids and a bitmap; 0 for all."""
    if num_held == num_items:
        return 0
    width = 2 if num_items <= 1 << 16 else 4
    return min(num_held * width, (num_items + 7) // 8)
