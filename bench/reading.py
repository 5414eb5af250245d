"""Reading interactions: time and memory of many in Parquet with what ``peel train`` does next, and time
of csv beside pandas; rows for ``bench/results``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
from quality import circumstances

_PIECE = 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument(
        "--csv", action="store_true", help="csv of two million rows, beside pandas.read_csv"
    )
    parser.add_argument(
        "--ranks", type=int, nargs="+", help="so many processes that read by shares, beside one"
    )
    parser.add_argument("--append", type=Path, help="JSON lines file to add the row to")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read-share", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read_share:
        read_share(options.read_share)
        return
    if options.read:
        print(json.dumps(read(options.read)))
        return
    if options.csv:
        for text in (False, True):
            report(compare_csv(2_000_000, text), options.append)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.parquet"
        make(path, options.interactions)
        # A process of its own, whose peak of memory is that of reading, and of what it imports.
        command = [sys.executable, __file__, "--read", str(path)]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        report({"interactions": options.interactions, **measured}, options.append)
        for ranks in options.ranks or []:
            shares = read_shares(path, ranks, measured)
            report({"interactions": options.interactions, **shares}, options.append)


def report(measured: dict[str, Any], append: Path | None) -> None:
    """Prints a row, and adds it to a file."""
    row = {**measured, **circumstances()}
    print(json.dumps(row, indent=1))
    if append:
        with append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def compare_csv(count: int, text: bool) -> dict[str, Any]:
    """Seconds of :func:`read_interactions`, which maps ids to rows as well, and of pandas, by turns.

    Args:
        count: rows of users, items, ratings and times.
        text: whether users are strings.
    """
    import pandas as pd

    from peel_ext.data import read_interactions

    rng = np.random.default_rng(0)
    users = rng.integers(0, 138_000, count)
    columns = {
        "userId": pyarrow.array([f"u{user}" for user in users] if text else users),
        "movieId": rng.integers(0, 27_000, count),
        "rating": rng.integers(1, 11, count) / 2,
        "timestamp": rng.integers(10**9, 14 * 10**8, count),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        options = pyarrow.csv.WriteOptions(quoting_style="none")
        pyarrow.csv.write_csv(pyarrow.table(columns), path, options)
        contenders: dict[str, Callable[[], Any]] = {
            "pandas": lambda: pd.read_csv(path),
            "peel_ext": lambda: read_interactions(path, on_remark=lambda _: None),
        }
        frame, data = (read() for read in contenders.values())
        assert data.users.to_ids(data.user_rows) == frame["userId"].tolist()
        assert data.items.to_ids(data.item_rows) == frame["movieId"].tolist()
        assert data.timestamps.tolist() == frame["timestamp"].tolist()
        del frame, data
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(7):
            for name, run in contenders.items():
                began = time.perf_counter(), time.process_time()
                run()
                seconds[name].append(
                    (time.perf_counter() - began[0], time.process_time() - began[1])
                )
    medians = {
        name: [round(statistics.median(column), 3) for column in zip(*times, strict=True)]
        for name, times in seconds.items()
    }
    return {
        "csv_rows": count,
        "users": "text" if text else "integers",
        "seconds_wall_cpu": medians,
        "of_pandas_wall": round(medians["peel_ext"][0] / medians["pandas"][0], 2),
        "pandas": pd.__version__,
    }


def make(path: Path, count: int) -> None:
    """Writes a million users' interactions, every third piece the one before once more."""
    rng = np.random.default_rng(0)
    columns = {
        "user_id": pyarrow.int64(),
        "item_id": pyarrow.int64(),
        "timestamp": pyarrow.float64(),
    }
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema(columns)) as file:
        for at, start in enumerate(range(0, count, _PIECE)):
            if at % 3 < 2:
                users = rng.integers(0, 1_000_000, _PIECE)
                items = (500_000 * rng.random(_PIECE) ** 3).astype(np.int64)
            size = min(_PIECE, count - start)
            times = np.arange(start, start + size, dtype=np.float64)
            table = pyarrow.table([users[:size], items[:size], times], names=list(columns))
            file.write_table(table)


def read(path: Path) -> dict[str, Any]:
    """As ``peel train`` does: reads, splits at random, and sorts by user."""
    import torch

    from peel_ext.config import SplitConfig
    from peel_ext.train.pipeline import load_split, split_arrays

    torch.set_num_threads(1)
    began = time.perf_counter(), time.process_time()
    arrays = split_arrays(load_split(path, SplitConfig()))
    return measure(arrays, 0, began)


def read_shares(path: Path, ranks: int, alone: dict[str, Any]) -> dict[str, Any]:
    """The same by some processes; checks that they have read what one has read."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += [__file__, "--read-share", str(path)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    shares = json.loads(told)
    for name in ("pairs", "checksum"):
        found = sum(share[name] for share in shares) % (1 << 64)
        assert found == alone[name], f"{name} of {ranks} ranks is {found}, of one {alone[name]}"
    peak = max(share["peak_bytes"] for share in shares)
    return {
        "ranks": ranks,
        "pairs": alone["pairs"],
        "checksum": alone["checksum"],
        "wall_seconds": max(share["wall_seconds"] for share in shares),
        "cpu_seconds_of_all": round(sum(share["cpu_seconds"] for share in shares), 1),
        "peak_bytes_of_a_rank": peak,
        "bytes_sent_by_a_rank": max(share["sent_bytes"] for share in shares),
        "peak_of_one_process": round(peak / alone["peak_bytes"], 3),
    }


def read_share(path: Path) -> None:
    """Reads as one of the ranks that torchrun started; rank 0 prints what all have measured."""
    import torch

    from peel_ext.config import SplitConfig
    from peel_ext.scale.collectives import Collectives
    from peel_ext.scale.messages import gather
    from peel_ext.scale.reading import read_shard
    from peel_ext.scale.shards import split_shard
    from peel_ext.train.pipeline import split_arrays

    torch.set_num_threads(1)
    with Collectives.joined() as ranks:
        began = time.perf_counter(), time.process_time()
        made = split_shard(read_shard(path, None, ranks), SplitConfig(), ranks)
        arrays = split_arrays(made.split)
        found = measure(arrays, made.users.start(ranks.rank), began)
        shares = gather({**found, "sent_bytes": ranks.sent_bytes}, ranks)
        if ranks.is_first:
            print(json.dumps(shares))


def measure(arrays: dict[str, Any], first_user: int, began: tuple[float, float]) -> dict[str, Any]:
    """Pairs, a checksum that does not go by their order, time and memory.

    Args:
        arrays: of a split.
        first_user: the row among all users of the first one.
        began: wall and processor time.
    """
    used = {
        "wall_seconds": round(time.perf_counter() - began[0], 1),
        "cpu_seconds": round(time.process_time() - began[1], 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    checksum = 0
    for at, part in enumerate(("train", "test")):
        users = np.repeat(
            np.arange(len(arrays[f"{part}_indptr"]) - 1, dtype=np.uint64),
            np.diff(arrays[f"{part}_indptr"]),
        )
        keys = (users + np.uint64(first_user)) << np.uint64(31)
        keys ^= arrays[f"{part}_items"].astype(np.uint64) << np.uint64(1)
        keys = (keys + np.uint64(at)) * np.uint64(0x9E3779B97F4A7C15)
        checksum += int((keys ^ (keys >> np.uint64(29))).sum(dtype=np.uint64))
    return {
        "pairs": len(arrays["train_items"]) + len(arrays["test_items"]),
        "checksum": checksum % (1 << 64),
        **used,
    }


if __name__ == "__main__":
    main()
