"""topk_blocks beside torch.topk, NumPy's argpartition and one read of the weights."""

from __future__ import annotations

import functools

import peers
import pytest
import torch
from measurement import LIMIT, OURS, Case
from torch import Tensor

from peel_ext import ops

SHARE = 10  # k is a tenth of n
GROWTH = (1_000, 10_000, 100_000, 1_000_000, pytest.param(10_000_000, marks=pytest.mark.large))
CONTENDERS = (OURS, "torch.topk", "numpy.argpartition", LIMIT)


@functools.lru_cache(maxsize=1)
def random_weights(groups: int, n: int, batches: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(groups, n, generator=generator) for _ in range(batches)]


@functools.lru_cache(maxsize=1)
def largest(groups: int, n: int, batches: int) -> dict[int, Tensor]:
    """The k largest weights in descending order, by the address of the first two batches."""
    checked = random_weights(groups, n, batches)[:2]
    return {each.data_ptr(): torch.topk(each, n // SHARE).values for each in checked}


def compare(measure, contender: str, name: str, groups: int, n: int, batches: int) -> None:
    num_bytes = 4 * groups * n
    case = Case("topk_blocks", name, (groups, n), "float32", num_bytes, batches * num_bytes)
    k = n // SHARE
    if contender == LIMIT:
        measure.limit(case)
        return

    def check(weights: Tensor, chosen: Tensor) -> None:
        expected = largest(groups, n, batches)[weights.data_ptr()]
        found = weights.gather(1, chosen).sort(descending=True).values
        assert torch.equal(found, expected), "these are not the k largest"
        assert all(len(torch.unique(row)) == k for row in chosen), "a block came twice"

    run = {
        OURS: lambda: lambda weights: ops.topk_blocks(weights, k),
        "torch.topk": lambda: peers.load("torch").topk(k),
        "numpy.argpartition": lambda: peers.load("numpy").argpartition(k),
    }[contender]()
    measure(case, contender, run, random_weights(groups, n, batches), check)


@pytest.mark.parametrize("contender", CONTENDERS)
def bench_one_group(measure, contender: str, sized) -> None:
    compare(measure, contender, "10% of 2^26", 1, sized(1 << 26), 3)


@pytest.mark.parametrize("contender", CONTENDERS)
def bench_many_groups(measure, contender: str, sized) -> None:
    compare(measure, contender, "10% of 2^18, 64 groups", 64, sized(1 << 18), 3)


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize("n", GROWTH)
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_growth(measure, contender: str, n: int, sized) -> None:
    compare(measure, contender, f"10% of {n:,}", 1, sized(n), 8)
