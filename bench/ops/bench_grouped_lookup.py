"""grouped_lookup beside F.embedding, EmbeddingBag, NumPy and FBGEMM, dense and quantised."""

from __future__ import annotations

import peers
import pytest
import torch
from inputs import (
    EVERYTHING,
    PLANES_BITS,
    elastic_table,
    mean_distinct,
    random_indices,
    random_table,
)
from measurement import LIMIT, OURS, Case, Run
from torch import Tensor

from peel_ext import ops
from peel_ext.format.quantizer import distortion

ROWS, DIM, COUNT, BATCHES = 1_000_000, 64, 16_384, 16
GROWTH = (1_000, 10_000, 100_000, 1_000_000, pytest.param(10_000_000, marks=pytest.mark.large))
DENSE_PEERS = ("F.embedding", "F.embedding_bag", "numpy.take", "FBGEMM")
PAIRS = [
    *(("dense", contender) for contender in (OURS, *DENSE_PEERS, LIMIT)),
    *(("columns, float32", contender) for contender in (OURS, "F.embedding", LIMIT)),
    *((name, contender) for name in PLANES_BITS for contender in (OURS, "F.embedding", LIMIT)),
    *((f"planes, {bits} bits", f"FBGEMM, {bits} bits") for bits in (2, 4, 8)),
]
PAIRS.sort(key=lambda pair: ["dense", "columns, float32", *PLANES_BITS].index(pair[0]))


def ours(held: str, rows: int) -> Run:
    if held == "dense":
        table = random_table(rows, DIM)
        return lambda indices: ops.grouped_lookup(table, indices)
    module = elastic_table(held, rows, DIM)

    def run(indices: Tensor) -> Tensor:
        with module.budget(EVERYTHING):
            return module(indices)

    return run


def compare(
    measure, contender: str, held: str, distribution: str, rows: int, count: int, name: str
) -> None:
    batches = random_indices(distribution, rows, count, BATCHES)
    row_bytes = DIM * PLANES_BITS[held] // 8 + 2 if held in PLANES_BITS else 4 * DIM
    touched = mean_distinct(batches) * row_bytes + count * (8 + 4 * DIM)
    visited = len(torch.unique(torch.cat(batches))) * row_bytes
    case = Case("grouped_lookup", name, (rows, DIM, count), held, touched, max(visited, touched))
    if contender == LIMIT:
        measure.limit(case)
        return
    table = random_table(rows, DIM)
    means, error = table, 0.0  # the rows an answer is held against, and how far off on average
    if contender == OURS:
        run = ours(held, rows)
        if held in PLANES_BITS:
            error = distortion(PLANES_BITS[held])
    elif contender.startswith("FBGEMM, "):
        fbgemm = peers.load("fbgemm")
        run, means = fbgemm.quantized_embedding(table, count, PLANES_BITS[held])
    else:
        run = {
            "F.embedding": lambda: peers.load("torch").embedding(table),
            "F.embedding_bag": lambda: peers.load("torch").embedding_bag(table, count),
            "numpy.take": lambda: peers.load("numpy").take(table),
            "FBGEMM": lambda: peers.load("fbgemm").embedding(table, count),
        }[contender]()

    def check(indices: Tensor, rows: Tensor) -> None:
        if not error:
            assert torch.equal(rows, means[indices])
            return
        found = torch.zeros_like(means).index_copy(0, indices, rows)
        assert torch.equal(found[indices], rows), "equal indices gave different rows"
        distinct = torch.unique(indices)
        off = (found - means)[distinct].square().mean()
        assert 0.8 * error < off < 1.2 * error, f"mean squared error {off}, not {error}"

    measure(case, contender, run, batches, check)


@pytest.mark.parametrize(("held", "contender"), PAIRS)
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def bench_forward(measure, held: str, contender: str, distribution: str, sized) -> None:
    compare(
        measure, contender, held, distribution, sized(ROWS), sized(COUNT), f"{held}, {distribution}"
    )


@pytest.mark.parametrize("contender", [OURS, "F.embedding", "FBGEMM", LIMIT])
@pytest.mark.parametrize("rows", GROWTH)
@pytest.mark.parametrize("indices", ["uniform", "zipf"])
def bench_growth(measure, indices: str, contender: str, rows: int, sized, reserve) -> None:
    reserve(4 * rows * DIM * 4)
    name = f"dense, {rows:,} rows, {indices}"
    compare(measure, contender, "dense", indices, sized(rows), sized(COUNT), name)
