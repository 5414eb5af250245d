"""The number of threads that the native core uses. NumPy alone; no result depends on it."""

from __future__ import annotations

import os

import numpy as np

from peel_ext import _core

#: Whether the number was asked for, by a call or by the environment, and is not to be guessed at.
_asked_for = bool(os.environ.get("PEEL_NUM_THREADS"))


def num_threads() -> int:
    """Threads a call into the native core may use, the caller's included.

    What :func:`set_num_threads` set, or else the environment variable ``PEEL_NUM_THREADS``; without
    either, ``torch.get_num_threads()`` as it was when the ops were imported, or before they are the
    number of processors this process may run on.

    Raises:
        ValueError: ``PEEL_NUM_THREADS`` is no integer between 1 and 1024.
    """
    return _core.num_threads()


def set_num_threads(count: int) -> None:
    """Sets how many threads a call into the native core may use, for the whole process.

    Args:
        count: 1 to 1024, the caller's thread included; 1 starts no thread at all.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"num_threads must be an integer, got {count!r}")
    if not 1 <= count <= 1024:
        raise ValueError(f"num_threads must be between 1 and 1024, got {count}")
    global _asked_for
    _core.set_num_threads(int(count))
    _asked_for = True


def check_environment() -> None:
    """Checks the environment variables of this package, before work that would end at them.

    Raises:
        ValueError: ``PEEL_NUM_THREADS`` is out of range, or ``PEEL_ISA`` names no instruction set of
            this machine.
    """
    _core.num_threads()
    _core.isa()


def follow(count: int) -> None:
    """Takes over another library's number, unless one was asked for here."""
    if not _asked_for:
        _core.set_num_threads(max(1, min(count, 1024)))
