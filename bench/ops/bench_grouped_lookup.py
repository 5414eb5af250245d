"""grouped_lookup beside F.embedding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from peel_ext import ElasticEmbedding, PlanesLayout

ROWS, DIM, COUNT = 100_000, 64, 16_384


@pytest.mark.parametrize("contender", ["dense", "planes, 8 bits", "planes, 4 bits", "F.embedding"])
def bench_forward(benchmark, contender: str, threads: int, generator) -> None:
    benchmark.group = f"grouped_lookup, {COUNT} of {ROWS} x {DIM}, {threads} threads"
    weight = torch.randn(ROWS, DIM, generator=generator)
    indices = torch.randint(0, ROWS, (COUNT,), generator=generator)
    groups = torch.randint(0, 4, (COUNT,), generator=generator)
    if contender == "F.embedding":
        benchmark(lambda: F.embedding(indices, weight))
        return
    bits = (4,) if "4" in contender else (8,)
    module = ElasticEmbedding.from_pretrained(weight, num_groups=4, layout=PlanesLayout(bits))
    if contender == "dense":
        assert torch.equal(module(indices, groups), F.embedding(indices, weight))
        benchmark(lambda: module(indices, groups))
        return
    with module.budget(1 << 30):
        error = (module(indices, groups) - F.embedding(indices, weight)).square().mean()
        assert error < (0.02 if bits == (4,) else 0.001)
        benchmark(lambda: module(indices, groups))
