"""Memory that was freed: given back to the system, where the C library can do so."""

from __future__ import annotations

import ctypes
import sys


def trim_memory() -> None:
    """Gives the system what the allocator of glibc keeps of freed memory; elsewhere nothing is done.

    It keeps what lies between arrays still in use, several hundred megabytes after a stage of training.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
