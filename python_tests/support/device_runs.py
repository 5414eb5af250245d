"""What tests have done by a process that has the pretended device, with kernels for it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pretend_device
import pytest
import thread_ranks
import torch
from pretend_device import NAME, PretendDevice, PretendTensor
from shop_runs import interrupting_at
from torch import Tensor

import peel_ext.config
from peel_ext.config import PipelineConfig
from peel_ext.evaluation import Evaluation, evaluate_run
from peel_ext.nn import state
from peel_ext.ops import _bridge, _checks, _launching, lookup
from peel_ext.scale.collectives import Collectives
from peel_ext.train import losses, placement
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import TrainedRun, run_pipeline
from peel_ext.train.sharded.pipeline import Listeners, train_together


class Account(NamedTuple):
    """What happened on the device, and what was remarked."""

    operations: dict[str, Counter[str]]  # by stage
    waits: dict[str, Counter[str]]  # by stage
    remarks: list[str]


def begin() -> None:
    """Gives this process the device."""
    pretend_device.make_device()
    peel_ext.config.DEVICES = placement.DEVICES = ("cpu", NAME)
    _checks.DEVICES.add(NAME)
    _launching.AVAILABLE = True
    state.check_plain = lambda weight: None  # tensors of the device are plain to whom it has
    _bridge.gathered_score = _score_packed(_bridge.gathered_score)


def _score_packed(kernel: Any) -> Any:
    """The kernel, which is called without torch knowing of it where the table is packed."""

    def score(users: Tensor, table: Any, *args: Any) -> Any:
        if isinstance(table, Tensor):
            return kernel(users, table, *args)
        assert isinstance(users, PretendTensor), "a packed table was scored on the CPU"
        assert all(isinstance(each, PretendTensor) for each in args if isinstance(each, Tensor))
        made = kernel(users.inner, table, *(getattr(each, "inner", each) for each in args))
        return tuple(map(PretendTensor, made))

    return score


def train(data: Path, out: Path, config: PipelineConfig, kernels: bool = True) -> Account:
    """Trains on the device, without kernels for it if so wanted."""
    account = Account({}, {}, [])
    with pytest.MonkeyPatch.context() as patch, PretendDevice() as device:
        if not kernels:
            for module in (_checks, lookup):
                patch.setattr(module, "DEVICES", {"cpu", "meta"})

        def progress(stage: str, done: int, total: int, remark: str) -> None:
            if done == total == 1:
                account.operations[stage], account.waits[stage] = device.operations, device.waits
                device.operations, device.waits = Counter(), Counter()

        on_device = dataclasses.replace(config, device=NAME)
        run_pipeline(data, out, on_device, progress, on_remark=account.remarks.append)
    return account


def train_as_rank(data: Path, out: Path, config: PipelineConfig) -> dict[str, Counter[str]]:
    """Trains on the device as the only one of ranks; what was computed there, by stage."""
    operations: dict[str, Counter[str]] = {}

    def work(ranks: Collectives) -> None:
        with PretendDevice() as device:

            def progress(stage: str, done: int, total: int, remark: str) -> None:
                if done == total == 1:
                    operations[stage], device.operations = device.operations, Counter()

            on_device = dataclasses.replace(config, device=NAME)
            train_together(ranks, data, out, on_device, Listeners(progress))

    thread_ranks.run(1, work)
    return operations


def train_on_both(data: Path, out: Path, config: PipelineConfig, stage: str, first: str) -> None:
    """Begins to train on one of cpu and the device, and goes on on the other within a stage."""
    devices = {first: (stage, 2), ({"cpu", NAME} - {first}).pop(): ("", 0)}
    with pytest.MonkeyPatch.context() as patch, PretendDevice():
        patch.setattr(Timer, "is_due", lambda self: True)
        for device, interruption in devices.items():
            try:
                run_pipeline(
                    data, out, dataclasses.replace(config, device=device),
                    interrupting_at(*interruption),
                )  # fmt: skip
            except KeyboardInterrupt:
                assert device == first


def evaluate(folder: Path, protocol: str, budgets: list[int]) -> tuple[Evaluation, int]:
    """Everything that can be measured, ranked on the device, and how often lists were made elsewhere."""
    run = TrainedRun.open(folder)
    blends = protocol != "known"
    with PretendDevice() as device:
        found = evaluate_run(
            run, protocol, budgets, with_blends=blends, with_rivals=True, device=NAME
        )
    return found, device.elsewhere["gathered_score"]


def count_waits(chunk_bytes: int) -> Counter[str]:
    """How the device is waited for in one full softmax of 60 users and 40 items, forward and backward."""
    with PretendDevice() as device:
        generator = torch.Generator().manual_seed(0)
        users, items = (
            torch.randn(size, 8, generator=generator, device="cpu").to(NAME).requires_grad_()
            for size in (60, 40)
        )
        indptr = torch.arange(61, device=NAME)
        positives = torch.arange(60, device=NAME) % 40
        weights = torch.ones(60, dtype=torch.float32, device=NAME)
        device.waits.clear()
        losses.full_softmax_loss(
            users, items, indptr, positives, 0.1, weights, chunk_bytes=chunk_bytes
        ).backward()
        return device.waits


def mix_devices() -> None:
    """Multiplies what is on the device by what is not."""
    with PretendDevice():
        torch.ones(2, 2, device=NAME) @ torch.ones(2, 2, device="cpu")
