"""The device that each process takes, and training by several on a device that is not the CPU."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import device_runs
import numpy as np
import pytest
import thread_ranks
import torch
import torch.distributed
from shop_runs import write_shop

from peel_ext.config import (
    ClusteringConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
    TuningConfig,
)
from peel_ext.errors import RankError
from peel_ext.scale import meeting
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.rank_device import backend_of, find_device
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.sharded.pipeline import train_together

CONFIG = PipelineConfig(
    tuning=TuningConfig(epochs=1, prior_epochs=1),
    pretraining=PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4, temperature=0.2),
    clustering=ClusteringConfig(num_groups=3),
    refinement=RefinementConfig(steps=2, rows_per_group=30),
    control=ControlConfig(controller="bilevel", steps=3),
)


def test_each_process_of_a_host_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert find_device("cuda") == torch.device("cuda", rank)
    assert find_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ValueError, match="got 'cuda' with 2 of them and process 3: start at most 2"
    ):
        find_device("cuda")


def test_cuda_devices_send_over_nccl_and_others_over_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_of(torch.device("cuda", 1)) == "cpu:gloo,cuda:nccl"
    assert backend_of(torch.device("cpu")) == "gloo"
    taken: list[Any] = []

    def refuse(backend: str, **others: Any) -> None:
        taken.append(backend)
        raise RuntimeError("no device is here")

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    store = torch.distributed.HashStore()
    monkeypatch.setattr(meeting, "rendezvous", lambda *args, **rest: iter([(store, 1, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    with pytest.raises(RankError, match="no device is here"), Collectives.joined("cuda"):
        pass
    assert taken == [torch.device("cuda", 1), "cpu:gloo,cuda:nccl"]


def test_a_rank_trains_on_its_device(device_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    """One that is pretended: it computes as the CPU, and refuses tensors of two devices."""
    shop = write_shop(tmp_path / "shop.csv")
    arguments = shop, tmp_path / "device", CONFIG
    operations = device_process.submit(device_runs.train_as_rank, *arguments).result()
    thread_ranks.run(1, train_together, shop, tmp_path / "cpu", CONFIG)
    for stage in ("tuning", "pretraining", "refinement", "block_weights"):
        assert operations[stage]["_fused_adam_"] > 0, stage
    for stage in ("tuning", "refinement", "block_weights"):
        assert operations[stage]["gathered_score"] > 0, stage
    found, expected = (RunFolder(tmp_path / name) for name in ("device", "cpu"))
    for stage in expected.stages:
        theirs = expected.load(stage)
        for name, array in found.load(stage).items():
            np.testing.assert_allclose(array, theirs[name], 1e-4, 1e-6, err_msg=f"{stage} {name}")
