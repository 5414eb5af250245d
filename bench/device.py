"""Times of a device: opening, the first answer, recommending, learning, resizing."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from quality import commit, processor

from peel_ext import _core
from peel_ext.device import DeviceRecommender
from peel_ext.format import EncodedRows, GroupTable, PlanesLayout, write_file

DIM, N = 64, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="10000,100000,1000000", help="catalogues")
    parser.add_argument("--budgets", default="100000,1000000,10000000", help="bytes")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--append", type=Path, help="JSON lines file to add one row a case to")
    options = parser.parse_args()
    rows = [int(text) for text in options.rows.split(",")]
    budgets = [int(text) for text in options.budgets.split(",")]
    results = [
        row
        for num_rows in rows
        for threads in (1, 2)
        for row in measure(num_rows, budgets, threads, options.repeats)
    ]
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in results)
    names = [name for name in results[0] if name.endswith("_ms")]
    print("| rows | bytes held | threads | " + " | ".join(names) + " |")
    print("|---" * (3 + len(names)) + "|")
    for row in results:
        cells = [f"{row['rows']:,}", f"{row['nbytes']:,}", str(row["threads"])]
        print("| " + " | ".join([*cells, *(f"{row[name]:.3f}" for name in names)]) + " |")


def measure(num_rows: int, budgets: list[int], threads: int, repeats: int) -> list[dict[str, Any]]:
    """One row a budget that is less than the file."""
    _core.set_num_threads(threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.peel"
        write_file(path, random_table(num_rows))
        for budget in budgets:
            if budget <= path.stat().st_size:
                results.append(
                    {
                        "rows": num_rows,
                        "dim": DIM,
                        "threads": threads,
                        **times(path, budget, repeats),
                        "date": date.today().isoformat(),
                        "commit": commit(),
                        "machine": {"processor": processor(), "cores": os.cpu_count()},
                        "isa": _core.isa(),
                    }
                )
    return results


def random_table(num_rows: int) -> GroupTable:
    """Near Gaussian rows; budgets take four bits of the first before more of any, as rows fall off."""
    layout, rng = PlanesLayout(), np.random.default_rng(0)
    store, scales = layout.encode(rng.normal(size=(num_rows, DIM)).astype(np.float32))
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
    """Median milliseconds; the file is in the page cache."""
    rng = np.random.default_rng(1)
    users = rng.normal(size=(repeats, DIM)).astype(np.float32)
    opening, first, resizing = [], [], []
    for user in users[:20]:
        began = time.perf_counter()
        recommender = DeviceRecommender.open(path, budget, item_ids=False)
        opening.append(time.perf_counter() - began)
        recommender.recommend(user=user, n=N)
        first.append(time.perf_counter() - began)
        began = time.perf_counter()
        recommender.resize(budget // 2)
        recommender.resize(budget)
        resizing.append(time.perf_counter() - began)
        recommender.close()
    recommender = DeviceRecommender.open(path, budget, item_ids=False)
    held = recommender.recommend(user=users[0], n=200)[0]
    answers = [timed(lambda user=user: recommender.recommend(user=user, n=N)) for user in users]
    going_on = [
        timed(lambda user=user: recommender.continue_vector(user, 20, held[:1]))
        for user in users[:50]
    ]
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
    }
    return {"nbytes": nbytes, **{name: 1e3 * float(value) for name, value in median.items()}}


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
