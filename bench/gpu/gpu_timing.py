"""Microseconds on a GPU: contenders take turns, CUDA events time them, a copy is the limit."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

DEVICE = torch.device("cuda")
ROTATION = 4  # inputs in turn, so that no call finds its own in the cache
MIN_ROUNDS, MAX_ROUNDS, MAX_SECONDS = 7, 100, 3.0
LIMIT, GRAPH = "streaming limit", "as a graph"

Run = Callable[[int], object]  # on the inputs of a turn


@dataclass(frozen=True)
class Case:
    """What ours and its peers compute from the same inputs, after their answers were compared.

    Attributes:
        kernel: its name, as everywhere.
        name: the setting, unique within the kernel.
        ours: of turns in [0, ROTATION).
        bytes_touched: of one call: every byte that must be read or written at least once.
        peers: by name.
        targets: for peers how many times faster ours should be, for LIMIT the share to reach.
        more: what else the row says.
    """

    kernel: str
    name: str
    ours: Run
    bytes_touched: int
    peers: dict[str, Run] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def row_of(case: Case, limit: float) -> dict[str, Any]:
    """Times a case.

    Args:
        case: what to time.
        limit: bytes a microsecond of a copy.
    """
    times = microseconds({"": case.ours, GRAPH: captured(case.ours)} | case.peers)
    ours = statistics.median(times.pop(""))
    graph = statistics.median(times.pop(GRAPH))
    ratios = {name: statistics.median(other) / ours for name, other in times.items()}
    ratios[LIMIT] = case.bytes_touched / limit / ours
    return {
        "kernel": case.kernel,
        "case": case.name,
        "us": ours,
        "graph_us": graph,
        "peers_us": {name: statistics.median(other) for name, other in times.items()},
        "ratios": ratios,
        "targets": case.targets,
        "bytes": case.bytes_touched,
        **case.more,
    }


def text_of(row: dict[str, Any]) -> str:
    """A line for people; what was wanted stands in brackets."""

    def ratio(name: str) -> str:
        unit = "of the" if name == LIMIT else "times"
        wanted = row["targets"].get(name)
        return f"{row['ratios'][name]:.2f} {unit} {name}" + (f" [{wanted}]" if wanted else "")

    times = f"{row['us']:.0f} us, {row['graph_us']:.0f} {GRAPH}"
    memory = f", {row['memory_bytes'] / 1e6:.0f} MB" if "memory_bytes" in row else ""
    return (
        f"{row['kernel']}, {row['case']}: {times}; " + ", ".join(map(ratio, row["ratios"])) + memory
    )


def microseconds(runs: dict[str, Run]) -> dict[str, list[float]]:
    """The times of a call of each in every round, in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():  # what is made once is made here
        time_of_turn(run)
    end = time.perf_counter() + MAX_SECONDS * len(runs)
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, run in runs.items():
            times[name].append(time_of_turn(run))
    return times


def time_of_turn(run: Run) -> float:
    """Microseconds of a call on the device, the mean of one on each of the inputs."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for turn in range(ROTATION):
        run(turn)
    end.record()
    end.synchronize()
    return 1000 * begin.elapsed_time(end) / ROTATION


def captured(run: Run) -> Run:
    """``run`` as CUDA graphs: replaying them leaves out what calling costs the host."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for turn in range(ROTATION):
            run(turn)
    torch.cuda.current_stream().wait_stream(aside)
    graphs = [torch.cuda.CUDAGraph() for _ in range(ROTATION)]
    for turn, graph in enumerate(graphs):
        with torch.cuda.graph(graph):
            run(turn)
    return lambda turn: graphs[turn].replay()


def copy_bytes_per_microsecond(num_bytes: int) -> float:
    """The streaming limit: bytes read and written by a copy."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    times = microseconds({"copy": lambda _: target.copy_(source)})
    return 2 * num_bytes / statistics.median(times["copy"])


def circumstances() -> dict[str, Any]:
    """On what and from what the rows of a run come; COMMIT names it where there is no repository."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "date": date.today().isoformat(),
        "commit": os.environ.get("COMMIT") or commit(),
        "card": torch.cuda.get_device_name(),
        "driver": output_of(query).splitlines()[0],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
    }


def commit() -> str:
    """The commit of what is measured, with a mark if the sources differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    changed = output_of([*git, "status", "--porcelain", "--", ":/csrc", ":/peel_ext"])
    return output_of([*git, "rev-parse", "--short=10", "HEAD"]) + ("-dirty" if changed else "")


def output_of(command: list[str]) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
