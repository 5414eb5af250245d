"""A sign of life from every rank: who waits for one that is gone, ends.

A process that is killed closes its connections, which the others notice. A host that is cut off, or a
process that is stopped, closes none.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed.distributed_c10d import Store

#: Seconds between two signs, and without one of them.
INTERVAL = 2.0
PATIENCE = 40.0


class Heartbeat:
    """Gives and follows signs of life, in threads beside the work.

    Args:
        store: where they are given.
        rank: rank of this process.
        size: number of processes.
        claim: whether it is this rank that tells why all end.
    """

    def __init__(self, store: Store, rank: int, size: int, claim: Callable[[], bool]) -> None:
        self._store, self._rank, self._size, self._claim = store, rank, size, claim
        self._ended = threading.Event()
        self._counts = [0] * size
        self._heard = [time.monotonic()] * size
        self._answered = time.monotonic()

    def start(self) -> None:
        """Begins."""
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Ends."""
        self._ended.set()

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL):
            try:
                self._store.add(f"alive/{self._rank}", 1)
                for rank in range(self._size):
                    count = self._store.add(f"alive/{rank}", 0)
                    if count != self._counts[rank]:
                        self._counts[rank], self._heard[rank] = count, time.monotonic()
            except RuntimeError:
                return  # who keeps the store is gone, which the other thread finds
            self._answered = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            now = time.monotonic()
            if now - self._answered > PATIENCE:  # and if it kept silent, nobody could be asked
                self._end("the process that keeps the ranks together does not answer", tells=True)
            # Of others nothing can be said while this process itself was stopped.
            late = [rank for rank, heard in enumerate(self._heard) if now - heard > PATIENCE]
            if late and self._rank not in late:
                names = ", ".join(map(str, late))
                self._end(
                    f"rank {names} does not answer: its process or host is gone", self._claim()
                )

    def _end(self, why: str, tells: bool) -> None:
        """Ends the process from beside its work, which waits for what does not come."""
        if self._ended.is_set():
            return
        if tells:
            print(
                f"peel: {why}; the same command goes on from what is saved",
                file=sys.stderr,
                flush=True,
            )
        os._exit(1)
