"""topk_blocks beside torch.topk and a full sort."""

from __future__ import annotations

import pytest
import torch

from peel_ext import ops, reference


@pytest.mark.parametrize("n", [10_000, 1_000_000])
@pytest.mark.parametrize("contender", ["ours", "torch.topk", "reference"])
def bench_tenth_of_n(benchmark, contender: str, n: int, threads: int, generator) -> None:
    benchmark.group = f"topk_blocks, 10% of {n}, {threads} threads"
    weights = torch.rand(1, n, generator=generator)
    k = n // 10
    run = {
        "ours": lambda: ops.topk_blocks(weights, k),
        "torch.topk": lambda: torch.topk(weights, k).indices,
        "reference": lambda: reference.topk_blocks(weights, k),
    }[contender]
    chosen = weights[0, run()[0]]
    assert torch.equal(chosen, weights[0, reference.topk_blocks(weights, k)[0]])
    benchmark(run)
