"""Training gives the same bytes whatever torch's default dtype and device are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from peel_ext.config import (
    ClusteringConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
)
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import TrainedRun, run_pipeline

PRETRAINING = PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4)
EVERY_STAGE = PipelineConfig(
    pretraining=PRETRAINING,
    clustering=ClusteringConfig(num_groups=3),
    refinement=RefinementConfig(steps=3, rows_per_group=30),
    control=ControlConfig(controller="regression", steps=5, batch_size=64),
)
CONFIGS = {
    "regression": EVERY_STAGE,
    "bilevel": dataclasses.replace(
        EVERY_STAGE,
        # What no power of two divides is rotated another way, what is sampled drawn.
        pretraining=dataclasses.replace(
            PRETRAINING, embedding_dim=12, softmax="sampled", num_negatives=50
        ),
        control=ControlConfig(controller="bilevel", steps=3),
    ),
    "mixture": dataclasses.replace(EVERY_STAGE, control=ControlConfig(controller="mixture")),
    "columns": dataclasses.replace(
        EVERY_STAGE,
        pretraining=dataclasses.replace(
            PRETRAINING, num_layers=0, softmax="sampled", num_negatives=1_000
        ),
        control=ControlConfig(controller="bilevel", steps=3),
        layout="columns",
    ),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_interactions(SyntheticConfig(num_users=150, num_items=200, mean_interactions=12))
    path = tmp_path_factory.mktemp("shop") / "shop.csv"
    pairs = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    path.write_text("user,item\n" + "".join(f"u{user},{item}\n" for user, item in pairs))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the index, whose seconds differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def usual(config: str, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """The run of a configuration under torch's own defaults."""
    return run_pipeline(shop, tmp_path_factory.mktemp("usual") / "run", CONFIGS[config])


def test_a_run_has_the_same_bytes(
    config: str,
    usual: TrainedRun,
    shop: Path,
    tmp_path: Path,
    other_defaults: Callable[[], AbstractContextManager[None]],
) -> None:
    with other_defaults():
        run = run_pipeline(shop, tmp_path / "other", CONFIGS[config])
        packed = run.embedding.generate(1, 6_000).buffer
    assert contents(tmp_path / "other") == contents(usual.folder.path)
    assert run.embedding.weight.dtype == torch.float32
    assert np.array_equal(packed, usual.embedding.generate(1, 6_000).buffer)


def test_a_run_goes_on_from_its_checkpoint(
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other_defaults: Callable[[], AbstractContextManager[None]],
) -> None:
    run_pipeline(shop, tmp_path / "whole", EVERY_STAGE)
    monkeypatch.setattr(Timer, "is_due", lambda self: True)

    def interrupt(stage: str, done: int, total: int, remark: str) -> None:
        if (stage, done) == ("pretraining", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(shop, tmp_path / "torn", EVERY_STAGE, interrupt)
    with other_defaults():
        run_pipeline(shop, tmp_path / "torn", EVERY_STAGE)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
