"""Inputs and thread counts shared by the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from peel_ext import _core


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The same number of threads for torch and the native core."""
    before = torch.get_num_threads(), _core.num_threads()
    torch.set_num_threads(request.param)
    _core.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before[0])
    _core.set_num_threads(before[1])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
