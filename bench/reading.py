"""Reading and splitting many interactions: time and memory, rows for ``bench/results``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from quality import circumstances

_PIECE = 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument("--append", type=Path, help="JSON lines file to add the row to")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.parquet"
        make(path, options.interactions)
        # A process of its own, whose peak of memory is that of reading, and of what it imports.
        command = [sys.executable, __file__, "--read", str(path)]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    row = {"interactions": options.interactions, **measured, **circumstances()}
    print(json.dumps(row, indent=1))
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


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
