"""Fixtures of all tests."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the device side is tested without it
    import torch
    from rank_processes import RankProcesses

# Before any library reads them, and for the processes that tests start. Tests run beside each other,
# one a core, so each computes with one thread; the native core with two, that two are tried everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PEEL_NUM_THREADS", "2")
# One process compiles what inductor makes: its pool of others takes longer to start than to use.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_configure() -> None:
    """With PEEL_TEST_SHIM=1 ops launch the kernels for CUDA devices, which a host shim runs."""
    if os.environ.get("PEEL_TEST_SHIM") != "1":
        return
    from peel_ext.ops import _launching

    assert _launching.AVAILABLE, "the package was built without PEEL_CUDA_SHIM"
    assert _launching._cuda.on_host
    _launching.is_device = lambda tensor: tensor.is_cpu


@pytest.fixture
def seed() -> int:
    """A seed that is printed, so that a failure can be run again with PEEL_TEST_SEED."""
    value = int(os.environ.get("PEEL_TEST_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"PEEL_TEST_SEED={value}")
    return value


@pytest.fixture
def generator(seed: int):
    """A torch generator of that seed."""
    torch = pytest.importorskip("torch")
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def device() -> torch.device:
    """Where kernels are launched: a GPU, or under the shim the CPU."""
    torch = pytest.importorskip("torch")
    from peel_ext.ops import _launching

    if os.environ.get("PEEL_TEST_SHIM") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available() or not _launching.AVAILABLE:
        pytest.skip("needs a CUDA device and a build with PEEL_CUDA, or PEEL_TEST_SHIM=1")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """The same for what the shim has not: streams, graphs, memory of its own."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture
def on_cpu() -> Callable[[], AbstractContextManager[None]]:
    """Makes a context in which tensors on the CPU go to its own kernels, under the shim, too."""
    from peel_ext.ops import _launching

    @contextmanager
    def called() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_launching, "is_device", lambda tensor: tensor.is_cuda)
            yield

    return called


@pytest.fixture(params=["float64", "float16", "bfloat16", "set_default_device", "torch.device"])
def other_defaults(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[None]]:
    """Makes a context in which torch's default dtype or device is another."""
    pytest.importorskip("torch")
    from torch_defaults import torch_defaults

    return partial(torch_defaults, request.param)


@pytest.fixture(scope="session")
def device_process() -> Iterator[ProcessPoolExecutor]:
    """A process that pretends to have a device, to which it takes :mod:`device_runs`."""
    pytest.importorskip("torch")
    import device_runs

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, device_runs.begin) as executor:
        yield executor


@pytest.fixture(scope="session")
def rank_processes() -> Iterator[RankProcesses]:
    """Two processes that work together."""
    pytest.importorskip("torch")
    import rank_processes

    processes = rank_processes.RankProcesses()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def trained_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``interactions.parquet`` and a run trained on it, which tests copy."""
    pytest.importorskip("torch")
    from small_shop import train_shop

    return train_shop(tmp_path_factory.mktemp("small-shop"))


@pytest.fixture
def data_folder() -> Path:
    """The folder with real interactions; in CI it must be there."""
    value = os.environ.get("PEEL_DATA")
    if value and Path(value).is_dir():
        return Path(value)
    if os.environ.get("CI"):
        pytest.fail(f"PEEL_DATA must name the data folder in CI, got {value!r}")
    pytest.skip("PEEL_DATA does not name a folder with real interactions")
