"""Messages of ranks to each other, in words and numbers: counts, values that JSON knows, errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.errors import DataError, ElsewhereError
from peel_ext.scale.collectives import Collectives


def gather(value: Any, ranks: Collectives) -> list[Any]:
    """Gathers what every rank has, in order: values that JSON knows."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(each.numpy().tobytes()) for each in ranks.exchange([text] * ranks.size)]


def count_before(count: int, ranks: Collectives) -> tuple[int, int]:
    """The sum of a count over the ranks before this one, and over all."""
    counts = ranks.stack(torch.tensor(count, dtype=torch.int64, device="cpu")).tolist()
    return sum(counts[: ranks.rank]), sum(counts)


def exchange(
    array: NDArray[Any], leaving: list[int], ranks: Collectives
) -> tuple[NDArray[Any], list[int]]:
    """Sends runs of an array to the ranks.

    Args:
        array: [sum of leaving], what is for rank 0 first.
        leaving: how many are for each rank.
        ranks: the processes.

    Returns:
        What arrives, that of rank 0 first, and how many from each.
    """
    counts = torch.tensor(leaving, dtype=torch.int64, device="cpu")
    arriving = ranks.stack(counts)[:, ranks.rank].tolist()
    return exchange_counted(array, leaving, arriving, ranks), arriving


def exchange_counted(
    array: NDArray[Any], leaving: list[int], arriving: list[int], ranks: Collectives
) -> NDArray[Any]:
    """The same where it is known how many arrive from each rank."""
    rows = torch.from_numpy(np.ascontiguousarray(array))
    made: NDArray[Any] = ranks.exchange_rows(rows, leaving, arriving).numpy()
    return made


def check_same(name: str, value: object, ranks: Collectives) -> None:
    """Raises ValueError on all ranks where they were given different values.

    Args:
        name: what the error calls them.
        value: what the text of tells apart.
        ranks: the processes.
    """
    others = ranks.differing(hashlib.sha256(repr(value).encode()).digest())
    if others:
        raise ValueError(f"{name} must be the same on all ranks, got others on rank {others[0]}")


@contextmanager
def agreed(ranks: Collectives, step: str = "this step") -> Iterator[None]:
    """Ends a step of one rank's own work on all ranks, where it fails on one.

    Args:
        ranks: the processes.
        step: what is called, where ranks might call something else.

    Raises:
        DataError: on all ranks, that of the first, where one of them raised it.
        ElsewhereError: on the other ranks, with another error of the first that had one.
        ValueError: on all ranks, where one is at another step.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    text = None if error is None else f"{type(error).__name__}: {error}"
    of_data = str(error) if isinstance(error, DataError) else None
    told = gather([step, text, of_data], ranks)
    first = next((each for *_, each in told if each is not None), None)
    if first is not None:
        raise DataError(first) from error
    if error is not None:
        raise error
    for rank, (_, text, _) in enumerate(told):
        if text is not None:
            raise ElsewhereError(f"rank {rank} failed: {text}")
    for rank, (other, *_) in enumerate(told):
        if other != told[0][0]:
            raise ValueError(
                f"ranks must call the same at the same time, got {told[0][0]} on rank 0 and {other} "
                f"on rank {rank}"
            )
