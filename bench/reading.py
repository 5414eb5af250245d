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
    parser.add_argument("--append", type=Path, help="JSON lines file to add the row to")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
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


def read(path: Path) -> dict[str, float]:
    """As ``peel train`` does: reads, splits at random, and sorts by user."""
    from peel_ext.config import SplitConfig
    from peel_ext.train.pipeline import load_split, split_arrays

    began = time.perf_counter(), time.process_time()
    arrays = split_arrays(load_split(path, SplitConfig()))
    return {
        "pairs": len(arrays["train_items"]) + len(arrays["test_items"]),
        "wall_seconds": round(time.perf_counter() - began[0], 1),
        "cpu_seconds": round(time.process_time() - began[1], 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
