"""gathered_score beside torch, NumPy, faiss, usearch and implicit."""

from __future__ import annotations

import functools

import peers
import pytest
import torch
from inputs import (
    EVERYTHING,
    PLANES_BITS,
    elastic_table,
    random_indices,
    random_table,
    random_vectors,
)
from measurement import LIMIT, OURS, Case, Run
from torch import Tensor

from peel_ext import PersonalizedElasticEmbedding, ops
from peel_ext.format import unpack_embedding
from peel_ext.format.quantizer import distortion

ROWS, DIM, N, BATCHES = 1_000_000, 64, 20, 8
GROWTH = (1_000, 10_000, 100_000, 1_000_000, pytest.param(10_000_000, marks=pytest.mark.large))
WIDTHS = (16, 32, 48, 100, 128, 256)
FLOAT32_PEERS = ("torch", "numpy", "faiss FlatIP", "usearch", "implicit")
MANY_USER_PEERS = ("torch", "numpy", "faiss FlatIP", "implicit")  # usearch: 64 times one user
FLOAT16_PEERS = ("numpy, float16", "faiss SQ fp16")
INT8_PEERS = ("numpy, int8", "faiss SQ8", "usearch, int8")
FAISS_KINDS = {"faiss SQ8": "8bit", "faiss SQ4": "4bit", "faiss SQ fp16": "fp16"}
FAISS_KINDS |= {f"faiss EDEN{bits}": f"{bits}bit_eden" for bits in PLANES_BITS.values()}
RABITQ_BITS = 4
PLANES_PEERS = {4: ("faiss SQ4", f"faiss RaBitQ{RABITQ_BITS}")}  # of some widths alone
ONE_USER = [
    *(("dense", contender) for contender in (OURS, *FLOAT32_PEERS, LIMIT)),
    *(("columns, float32", contender) for contender in (OURS, "torch", "faiss FlatIP", LIMIT)),
    *(("columns, float16", contender) for contender in (OURS, *FLOAT16_PEERS, LIMIT)),
    *(("columns, int8", contender) for contender in (OURS, *INT8_PEERS, LIMIT)),
    *(
        (name, contender)
        for name, bits in PLANES_BITS.items()
        for contender in (
            OURS,
            "faiss SQ8",
            f"faiss EDEN{bits}",
            *PLANES_PEERS.get(bits, ()),
            LIMIT,
        )
    ),
]


@functools.cache
def embedding_of(held: str, rows: int, percent: int = 100) -> PersonalizedElasticEmbedding:
    """What a budget of some percent of the bytes of all rows keeps."""
    module = elastic_table(held, rows, DIM)
    full = module.generate(0, EVERYTHING)
    return full if percent == 100 else module.generate(0, percent * full.nbytes // 100)


@functools.cache
def quantized(contender: str, rows: int) -> tuple[Run, Tensor]:
    return peers.load("faiss").best_quantized_rows(
        random_table(rows, DIM), N, FAISS_KINDS[contender]
    )


def rows_held(pee: PersonalizedElasticEmbedding) -> Tensor:
    """Decoded by the slow reader, float32 [num_embeddings, DIM]; NaN for rows not held."""
    unpacked = unpack_embedding(pee.buffer)
    held = unpacked.held != 0
    rows = torch.full((pee.num_embeddings, DIM), torch.nan)
    rows[torch.from_numpy(unpacked.ids[held])] = torch.from_numpy(unpacked.rows[held])
    return rows


def contender_of(
    contender: str, held: str, rows: int, threads: int, dim: int
) -> tuple[Run, Tensor, float]:
    """A contender, the rows it holds, and by how much a score may be off."""
    table = random_table(rows, dim)
    if contender == OURS and held == "dense":
        return lambda users: ops.gathered_score(users, table, N), table, 1e-3
    if contender == OURS:
        pee = embedding_of(held, rows)
        return lambda users: ops.gathered_score(users, pee, N), rows_held(pee), 1e-3
    if contender in FAISS_KINDS:
        return *quantized(contender, rows), 1e-3
    if contender == f"faiss RaBitQ{RABITQ_BITS}":
        # It estimates the scores of rows: six standard deviations of what its codes leave out.
        off = 6 * (DIM * distortion(RABITQ_BITS)) ** 0.5
        return peers.load("faiss").best_rabitq_rows(table, N, RABITQ_BITS), table, off
    if contender == "numpy, float16":
        return *peers.load("numpy").best_float16_rows(table, N), 1e-3
    if contender == "numpy, int8":
        return *peers.load("numpy").best_int8_rows(table, N), 1e-3
    if contender == "usearch, int8":
        return *peers.load("usearch").best_int8_rows(table, N, threads), 0.5
    run = {
        "torch": lambda: peers.load("torch").best_rows(table, N),
        "numpy": lambda: peers.load("numpy").best_rows(table, N),
        "faiss FlatIP": lambda: peers.load("faiss").best_rows(table, N),
        "usearch": lambda: peers.load("usearch").best_rows(table, N, threads),
        "implicit": lambda: peers.load("implicit").best_rows(table, N, threads),
    }[contender]()
    return run, table, 1e-3


def compare(
    measure, contender: str, held: str, num_users: int, rows: int, name: str, dim: int = DIM
) -> None:
    num_bytes = 4 * rows * dim if held == "dense" else embedding_of(held, rows).nbytes
    case = Case("gathered_score", name, (num_users, rows, dim, N), held, num_bytes, num_bytes)
    if contender == LIMIT:
        measure.limit(case)
        return
    run, means, tolerance = contender_of(contender, held, rows, measure.threads, dim)
    check = check_best(means, tolerance)
    measure(case, contender, run, random_vectors(num_users, dim, BATCHES), check)


def check_best(means: Tensor, tolerance: float):
    """Holds the scores against the best ones of the rows held, and each against its own row."""

    def check(users: Tensor, answer: tuple[Tensor, Tensor]) -> None:
        indices, scores = answer
        best = torch.topk((users @ means.T).nan_to_num(-torch.inf), N).values
        assert torch.allclose(scores, best, rtol=0, atol=tolerance), "these are not the best rows"
        own = (users[:, None] * means[indices]).sum(dim=2)
        assert torch.allclose(scores, own, rtol=0, atol=tolerance), "a score is not its row's"
        assert all(len(torch.unique(row)) == N for row in indices), "a row came twice"

    return check


@pytest.mark.parametrize(("held", "contender"), ONE_USER)
def bench_one_user(measure, held: str, contender: str, sized) -> None:
    compare(measure, contender, held, 1, sized(ROWS), f"{held}, 1 user")


@pytest.mark.parametrize("contender", [OURS, "torch", "faiss FlatIP", LIMIT])
@pytest.mark.parametrize("dim", WIDTHS)
def bench_width(measure, dim: int, contender: str, sized) -> None:
    rows = sized(6_400_000 // dim)
    compare(measure, contender, "dense", 1, rows, f"dense, 1 user, {dim} values", dim)


@pytest.mark.parametrize("contender", [OURS, *MANY_USER_PEERS, LIMIT])
@pytest.mark.parametrize("num_users", [2, 4, 64])
def bench_many_users(measure, num_users: int, contender: str, sized) -> None:
    compare(measure, contender, "dense", num_users, sized(ROWS), f"dense, {num_users} users")


@pytest.mark.parametrize("contender", [OURS, "torch", LIMIT])
def bench_full_ranking(measure, contender: str, sized) -> None:
    """Every user of a data set of Gowalla's size, without the 27 items each has already."""
    num_users, rows = sized(29_858), sized(40_981)
    table, users = random_table(rows, DIM), random_vectors(num_users, DIM, 2)
    indptr = torch.arange(0, 27 * num_users + 1, 27)
    exclude = torch.cat(random_indices("zipf", rows, 27, num_users))
    # Users, lists and answers once each; the table fits into a cache.
    num_bytes = 4 * DIM * (num_users + rows) + 8 * len(exclude) + 12 * N * num_users
    shape = (num_users, rows, DIM, N)
    case = Case("gathered_score", "dense, full ranking", shape, "dense", num_bytes, num_bytes)
    if contender == LIMIT:
        measure.limit(case)
        return

    def ours(users: Tensor) -> tuple[Tensor, Tensor]:
        return ops.gathered_score(users, table, N, exclude_indptr=indptr, exclude=exclude)

    def check(users: Tensor, answer: tuple[Tensor, Tensor]) -> None:
        some = torch.arange(0, num_users, max(1, num_users // 500))
        scores = users[some] @ table.T
        scores.scatter_(1, exclude.view(-1, 27)[some], -torch.inf)
        indices, best = answer[0][some], answer[1][some]
        assert torch.allclose(best, torch.topk(scores, N).values, rtol=0, atol=1e-3)
        assert torch.allclose(best, scores.gather(1, indices), rtol=0, atol=1e-3)

    torch_peer = peers.load("torch")
    run = ours if contender == OURS else torch_peer.ranking(table, N, indptr, exclude)
    measure(case, contender, run, users, check)


@pytest.mark.parametrize("contender", [OURS, LIMIT])
@pytest.mark.parametrize("percent", [1, 10, 50, 100])
@pytest.mark.parametrize("held", ["columns, int8", "planes, 8 bits"])
def bench_budget(measure, held: str, percent: int, contender: str, sized) -> None:
    rows = sized(ROWS)
    pee = embedding_of(held, rows, percent)
    name = f"{held}, {percent}% of the bytes"
    case = Case("gathered_score", name, (1, rows, DIM, N), held, pee.nbytes, pee.nbytes)
    if contender == LIMIT:
        measure.limit(case)
        return

    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        return ops.gathered_score(users, pee, N)

    check = check_best(rows_held(pee), 1e-3)
    measure(case, OURS, run, random_vectors(1, DIM, BATCHES), check)


@pytest.mark.parametrize("contender", [OURS, "torch", "faiss FlatIP", LIMIT])
@pytest.mark.parametrize("rows", GROWTH)
def bench_growth(measure, contender: str, rows: int, sized, reserve) -> None:
    reserve(5 * rows * DIM * 4)
    compare(measure, contender, "dense", 1, sized(rows), f"dense, 1 user, {rows:,} rows")
