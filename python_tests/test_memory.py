"""Memory that was freed goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# What was freed lies between two arrays still in use, where the allocator keeps it by itself.
PROGRAM = """
import numpy as np
from peel_ext.memory import trim_memory

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

np.ones(31 * 2**20, np.uint8)  # from here on arrays of this size come from the heap
arrays = [np.ones(2**20, np.uint8) for _ in range(200)]
arrays = [arrays[0], arrays[-1]]
before = held()
trim_memory()
print(before - held())
"""


def test_memory_between_arrays_in_use_is_given_back() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only the allocator of glibc is asked to")
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 150 * 2**20
