"""What one measurement is, and the streaming limit it is held against."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

OURS = "peel_ext"
LIMIT = "streaming read"

Run = Callable[[Any], Any]
Check = Callable[[Any, Any], None]


@dataclass(frozen=True)
class Case:
    """What all contenders of one group compute, on the same input.

    Attributes:
        kernel: its name, as everywhere.
        name: the setting, unique within the kernel.
        shape: sizes of the input.
        dtype: of the values held.
        bytes_touched: of one call: every byte that must be read or written at least once.
        footprint: bytes that all batches in rotation visit together; against the cache sizes of the
            machine it says where the data comes from.
    """

    kernel: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes_touched: int
    footprint: int


class Measure:
    """Checks a contender's answers, then times it on batches in turn."""

    def __init__(self, benchmark: Any, threads: int) -> None:
        self.benchmark = benchmark
        self.threads = threads

    def __call__(
        self, case: Case, contender: str, run: Run, batches: Sequence[Any], check: Check
    ) -> None:
        """Times ``run`` on every batch in turn, so that no answer can come from a cache.

        ``check`` gets each of the first two batches and the answer to it, in order.
        """
        with threadpool_limits(self.threads):  # every BLAS and OpenMP that is loaded by now
            for batch in batches[:2]:
                check(batch, run(batch))
            self._time(case, contender, run, batches)

    def limit(self, case: Case) -> None:
        """Times one read of the bytes the case touches: no contender can be faster from memory."""
        windows = streaming_windows(case.bytes_touched, case.footprint)
        assert all(int(window.sum()) == len(window) for window in windows)
        self._time(case, LIMIT, Tensor.sum, windows)

    def _time(self, case: Case, contender: str, run: Run, batches: Sequence[Any]) -> None:
        self.benchmark.group = f"{case.kernel}, {case.name}, {self.threads} threads"
        self.benchmark.extra_info.update(
            kernel=case.kernel,
            case=case.name,
            contender=contender,
            shape=list(case.shape),
            dtype=case.dtype,
            threads=self.threads,
            bytes=case.bytes_touched,
            footprint=case.footprint,
        )
        turn = itertools.cycle(batches)
        self.benchmark(lambda: run(next(turn)))


def streaming_windows(bytes_touched: int, footprint: int) -> list[Tensor]:
    """Views int64 of ``bytes_touched`` bytes each, that together cover the footprint.

    Reading one is ``Tensor.sum``: of the readers in torch, NumPy and libc it alone came within a
    tenth of the fastest in every cache and in memory, with 1 and with 2 threads. NumPy's sum of
    float32 reaches less than half of that.
    """
    words = max(1, bytes_touched // 8)
    count = max(1, footprint // (8 * words))
    ones = torch.ones(count * words, dtype=torch.int64)
    return list(ones.split(words))
