"""What a CUDA graph reads stays as it was at its capture, as long as the module lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from launch_recorder import LaunchRecorder
from torch import Tensor, nn

from peel_ext import ElasticEmbedding, PlanesLayout, _core
from peel_ext.ops import _launching

BUDGET = 900
EVERY = torch.arange(64)


class Device(LaunchRecorder):
    """A device whose kernels the CPU runs, at once and again in replays of what was captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.captured: list[Callable[[], object]] = []
        self.tables: list[Any] = []  # in which rows were looked up
        monkeypatch.setattr(_launching, "is_device", lambda tensor: tensor.is_cpu)

    def __getattr__(self, name: str) -> Callable[..., object]:
        return (lambda *args: 0) if name.endswith("_workspace") else partial(self.start, name)

    def start(self, kernel: str, *args: Any) -> None:
        def run() -> None:
            getattr(_core, kernel)(*args[:-4])  # a native table has addresses alone

        run()
        if kernel == "grouped_lookup":
            self.tables.append(args[0])
        if self.capturing:
            self.captured.append(run)

    @contextmanager
    def capture(self) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False

    def replay(self) -> None:
        for run in self.captured:
            run()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def make(generator: torch.Generator) -> ElasticEmbedding:
    module = ElasticEmbedding.from_pretrained(
        torch.randn(64, 8, generator=generator), freeze=False, num_groups=2,
        layout=PlanesLayout(rows_per_block=8),
    )  # fmt: skip
    module.refine_rows(1, torch.tensor([3, 9]))
    nn.init.normal_(module.refinement, generator=generator)
    return module


@torch.no_grad()
def change(module: ElasticEmbedding) -> Tensor:
    """Other rows, of which other blocks are made."""
    module.get_parameter("weight").mul_(1.5)
    with module.budget(BUDGET):
        return module(EVERY, 1)


@torch.no_grad()
def see_other_budgets(module: ElasticEmbedding) -> None:
    for budget in range(1000, 1020):  # more than are kept
        with module.budget(budget):
            module(EVERY, 1)
    change(module)


CHANGES: dict[str, Callable[[ElasticEmbedding], object]] = {
    "rows": change,
    "conversions": lambda module: change(module.double().float()),
    "another weight": lambda module: (
        setattr(module, "weight", nn.Parameter(module.weight + 1)) or change(module)
    ),
    "budgets": see_other_budgets,
}


@pytest.mark.parametrize("changed", CHANGES)
def test_replays_read_what_the_capture_read(changed: str, device: Device, generator) -> None:
    module = make(generator)
    with torch.no_grad(), module.budget(BUDGET):
        want = module(EVERY, 1).clone()
        with device.capture():
            rows = module(EVERY, 1)
    blocks = weakref.ref(module.encoded_rows()[0])
    for _ in range(3):
        CHANGES[changed](module)
    assert not torch.equal(change(module), want)
    assert blocks() is not None
    rows.zero_()
    device.replay()
    assert torch.equal(rows, want)
    del module
    assert blocks() is None


def test_what_no_graph_reads_is_let_go(device: Device, generator) -> None:
    module = make(generator)
    change(module)
    blocks = weakref.ref(module.encoded_rows()[0])
    change(module)
    assert blocks() is None


def test_a_captured_backward_keeps_what_its_forward_read(device: Device, generator) -> None:
    module = make(generator)
    with module.budget(BUDGET):
        rows = module(EVERY, 1)
    with device.capture():
        rows.backward(torch.ones_like(rows))
    blocks = weakref.ref(module.encoded_rows()[0])
    del rows
    change(module)
    assert blocks() is not None


def test_what_a_capture_makes_is_for_its_graph_alone(device: Device, generator) -> None:
    """Copies that it makes have no values before a replay."""
    module = make(generator)
    with torch.no_grad():
        module(EVERY, 1)
        module.weight = nn.Parameter(torch.randn(8, 64, generator=generator).t())
        with device.capture():
            module(EVERY, 1)
        made = device.tables[-1]
        module(EVERY, 1)
    assert device.tables[-1] is not made
