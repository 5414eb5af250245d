"""Times of a device: opening, the first answer, recommending, learning, resizing."""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from quality import commit, processor
from threadpoolctl import threadpool_limits

from peel_ext import _core
from peel_ext.device import DeviceRecommender
from peel_ext.format import EncodedRows, GroupTable, PlanesLayout, write_file

DIM, N = 64, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="10000,100000,1000000", help="catalogues")
    parser.add_argument("--budgets", default="100000,1000000,10000000", help="bytes")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--peers", action="store_true", help="whole catalogues in other libraries")
    parser.add_argument("--append", type=Path, help="JSON lines file to add one row a case to")
    options = parser.parse_args()
    rows = [int(text) for text in options.rows.split(",")]
    budgets = [int(text) for text in options.budgets.split(",")]
    names: list[str] = []
    for num_rows in rows:
        for threads in (1, 2):
            found = measure(num_rows, budgets, threads, options.repeats)
            if options.peers:
                found += measure_peers(num_rows, threads, options.repeats)
            if options.append:
                with options.append.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
            if not names:
                names = [name for name in found[0] if "_ms" in name]
                print("| rows | contender | bytes held | threads | " + " | ".join(names) + " |")
                print("|---" * (4 + len(names)) + "|")
            for row in found:
                cells = [f"{row['rows']:,}", row["contender"], f"{row['nbytes']:,}"]
                cells += [str(threads), *(f"{row[n]:.3f}" if n in row else "" for n in names)]
                print(f"| {' | '.join(cells)} |", flush=True)


def measure(num_rows: int, budgets: list[int], threads: int, repeats: int) -> list[dict[str, Any]]:
    """One row a budget that is less than the file."""
    _core.set_num_threads(threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.peel"
        write_file(path, random_table(num_rows))
        for budget in budgets:
            if budget <= path.stat().st_size:
                row = case("peel_ext", num_rows, threads) | times(path, budget, repeats)
                results.append(row)
    return results


def case(contender: str, num_rows: int, threads: int) -> dict[str, Any]:
    return {
        "contender": contender,
        "rows": num_rows,
        "dim": DIM,
        "threads": threads,
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "isa": _core.isa(),
    }


def measure_peers(num_rows: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """The same answers out of the whole catalogue, as other libraries hold it."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(num_rows, DIM, generator=generator)
    users = torch.randn(repeats, 1, DIM, generator=generator)
    # A few seconds each: exhaustive searches of large catalogues take a tenth of one.
    users = users[: max(20, min(repeats, 200_000_000 // num_rows))]
    made: dict[str, tuple[int, Callable[[], Any]]] = {
        "faiss FlatIP": (4 * DIM, lambda: peers.load("faiss").best_rows(table, N)),
        "faiss SQ8": (DIM, lambda: peers.load("faiss").best_quantized_rows(table, N, "8bit")[0]),
        "usearch": (4 * DIM, lambda: peers.load("usearch").best_rows(table, N, threads)),
        "usearch, int8": (DIM, lambda: peers.load("usearch").best_int8_rows(table, N, threads)[0]),
        "numpy, int8": (DIM + 4, lambda: peers.load("numpy").best_int8_rows(table, N)[0]),
    }
    rows = []
    for contender, (row_bytes, make) in made.items():
        run = make()
        with threadpool_limits(threads):
            run(users[0])
            answers = [timed(functools.partial(run, user)) for user in users]
        rows.append(
            case(contender, num_rows, threads)
            | {
                "nbytes": row_bytes * num_rows,
                "recommend_p50_ms": 1e3 * float(np.median(answers)),
                "recommend_p99_ms": 1e3 * float(np.quantile(answers, 0.99)),
            }
        )
    return rows


def random_table(num_rows: int) -> GroupTable:
    """Near Gaussian rows; budgets take four bits of the first before more of any, as rows fall off."""
    layout, rng = PlanesLayout(), np.random.default_rng(0)
    store, scales = layout.encode(rng.standard_normal((num_rows, DIM), dtype=np.float32))
    sizes = layout.item_group_sizes(num_rows)
    ids = np.split(rng.permutation(num_rows), np.cumsum(sizes)[:-1])
    count = np.arange(len(sizes))
    # Layers of an item group come the later, the further down it is.
    rank = np.concatenate([count * (1 + layer) + layer * 4 for layer in range(5)])
    blocks = np.concatenate([count * 5 + layer for layer in range(5)])
    order = blocks[np.argsort(rank, kind="stable")]
    return GroupTable(
        layout, DIM, EncodedRows(store, scales), [np.sort(part) for part in ids], order
    )


def times(path: Path, budget: int, repeats: int) -> dict[str, Any]:
    """Milliseconds, medians where the name says nothing else; the file is in the page cache."""
    rng = np.random.default_rng(1)
    users = rng.normal(size=(repeats, DIM)).astype(np.float32)
    opening, first, first_busy, resizing = [], [], [], []
    for user in users[:60]:
        began, began_busy = time.perf_counter(), time.process_time()
        recommender = DeviceRecommender.open(path, budget, item_ids=False)
        opening.append(time.perf_counter() - began)
        recommender.recommend(user=user, n=N)
        first.append(time.perf_counter() - began)
        first_busy.append(time.process_time() - began_busy)
        began = time.perf_counter()
        recommender.resize(budget // 2)
        recommender.resize(budget)
        resizing.append(time.perf_counter() - began)
        recommender.close()
    recommender = DeviceRecommender.open(path, budget, item_ids=False)
    held = recommender.recommend(user=users[0], n=200)[0]
    answers = [timed(lambda user=user: recommender.recommend(user=user, n=N)) for user in users]
    going_on, going_on_busy = [], []
    for at, user in enumerate(users[:60]):
        began, began_busy = time.perf_counter(), time.process_time()
        recommender.continue_vector(user, 20, held[at : at + 1])
        going_on.append(time.perf_counter() - began)
        going_on_busy.append(time.process_time() - began_busy)
    folding = [timed(lambda: recommender.fold_in(rng.choice(held, 20))) for _ in range(20)]
    nbytes = recommender.nbytes
    recommender.close()
    median = {
        "open_ms": np.median(opening),
        "open_and_first_answer_ms": np.median(first),
        "recommend_p50_ms": np.median(answers),
        "recommend_p99_ms": np.quantile(answers, 0.99),
        "continue_vector_ms": np.median(going_on),
        "fold_in_20_ms": np.median(folding),
        "resize_ms_per_mb": np.median(resizing) / (nbytes / 1e6),
        # Of a busy machine: what the process itself was busy for, the tenth of ten times.
        "open_and_first_answer_busy_p10_ms": np.quantile(first_busy, 0.1),
        "continue_vector_busy_p10_ms": np.quantile(going_on_busy, 0.1),
    }
    return {"nbytes": nbytes, **{name: 1e3 * float(value) for name, value in median.items()}}


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
