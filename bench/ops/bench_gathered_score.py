"""gathered_score beside matmul and topk."""

from __future__ import annotations

import pytest
import torch

from peel_ext import ElasticEmbedding, PlanesLayout, ops

ROWS, DIM, N = 100_000, 64, 20


@pytest.mark.parametrize("users", [1, 64])
@pytest.mark.parametrize("contender", ["dense", "planes, 8 bits", "planes, 4 bits", "torch"])
def bench_best_rows(benchmark, contender: str, users: int, threads: int, generator) -> None:
    benchmark.group = f"gathered_score, {users} users, {ROWS} x {DIM}, {threads} threads"
    table = torch.randn(ROWS, DIM, generator=generator)
    vectors = torch.randn(users, DIM, generator=generator)
    plain = torch.topk(vectors @ table.T, N)
    if contender == "torch":
        benchmark(lambda: torch.topk(vectors @ table.T, N))
        return
    held: object = table
    if contender != "dense":
        bits = (4,) if "4" in contender else (8,)
        module = ElasticEmbedding.from_pretrained(table, layout=PlanesLayout(bits))
        held = module.generate(0, 1 << 30)
    indices, _ = ops.gathered_score(vectors, held, N)
    pairs = zip(indices.tolist(), plain.indices.tolist(), strict=True)
    shared = sum(len(set(found) & set(expected)) for found, expected in pairs)
    assert shared >= users * N * {"dense": 0.99, "planes, 8 bits": 0.9}.get(contender, 0.6)
    benchmark(lambda: ops.gathered_score(vectors, held, N))
