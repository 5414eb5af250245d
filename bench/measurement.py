"""What one measurement is, and the streaming limit it is held against."""

from __future__ import annotations

import itertools
import statistics
import time
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
Call = Callable[[], Any]  # a contender on its next batch

MAX_TURNS = 9
MIN_TURNS = 3
MAX_SECONDS = 0.5  # of the turns, once there are MIN_TURNS
WARM_SECONDS = 0.01
TURN_SECONDS = 0.02
QUIET_SECONDS = 0.3  # waited at most


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
    """Checks a contender's answers, then times it on batches in turn.

    On a machine that is not ours alone, speed changes by a factor of two from one minute to the
    next. So each other contender takes turns with ours, and its ratio to ours is the median of the
    ratios of such neighbours; the times of pytest-benchmark stand beside that.
    """

    def __init__(self, benchmark: Any, threads: int, ours: dict[str, Call]) -> None:
        self.benchmark = benchmark
        self.threads = threads
        self.ours = ours  # of this group, where it was measured: it comes first in each

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

        def call() -> Any:
            return run(next(turn))

        if contender == OURS:
            self.ours.clear()  # one group's tables are enough in memory
            self.ours[self.benchmark.group] = call
        ours = self.ours.get(self.benchmark.group)
        if ours and contender != OURS and self.benchmark.enabled:
            self.benchmark.extra_info["to_ours"] = float(f"{ratio_of_times(call, ours):.4g}")
        self.benchmark(call)


def ratio_of_times(call: Call, other: Call) -> float:
    """How many times as long one call takes as another, both taking turns."""
    ratios: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    while len(ratios) < MIN_TURNS or (len(ratios) < MAX_TURNS and time.perf_counter() < end):
        ratios.append(time_of_turn(call) / time_of_turn(other))
    return statistics.median(ratios)


def time_of_turn(call: Call) -> float:
    """Median seconds of a call, after some that find the other's data in the caches."""
    wait_for_quiet()
    start = time.perf_counter()
    call()
    while time.perf_counter() < start + WARM_SECONDS:
        call()
    seconds: list[float] = []
    total = 0.0
    while total < TURN_SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        total += seconds[-1]
    return statistics.median(seconds)


def wait_for_quiet() -> None:
    """Sleeps while the workers of another pool still spin, some for a tenth of a second."""
    end = time.perf_counter() + QUIET_SECONDS
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            return


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
