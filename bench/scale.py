"""Training on made-up interactions of a given size: time and memory, rows for ``bench/results``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from quality import circumstances

from peel_ext.data import SyntheticConfig, make_interactions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=250_000)
    parser.add_argument("--mean-interactions", type=int, default=40, help="of a user")
    parser.add_argument(
        "--epochs", type=int, help="of pretraining, for a look at memory and the time of an epoch"
    )
    parser.add_argument("--append", type=Path, help="JSON lines file to add the row to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(options, Path(folder))
    print(json.dumps(row, indent=1))
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes the interactions to a file and trains on it in a process of its own."""
    config = SyntheticConfig(
        num_users=options.users,
        num_items=options.items,
        mean_interactions=options.mean_interactions,
        num_tastes=1000,
    )
    made = make_interactions(config)
    columns = {"user_id": made.user_rows, "item_id": made.item_rows, "timestamp": made.timestamps}
    data, out = folder / "interactions.parquet", folder / "run"
    pyarrow.parquet.write_table(pyarrow.table(columns), data)
    count = len(made)
    del made, columns
    command = [sys.executable, "-P", "-m", "peel_ext.cli.main", "train", str(data)]
    command += ["--out", str(out)]
    if options.epochs is not None:
        command += ["--epochs", str(options.epochs)]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "users": options.users,
        "items": options.items,
        "interactions": count,
        "epochs": json.loads((out / "run.json").read_text())["config"]["pretraining"]["epochs"],
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),  # unlike the other, of any machine
        "peak_bytes": used.ru_maxrss * 1024,
        "stages": json.loads((out / "run.json").read_text())["stages"],
        **circumstances(),
    }


if __name__ == "__main__":
    main()
