"""Processes that work together and do what tests ask of them, over and over."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_joined = ExitStack()
_ranks: Any = None


def begin(rank: int, size: int, port: int) -> None:
    """Makes this process a rank."""
    global _ranks
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    import torch

    from peel_ext.scale.collectives import Collectives

    torch.set_num_threads(1)
    _ranks = _joined.enter_context(Collectives.joined())


def end() -> None:
    """Leaves the others, at the same time as they do."""
    _joined.close()


@functools.cache
def load(path: str) -> Any:
    """The module of a file of tests, which no import finds."""
    spec = importlib.util.spec_from_file_location(f"loaded_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(path: str, name: str, *args: Any) -> Any:
    """What a function makes of the collectives of this process and the arguments."""
    return getattr(load(path), name)(_ranks, *args)


class RankProcesses:
    """Two processes or more, each a rank."""

    def __init__(self, size: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._executors = [
            ProcessPoolExecutor(1, context, begin, (rank, size, port)) for rank in range(size)
        ]

    def run(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``work(ranks, *args)`` returns on each rank."""
        where = work.__code__.co_filename, work.__name__
        futures = [executor.submit(call, *where, *args) for executor in self._executors]
        return [future.result(120) for future in futures]

    def close(self) -> None:
        """Ends them."""
        for future in [executor.submit(end) for executor in self._executors]:
            future.result(120)
        for executor in self._executors:
            executor.shutdown()
