"""Ranks that are threads: any number of them, for what computes nothing but NumPy's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from peel_ext.scale.collectives import Collectives


class _Meeting:
    """Where threads put down what the others take."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.held: list[Any] = [None] * size


class ThreadRank(Collectives):
    """One of some threads, with the collectives that all others come down to."""

    def __init__(self, rank: int, size: int, meeting: _Meeting) -> None:
        self.rank, self.size, self.device = rank, size, torch.device("cpu")
        self.sent_bytes = 0
        self._meeting = meeting

    def _all(self, value: Any) -> list[Any]:
        self._meeting.held[self.rank] = value
        self._meeting.barrier.wait()
        found = list(self._meeting.held)
        self._meeting.barrier.wait()
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        return self.stack(tensor).sum(0, dtype=tensor.dtype)

    def max(self, tensor: Tensor) -> Tensor:
        return self.stack(tensor).max(0).values

    def stack(self, tensor: Tensor) -> Tensor:
        return torch.stack(self._all(tensor))

    def copy(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        return self._all(tensor)[0].clone()

    def exchange_rows(
        self, rows: Tensor, leaving: Sequence[int], arriving: Sequence[int]
    ) -> Tensor:
        parts = self._all(rows.split([*leaving]))
        made = torch.cat([each[self.rank] for each in parts])
        assert len(made) == sum(arriving)
        return made


def run(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(ranks, *args)`` returns on each of some ranks; an error of any is raised."""
    meeting = _Meeting(size)

    def begin(rank: int) -> Any:
        try:
            return work(ThreadRank(rank, size, meeting), *args)
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(begin, rank) for rank in range(size)]
        errors = [error for each in futures if (error := each.exception()) is not None]
        told = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        if told or errors:
            raise (told or errors)[0]
        return [each.result() for each in futures]
