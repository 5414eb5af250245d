"""Training on a device other than the CPU.

Most machines that run tests have none, so another process pretends to have one: it computes as the CPU
does, refuses tensors of two devices in one operation, and counts what a device is waited for.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import device_runs
import numpy as np
import pytest
import torch
from device_runs import Account
from shop_runs import write_shop

from peel_ext.cli.main import main
from peel_ext.config import (
    ClusteringConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
    TuningConfig,
)
from peel_ext.train.pipeline import TrainedRun, run_pipeline
from peel_ext.train.run_folder import RunFolder

REFINED = PipelineConfig(
    tuning=TuningConfig(temperatures=(0.1, 0.2), embedding_dims=(16,), epochs=1, prior_epochs=1),
    pretraining=PretrainingConfig(epochs=2, steps_per_epoch=4),
    clustering=ClusteringConfig(num_groups=3),
    refinement=RefinementConfig(steps=3, rows_per_group=30),
)
CONFIGS = {
    "regression": dataclasses.replace(
        REFINED, control=ControlConfig(controller="regression", steps=5, batch_size=64)
    ),
    "bilevel": dataclasses.replace(
        REFINED,
        pretraining=PretrainingConfig(
            epochs=2, steps_per_epoch=4, softmax="sampled", num_negatives=50
        ),
        control=ControlConfig(controller="bilevel", steps=3),
    ),
    "mixture": dataclasses.replace(REFINED, control=ControlConfig(controller="mixture")),
    "columns": dataclasses.replace(
        REFINED,
        pretraining=PretrainingConfig(epochs=2, steps_per_epoch=4, num_layers=0),
        control=ControlConfig(controller="bilevel", steps=3),
        layout="columns",
    ),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "shop.csv")


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> PipelineConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def on_cpu(config: PipelineConfig, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu") / "run"
    run_pipeline(shop, folder, config)
    return folder


@pytest.fixture(scope="module")
def whole(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every stage that keeps a checkpoint, on the CPU."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_pipeline(shop, folder, CONFIGS["bilevel"])
    return folder


def assert_same(got: Path, want: Path) -> None:
    """The same stages, but for rounding."""
    ours, theirs = RunFolder(got), RunFolder(want)
    assert list(ours.stages) == list(theirs.stages)
    for stage in ours.stages:
        there = theirs.load(stage)
        for name, array in ours.load(stage).items():
            np.testing.assert_allclose(array, there[name], 1e-4, 1e-6, err_msg=f"{stage} {name}")


def test_a_run_is_that_of_the_cpu(
    config: PipelineConfig,
    device_process: ProcessPoolExecutor,
    shop: Path,
    on_cpu: Path,
    tmp_path: Path,
) -> None:
    account: Account = device_process.submit(
        device_runs.train, shop, tmp_path / "run", config
    ).result()

    assert_same(tmp_path / "run", on_cpu)
    assert not account.remarks
    of = account.operations
    for stage in ("tuning", "pretraining", "refinement"):
        assert of[stage]["_fused_adam_"] > 0
    for stage in ("tuning", "refinement", "block_weights"):
        assert of[stage]["gathered_score"] > 0
    learns = config.control.controller in ("regression", "bilevel")
    assert (of["block_weights"]["_fused_adam_"] > 0) == learns
    # Reading the loss of a step, and batches whose size depends on the lists of its users.
    steps = config.pretraining.epochs * config.pretraining.steps_per_epoch
    if config.pretraining.softmax != "sampled":
        assert sum(account.waits["pretraining"].values()) < 4 * steps + 30
    TrainedRun.open(tmp_path / "run").recommend(["u3"], budget_bytes=8_000)


@pytest.mark.parametrize("stage", ["tuning", "pretraining", "refinement", "block_weights"])
@pytest.mark.parametrize("first", ["cpu", device_runs.NAME])
def test_a_run_goes_on_on_another_device(
    stage: str,
    first: str,
    device_process: ProcessPoolExecutor,
    shop: Path,
    whole: Path,
    tmp_path: Path,
) -> None:
    arguments = shop, tmp_path / "torn", CONFIGS["bilevel"], stage, first
    device_process.submit(device_runs.train_on_both, *arguments).result()
    assert_same(tmp_path / "torn", whole)


def test_without_kernels_the_cpu_ranks_and_it_is_said(
    device_process: ProcessPoolExecutor, shop: Path, tmp_path: Path
) -> None:
    config = CONFIGS["regression"]
    account = device_process.submit(
        device_runs.train, shop, tmp_path, config, kernels=False
    ).result()
    assert [remark for remark in account.remarks if "ranked on the CPU" in remark]
    assert len(account.remarks) == 1
    assert account.operations["pretraining"]["_fused_adam_"] > 0
    assert not any(of["gathered_score"] for of in account.operations.values())


def test_a_loss_waits_as_often_for_many_chunks_as_for_one(
    device_process: ProcessPoolExecutor,
) -> None:
    one = device_process.submit(device_runs.count_waits, 1 << 20).result()
    many = device_process.submit(device_runs.count_waits, 40 * 4 * 7).result()
    assert one == many == {"_to_copy": 1}


def test_the_pretended_device_refuses_tensors_of_others(
    device_process: ProcessPoolExecutor,
) -> None:
    with pytest.raises(RuntimeError, match="others on cpu"):
        device_process.submit(device_runs.mix_devices).result()


def test_a_device_that_is_not_there_is_told_in_one_line(
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", str(shop), "--out", str(tmp_path / "run"), "--device", "cuda"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("peel: device must be")
    assert told[0].endswith("got 'cuda'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("controller", ["regression", "bilevel"])
def test_devices_are_not_seeded(
    controller: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(seed: int) -> None:
        pytest.fail("the global random state of devices was changed")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    run_pipeline(shop, tmp_path, CONFIGS[controller])
