"""Quality per byte of the known-users protocol, over several seeds: rows for ``bench/results``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import peel_ext

BUDGETS = "10%,5%,2.5%,1%,0.5%,0.25%"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="file or folder of interactions")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--budgets", default=BUDGETS, help="as of 'peel evaluate'")
    parser.add_argument("--target", choices=("test", "validation"), default="test")
    parser.add_argument("--append", type=Path, help="JSON lines file to add one row per seed to")
    options = parser.parse_args()
    runs = [measure(options, seed) for seed in range(options.seeds)]
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(run) + "\n" for run in runs)
    print_table(runs)


def measure(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains and evaluates with one seed, as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        began = time.perf_counter()
        peel("train", options.data, "--out", out, "--seed", seed, "--target", options.target)
        wall = time.perf_counter() - began
        summary = json.loads(peel("evaluate", out, "--budgets", options.budgets, "--json"))
    return {
        "data": options.data.name,
        **summary,
        "train_wall_seconds": round(wall, 1),
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "versions": {
            "peel_ext": peel_ext.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def peel(*arguments: object) -> str:
    command = [sys.executable, "-P", "-m", "peel_ext.cli.main", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def commit() -> str:
    """The commit of what is measured, with a mark if the sources differ from it."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "csrc", "peel_ext", "CMakeLists.txt")
    return git("rev-parse", "--short=10", "HEAD") + ("-dirty" if changed else "")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_table(runs: list[dict[str, Any]]) -> None:
    """Means over the seeds, and the distance of the farthest seed from them."""
    print(f"{runs[0]['data']}: {len(runs)} seeds, target {runs[0]['target']}, training took up to "
          f"{max(run['train_wall_seconds'] for run in runs):.0f} s")  # fmt: skip
    print("| budget | bytes held | Recall@20 | NDCG@20 | of the full Recall |")
    print("|---|---|---|---|---|")
    for at, row in enumerate(runs[0]["rows"]):
        same = [run["rows"][at] for run in runs]
        cells = [row["budget"], f"{max(each['max_bytes'] for each in same):,}"]
        for name in ("recall", "ndcg"):
            values = np.array([each[name] for each in same])
            spread = np.abs(values - values.mean()).max()
            cells.append(f"{values.mean():.4f} ± {spread:.4f}")
        full = np.mean([run["rows"][0]["recall"] for run in runs])
        cells.append(f"{np.mean([each['recall'] for each in same]) / full:.1%}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
