"""Options, sizes and thread counts of the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from measurement import Call, Measure
from threadpoolctl import threadpool_info

from peel_ext import _core

SMOKE_SIZE = 2_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--large", action="store_true", help="benchmark 10^7 rows and more, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: takes several GB, measured only with --large")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    large = [item for item in items if item.get_closest_marker("large")]
    if large and not config.getoption("--large"):
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            # A warning of a peer is no error of ours.
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """What decides speed and is not in pytest-benchmark's own account."""
    machine_info["usable_cores"] = len(os.sched_getaffinity(0))
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    machine_info["caches"] = {
        f"L{(index / 'level').read_text().strip()}": (index / "size").read_text().strip()
        for index in sorted(caches.glob("index*"))
        if (index / "type").read_text().strip() != "Instruction"
    }
    machine_info["isa"] = {
        "peel_ext": _core.isa(),
        "torch": torch.backends.cpu.get_cpu_capability(),
    }
    machine_info["blas"] = {
        Path(library["filepath"]).parent.name: library["architecture"]
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Millions of single timings are more than a report needs."""
    for measured in output_json["benchmarks"]:
        measured["stats"].pop("data", None)


@pytest.fixture(scope="session")
def sized(pytestconfig: pytest.Config) -> Callable[[int], int]:
    """The size to measure, or a small one where benchmarks are only to be seen to work."""
    if pytestconfig.getoption("benchmark_disable"):
        return lambda size: min(size, SMOKE_SIZE)
    return lambda size: size


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The same number of threads for torch and the native core."""
    before = torch.get_num_threads(), _core.num_threads()
    torch.set_num_threads(request.param)
    _core.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before[0])
    _core.set_num_threads(before[1])


@pytest.fixture(scope="module")
def ours() -> dict[str, Call]:
    """Our contender of the group being measured, by the name of the group."""
    return {}


@pytest.fixture
def measure(benchmark: Any, threads: int, ours: dict[str, Call]) -> Measure:
    return Measure(benchmark, threads, ours)


@pytest.fixture
def reserve() -> Callable[[int], None]:
    """Skips a benchmark that needs more memory than is free."""

    def check(num_bytes: int) -> None:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
        if num_bytes > free:
            pytest.skip(f"needs {num_bytes >> 20} MiB, {free >> 20} MiB are free")

    return check
