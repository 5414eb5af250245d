"""A bundle of many users: memory and time of writing, and of opening one user's file, beside the same file
alone; a row for ``bench/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from peel_ext.device import DeviceRecommender
from peel_ext.format import EncodedRows, GroupTable, PlanesLayout, write_file
from peel_ext.format.bundle import BundleIndex, user_text, write_bundle

#: Different files, in turn the users': so many that the page cache does not hide what copying takes.
FILES = 64
ROWS, DIM = 64, 16
TURNS = 2_000


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--append", metavar="FILE", type=Path)
    parser.add_argument("--write", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        print(json.dumps(write(options.write, options.users)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        for i in range(FILES):
            write_file(folder / f"{i}.peel", table(rng))
        # A process of its own, whose peak of memory is that of writing, and of what it imports.
        command = [sys.executable, __file__, "--write", name, "--users", str(options.users)]
        made = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        row = {**made, **read(folder, options.users)}
    from quality import circumstances  # torch, of which the process that writes must know nothing

    row |= circumstances()
    print(json.dumps(row))
    if options.append:
        with options.append.open("a") as file:
            file.write(json.dumps(row) + "\n")


def table(rng: np.random.Generator) -> GroupTable:
    """A table of one user: a small one, as the index is what is measured."""
    layout = PlanesLayout()
    store, scales = layout.encode(rng.standard_normal((ROWS, DIM), dtype=np.float32))
    order = np.arange(layout.num_layers(DIM))
    return GroupTable(layout, DIM, EncodedRows(store, scales), [np.arange(ROWS)], order)


def peak_mb() -> float:
    """The most memory this process has had; not that of who started it, which getrusage may say."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def write(folder: Path, users: int) -> dict[str, Any]:
    """Bytes, times and memory of writing."""
    paths = [folder / f"{i}.peel" for i in range(FILES)]
    idle = peak_mb()
    files = [(user, paths[user % FILES]) for user in range(users)]
    before = peak_mb()
    began, used = time.perf_counter(), time.process_time()
    size = write_bundle(folder / "all.peelb", files)
    return {
        "users": users,
        "bundle_bytes": size,
        "file_bytes": paths[0].stat().st_size,
        "write_seconds": time.perf_counter() - began,
        "write_processor_seconds": time.process_time() - used,
        "imports_mb": idle,
        "ids_and_paths_mb": before - idle,
        "write_mb": peak_mb() - before,
    }


def read(folder: Path, users: int) -> dict[str, Any]:
    """Milliseconds of opening, by turns; the same answers first."""
    path = folder / "all.peelb"
    with path.open("rb") as file:
        index = BundleIndex(file)
    begin = int(index.entries["offset"].min())
    whose = np.random.default_rng(1).permutation(users)[:TURNS].tolist()
    vector = np.ones(DIM)
    for user in whose[:50]:
        with (
            DeviceRecommender.open(path, user=user) as bundled,
            DeviceRecommender.open(folder / f"{user % FILES}.peel") as alone,
        ):
            found = [each.recommend(user=vector, n=5) for each in (bundled, alone)]
            assert all(map(np.array_equal, *found)), user_text(user)
    times: dict[str, list[float]] = {"bundle": [], "alone": []}
    for user in whose:
        for name, opens in (
            ("bundle", lambda user=user: DeviceRecommender.open(path, user=user)),
            ("alone", lambda user=user: DeviceRecommender.open(folder / f"{user % FILES}.peel")),
        ):
            began = time.perf_counter()
            opens().close()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {
        "index_bytes": begin,
        "page_bytes": (begin - 64) // index.num_pages,
        "open_p50_ms": statistics.median(times["bundle"]),
        "open_p99_ms": float(np.quantile(times["bundle"], 0.99)),
        "open_alone_p50_ms": statistics.median(times["alone"]),
        "threads": int(os.environ.get("PEEL_NUM_THREADS", os.cpu_count() or 1)),
    }


if __name__ == "__main__":
    main()
