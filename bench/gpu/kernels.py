"""Times what users call on a GPU beside torch and FBGEMM, in one run on one card.

    python bench/gpu/kernels.py [--small] [--append FILE]

Answers are compared first. Prints a line per case, with what was wanted in brackets, and with
``--append`` adds it as JSON: microseconds, also of a captured CUDA graph, those of peers, and the share
of the streaming limit, which is what a copy of 4 GiB reaches. With PEEL_DATA it trains on Gowalla, too.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gpu_timing
import torch
import torch.nn.functional as F
from gpu_timing import DEVICE, LIMIT, ROTATION, Case, Run
from torch import Tensor

from peel_ext import ElasticEmbedding, PlanesLayout, ops
from peel_ext.optim import RowwiseAdagrad

DIM = 64
EVERYTHING = 1 << 50  # a budget that keeps all blocks
FOUR_BITS = PlanesLayout((2, 1, 1))
FOUR_BITS_BYTES = DIM // 2 + 2  # of a row with its scale
GOWALLA_SECONDS = 60


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32, device=DEVICE)


def indices_below(rows: int, count: int) -> list[Tensor]:
    return [torch.randint(rows, (count,), device=DEVICE) for _ in range(ROTATION)]


def fbgemm() -> ModuleType | None:
    try:
        return importlib.import_module("peers.fbgemm")
    except (ImportError, OSError) as problem:
        print(f"FBGEMM is no contender: {problem}")
        return None


def lookups(small: bool) -> Iterator[Case]:
    rows, count = (10_000, 1 << 10) if small else (1_000_000, 1 << 20)
    weight, indices = normal(rows, DIM), indices_below(rows, count)
    peers: dict[str, Run] = {"F.embedding": lambda turn: F.embedding(indices[turn], weight)}
    assert torch.equal(ops.grouped_lookup(weight, indices[0]), F.embedding(indices[0], weight))
    if theirs := fbgemm():
        batched = theirs.embedding(weight, count)
        assert torch.equal(batched(indices[0]), F.embedding(indices[0], weight))
        peers["FBGEMM"] = lambda turn: batched(indices[turn])
    yield Case(
        "grouped_lookup", f"{count} of {rows} rows of float32",
        lambda turn: ops.grouped_lookup(weight, indices[turn]), count * (8 + 2 * 4 * DIM), peers,
        {LIMIT: 0.7, "F.embedding": 1.0},
    )  # fmt: skip

    module = ElasticEmbedding.from_pretrained(weight, layout=FOUR_BITS)
    pee = module.generate(0, EVERYTHING)
    with torch.no_grad(), module.budget(EVERYTHING):
        some = indices[0][:10_000]
        assert torch.equal(module(some).cpu(), torch.from_numpy(pee.lookup(some.cpu().numpy())))
        # Item groups and codes are read, values written; what is held fits the cache.
        yield Case(
            "grouped_lookup", f"{count} of {rows} rows of planes, 4 bits",
            lambda turn: module(indices[turn]), count * (8 + 4 + FOUR_BITS_BYTES + 4 * DIM),
            {"F.embedding": peers["F.embedding"]}, {"F.embedding": 2.0},
        )  # fmt: skip


def training_steps(small: bool) -> Iterator[Case]:
    rows, count = (10_000, 1 << 10) if small else (1_000_000, 1 << 20)
    indices, upstream = indices_below(rows, count), normal(count, DIM)
    start, learning_rate, eps = normal(rows, DIM), 0.1, 1e-8

    def stepper(embedding: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Run:
        def step(turn: int) -> None:
            optimizer.zero_grad()
            embedding(indices[turn]).backward(upstream)
            optimizer.step()

        return step

    ours = ElasticEmbedding.from_pretrained(start.clone(), freeze=False, sparse=True)
    step = stepper(ours, RowwiseAdagrad(ours.parameters(), lr=learning_rate, eps=eps))
    step(0)
    gradient = torch.zeros_like(start).index_add_(0, indices[0], upstream)
    root = gradient.square().mean(1, keepdim=True).sqrt()
    want = start - learning_rate * gradient / (root + eps)
    torch.testing.assert_close(ours.weight.detach(), want, rtol=1e-4, atol=1e-4)
    plain = torch.nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=True)
    adagrad = torch.optim.Adagrad(plain.parameters(), lr=learning_rate, eps=eps)
    peers = {"torch Adagrad of a sum a value": stepper(plain, adagrad)}
    if theirs := fbgemm():
        batched, weight = theirs.training_step(start, count, learning_rate, eps)
        batched((indices[0], upstream))
        torch.testing.assert_close(weight.detach(), want, rtol=1e-4, atol=1e-4)
        peers["FBGEMM"] = lambda turn: batched((indices[turn], upstream))
    # Rows are read and written twice, looked up and stepped; gradients and sums are read, too.
    yield Case(
        "update_rows", f"forward, backward, rowwise Adagrad, {count} of {rows} rows", step,
        count * (2 * 8 + 5 * 4 * DIM + 2 * 4), peers, {"FBGEMM": 2.0},
    )  # fmt: skip


def selections(small: bool) -> Iterator[Case]:
    n = 1 << 16 if small else 1 << 26
    k = n // 10
    weights = [normal(n) for _ in range(ROTATION)]
    want = torch.topk(weights[0], k).values
    peers: dict[str, Run] = {
        "torch.topk": lambda turn: torch.topk(weights[turn], k),
        "torch.topk, unsorted": lambda turn: torch.topk(weights[turn], k, sorted=False),
    }

    def ours(in_order: bool) -> Run:
        return lambda turn: ops.topk_blocks(weights[turn], k, sorted=in_order)

    for in_order, name in ((False, "any order"), (True, "in order")):
        chosen = weights[0][ops.topk_blocks(weights[0], k, sorted=in_order)]
        assert torch.equal(chosen if in_order else chosen.sort(descending=True).values, want)
        case = f"{k} of {n}, {name}"
        yield Case("topk_blocks", case, ours(in_order), 4 * n + 8 * k, peers, {"torch.topk": 5.0})


def scores_of_many_users(small: bool) -> Iterator[Case]:
    rows, num_users, n = (10_000, 256, 20) if small else (1_000_000, 4096, 20)
    table, users = normal(rows, DIM), [normal(num_users, DIM) for _ in range(ROTATION)]
    ops.gathered_score(users[0], table, n)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    indices, scores = ops.gathered_score(users[0], table, n)
    memory = torch.cuda.max_memory_allocated() - before
    few = min(256, num_users)
    want = torch.topk(users[0][:few] @ table.T, n).values
    torch.testing.assert_close(scores[:few], want, rtol=1e-4, atol=1e-4)
    own = torch.einsum("und,ud->un", table[indices], users[0])
    torch.testing.assert_close(own, scores, rtol=1e-4, atol=1e-4)
    yield Case(
        "gathered_score", f"{n} of {rows} rows for {num_users} users",
        lambda turn: ops.gathered_score(users[turn], table, n),
        4 * DIM * (rows + num_users) + 12 * num_users * n,
        {"torch matmul and topk": lambda turn: torch.topk(users[turn] @ table.T, n)},
        {"torch matmul and topk": 3.0}, {"memory_bytes": memory},
    )  # fmt: skip


def scores_of_one_user(small: bool) -> Iterator[Case]:
    rows, n = (10_000, 20) if small else (10_000_000, 20)
    table, users = normal(rows, DIM), [normal(1, DIM) for _ in range(ROTATION)]
    pee = ElasticEmbedding.from_pretrained(table, layout=FOUR_BITS).generate(0, EVERYTHING)
    got = ops.gathered_score(users[0], pee, n)[1]
    want = torch.from_numpy(pee.score(users[0].cpu().numpy(), n)[1])
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)
    yield Case(
        "gathered_score", f"{n} of {rows} rows of planes, 4 bits, for 1 user",
        lambda turn: ops.gathered_score(users[turn], pee, n), rows * FOUR_BITS_BYTES,
        {"torch matmul and topk of float32": lambda turn: torch.topk(users[turn] @ table.T, n)},
        {LIMIT: 0.7},
    )  # fmt: skip


CASES = [lookups, training_steps, selections, scores_of_many_users, scores_of_one_user]


def train_gowalla() -> dict[str, Any] | None:
    """All stages as a user would run them, or a line that says why not."""
    folder = os.environ.get("PEEL_DATA")
    missing = [name for name in ("pyarrow", "sklearn", "safetensors", "rich")
               if importlib.util.find_spec(name) is None]  # fmt: skip
    if missing:
        problem = f"{' and '.join(missing)} cannot be imported"
    elif not folder or not (Path(folder) / "gowalla").is_dir():
        problem = f"PEEL_DATA must name a folder with gowalla, got {folder!r}"
    else:
        with tempfile.TemporaryDirectory() as run:
            command = ["from peel_ext.cli.main import main; raise SystemExit(main())", "train"]
            command += [str(Path(folder) / "gowalla" / "train.parquet"), "--out", f"{run}/run"]
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", *command, "--device", "cuda"], check=True)
            seconds = time.perf_counter() - begin
        print(f"peel train, Gowalla, all stages: {seconds:.0f} s [{GOWALLA_SECONDS}]")
        return {"case": "Gowalla, all stages", "seconds": seconds, "target": GOWALLA_SECONDS}
    print(f"Gowalla is not trained: {problem}")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="sizes that show that all of it works")
    parser.add_argument("--append", type=Path, help="file that gets a JSON line per case")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    about = gpu_timing.circumstances()
    limit = gpu_timing.copy_bytes_per_microsecond(1 << 24 if arguments.small else 1 << 32)
    about["copy_bytes_per_us"] = limit
    print(f"{about['card']}, driver {about['driver']}: a copy moves {limit / 1e6:.2f} TB/s")

    def add(row: dict[str, Any]) -> None:
        if arguments.append:
            with arguments.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | about) + "\n")

    for cases in CASES:
        for case in cases(arguments.small):
            row = gpu_timing.row_of(case, limit)
            ops.check_device()
            print(gpu_timing.text_of(row))
            add(row)
            del case, row  # with the inputs: the next ones need the memory
        gc.collect()
        torch.cuda.empty_cache()
    if not arguments.small and (trained := train_gowalla()):
        add(trained)


if __name__ == "__main__":
    main()
