"""topk_blocks, in any or in descending order, beside torch, NumPy and one read of the weights."""

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
ANY_ORDER = (OURS, "torch.topk", "torch.topk, unsorted", "numpy.argpartition", LIMIT)
IN_ORDER = (OURS, "torch.topk", LIMIT)


@functools.lru_cache(maxsize=1)
def random_weights(groups: int, n: int, batches: int) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Batches of weights [groups, n], and by address the k largest of the first two, in order."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(groups, n, generator=generator) for _ in range(batches)]
    return drawn, {each.data_ptr(): torch.topk(each, n // SHARE).values for each in drawn[:2]}


def compare(
    measure, contender: str, name: str, groups: int, n: int, batches: int, in_order: bool = False
) -> None:
    num_bytes = 4 * groups * n
    case = Case("topk_blocks", name, (groups, n), "float32", num_bytes, batches * num_bytes)
    k = n // SHARE
    if contender == LIMIT:
        measure.limit(case)
        return

    drawn, largest = random_weights(groups, n, batches)

    def check(weights: Tensor, chosen: Tensor) -> None:
        found = weights.gather(1, chosen)
        if not in_order:
            found = found.sort(descending=True).values
        assert torch.equal(found, largest[weights.data_ptr()]), "these are not the k largest"
        assert all(len(torch.unique(row)) == k for row in chosen), "a block came twice"

    run = {
        OURS: lambda: lambda weights: ops.topk_blocks(weights, k, sorted=in_order),
        "torch.topk": lambda: peers.load("torch").topk(k),
        "torch.topk, unsorted": lambda: peers.load("torch").topk(k, in_order=False),
        "numpy.argpartition": lambda: peers.load("numpy").argpartition(k),
    }[contender]()
    measure(case, contender, run, drawn, check)


@pytest.mark.parametrize("contender", ANY_ORDER)
def bench_any_order(measure, contender: str, sized) -> None:
    compare(measure, contender, "10% of 2^26", 1, sized(1 << 26), 3)


@pytest.mark.parametrize("contender", IN_ORDER)
def bench_in_order(measure, contender: str, sized) -> None:
    compare(measure, contender, "10% of 2^26, in order", 1, sized(1 << 26), 3, in_order=True)


@pytest.mark.parametrize("contender", IN_ORDER)
def bench_many_groups(measure, contender: str, sized) -> None:
    name = "10% of 2^18, in order, 64 groups"
    compare(measure, contender, name, 64, sized(1 << 18), 3, in_order=True)


@pytest.mark.parametrize("contender", ANY_ORDER)
@pytest.mark.parametrize("n", GROWTH)
def bench_growth(measure, contender: str, n: int, sized) -> None:
    compare(measure, contender, f"10% of {n:,}", 1, sized(n), 8)
