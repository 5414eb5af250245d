"""Where a long stage keeps its state, so that an interruption loses little."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

#: Seconds between two checkpoints, and how many times longer than the last took to write.
_INTERVAL = 10.0
_PATIENCE = 50.0


class Checkpoint(Protocol):
    """A place for the state of one stage."""

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state saved last, or None."""

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state, atomically."""


class Timer:
    """Says when a checkpoint is due, so that writing them takes a small share of the time."""

    def __init__(self, interval: float = _INTERVAL) -> None:
        self._interval = interval
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self._interval

    def saved(self, began: float) -> None:
        """Notes a save that began at that moment of ``time.monotonic``."""
        self._last = time.monotonic()
        self._interval = max(self._interval, _PATIENCE * (self._last - began))
