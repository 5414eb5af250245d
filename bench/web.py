"""Times of the npm package beside the native library, by turns, one thread each.

Needs `make web` and Node. Each turn is a process of its own for either side, and for each instruction
set of the native library.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from device import DIM, N, random_table, timed
from quality import circumstances

from peel_ext import _core
from peel_ext.device import DeviceRecommender
from peel_ext.format import write_file

HERE = Path(__file__).resolve().parent
MEASURES = ("open_and_first_answer_ms", "recommend_ms", "fold_in_ms")


def main() -> None:
    """Prints a table of the least of all turns, the number that other work disturbs least."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--budget", type=int, default=1_000_000, help="bytes")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--append", type=Path, help="JSON lines file to add a row to")
    parser.add_argument("--native", metavar="FILE", help=argparse.SUPPRESS)  # a turn's other side
    options = parser.parse_args()
    if options.native:
        print(json.dumps(measure_native(Path(options.native), options.budget)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.peel"
        write_file(path, random_table(options.rows))
        sides = {"WebAssembly": ["node", HERE / "web.mjs", path, str(options.budget), "20"]}
        for isa in dict.fromkeys([_core.isas()[0], "portable"]):
            sides[isa] = [
                sys.executable,
                __file__,
                "--native",
                path,
                "--budget",
                str(options.budget),
            ]
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(options.turns):
            for side, command in sides.items():
                environment = os.environ | {"PEEL_ISA": side if side != "WebAssembly" else ""}
                done = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                )
                found[side].append(json.loads(done.stdout))
    print("| | " + " | ".join(MEASURES) + " |")
    print("|---" * (1 + len(MEASURES)) + "|")
    least = {
        side: {name: round(min(turn[name] for turn in turns), 3) for name in turns[0]}
        for side, turns in found.items()
    }
    for side, times in least.items():
        print(f"| {side} | {' | '.join(str(times[name]) for name in MEASURES)} |")
    cold = least["WebAssembly"]["cold_open_and_first_answer_ms"]
    print(f"WebAssembly, module compiled first: {cold:.1f} ms")
    if options.append:
        row = {"rows": options.rows, "budget_bytes": options.budget, "turns": options.turns}
        with options.append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"least": least} | circumstances()) + "\n")


def measure_native(path: Path, budget: int) -> dict[str, float]:
    """Milliseconds of the native library with one thread."""
    _core.set_num_threads(1)
    users = np.random.default_rng(1).standard_normal((1000, DIM)).astype(np.float32)

    def open_and_answer() -> None:
        with DeviceRecommender.open(path, budget, item_ids=False) as fresh:
            fresh.recommend(user=users[0], n=N)

    with DeviceRecommender.open(path, budget, item_ids=False) as recommender:
        known = recommender.recommend(user=np.ones(DIM), n=N)[0]
        answers = [timed(lambda user=user: recommender.recommend(user=user, n=N)) for user in users]
        folds = [timed(lambda: recommender.fold_in(known)) for _ in range(20)]
    least = (min(timed(open_and_answer) for _ in range(20)), min(answers), min(folds))
    return {name: 1e3 * seconds for name, seconds in zip(MEASURES, least, strict=True)}


if __name__ == "__main__":
    main()
