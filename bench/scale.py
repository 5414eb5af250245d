"""Training on made-up interactions of a given size: time and memory, rows for ``bench/results``.

    python bench/scale.py --items 100000 --users 16000 --processes 2 --append bench/results/scale.jsonl
    python bench/scale.py --fit bench/results/scale.jsonl

The second makes lines of what the newest rows of each size and number of processes say.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from quality import circumstances

from peel_ext.data import SyntheticConfig, make_interactions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=250_000)
    parser.add_argument("--mean-interactions", type=int, default=40, help="of a user")
    parser.add_argument(
        "--epochs", type=int, help="of pretraining, for a look at memory and the time of an epoch"
    )
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument(
        "--settings",
        nargs=argparse.REMAINDER,
        default=[],
        help="last: further options of peel train",
    )
    parser.add_argument("--append", type=Path, help="JSON lines file to add the row to")
    parser.add_argument("--fit", type=Path, help="JSON lines file: measure nothing, fit its rows")
    options = parser.parse_args()
    if options.fit:
        print(fit([json.loads(line) for line in options.fit.read_text().splitlines()]))
        return
    with tempfile.TemporaryDirectory() as folder:
        row = measure(options, Path(folder))
    print(json.dumps(row, indent=1))
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def make(path: Path, users: int, items: int, mean_interactions: int) -> None:
    """Writes made-up interactions to a Parquet file."""
    config = SyntheticConfig(
        num_users=users, num_items=items, mean_interactions=mean_interactions, num_tastes=1000
    )
    made = make_interactions(config)
    columns = {"user_id": made.user_rows, "item_id": made.item_rows, "timestamp": made.timestamps}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains on a file of interactions in a process of its own."""
    data, out = folder / "interactions.parquet", folder / "run"
    # Not in this process: what starts another hands it its own peak of memory.
    arguments = (data, options.users, options.items, options.mean_interactions)
    maker = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    maker.start()
    maker.join()
    if maker.exitcode != 0:
        raise SystemExit("the interactions could not be made")
    command = [sys.executable, "-P", "-m"]
    if options.processes > 1:
        command += ["torch.distributed.run", "--nproc-per-node", str(options.processes), "-m"]
    command += ["peel_ext", "train", str(data), "--out", str(out), *options.settings]
    if options.epochs is not None:
        command += ["--epochs", str(options.epochs)]
    began = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    run = json.loads((out / "run.json").read_text())
    return {
        "users": options.users,
        "items": options.items,
        "interactions": pyarrow.parquet.read_metadata(data).num_rows,
        "epochs": run["config"]["pretraining"]["epochs"],
        "processes": options.processes,
        "settings": options.settings,
        "wall_seconds": round(wall, 1),
        # Unlike the one before, hardly longer while other work runs.
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        # Of the largest of the processes.
        "peak_bytes": used.ru_maxrss * 1024,
        "stages": run["stages"],
        **circumstances(),
    }


def fit(rows: list[dict[str, Any]]) -> str:
    """A table of lines through rows: a constant, and what an interaction takes beside it.

    Sizes that were measured with several numbers of processes count, each row by its relative error.
    """
    newest = {
        (row["items"], row["users"], row["epochs"], row.get("processes", 1)): row for row in rows
    }
    counts = collections.Counter(key[:3] for key in newest)
    lines = ["processes  measure  constant  an interaction  farthest row"]
    for processes in sorted({key[3] for key in newest}):
        own = [row for key, row in newest.items() if key[3] == processes and counts[key[:3]] > 1]
        sizes = np.array([row["interactions"] for row in own], dtype=np.float64)
        if len(set(sizes)) < 2:
            continue
        for name, unit in (("cpu_seconds", "s"), ("peak_bytes", "bytes")):
            found = np.array([row[name] for row in own], dtype=np.float64)
            slope, constant = np.polyfit(sizes, found, 1, w=1 / found)
            worst = np.abs((constant + slope * sizes) / found - 1).max()
            lines.append(
                f"{processes}  {name}  {constant:.4g} {unit}  {slope:.4g} {unit}  {worst:.1%}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
