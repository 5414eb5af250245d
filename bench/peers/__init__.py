"""The libraries we are measured against: one thin adapter each, named after it.

An adapter's functions build a contender for a kernel: a callable from one batch to the answer.
``load`` keeps a library that is missing or broken from taking the others down with it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import subprocess
import sys
import warnings
from types import ModuleType

import pytest

_LIBRARIES = {
    "faiss": "faiss",
    "fbgemm": "fbgemm_gpu",
    "implicit": "implicit",
    "numpy": "numpy",
    "torch": "torch",
    "usearch": "usearch",
}


def load(peer: str) -> ModuleType:
    """The adapter of a library, or a skip that says why there is none."""
    problem = _problem(_LIBRARIES[peer])
    if problem:
        pytest.skip(f"{peer} is no contender: {problem}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"peers.{peer}")


@functools.cache
def _problem(library: str) -> str | None:
    """Why a library cannot be imported; tried in a process of its own, which it may abort."""
    if library in sys.modules:
        return None
    if importlib.util.find_spec(library) is None:
        return "not installed (pip install 'peel_ext[bench]')"
    command = [sys.executable, "-P", "-c", f"import {library}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return f"import fails: {last[0]}"
