"""Stages after pretraining, by two processes and by one, of the same vectors and groups."""

from __future__ import annotations

import dataclasses
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_processes import RankProcesses
from shop_runs import write_shop

from peel_ext.config import (
    ClusteringConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
    TuningConfig,
)
from peel_ext.scale.collectives import Collectives
from peel_ext.train.block_weights.bilevel import Loop
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import run_pipeline
from peel_ext.train.refinement import GroupRefinement
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.sharded.pipeline import run_sharded_pipeline, train_together

BASE = PipelineConfig(
    pretraining=PretrainingConfig(
        embedding_dim=16, epochs=2, temperature=0.2, steps_per_epoch=4, prior=(0.1,)
    ),
    tuning=TuningConfig(prior_epochs=1, epochs=1),
    clustering=ClusteringConfig(num_groups=5),
)
REFINED = RefinementConfig(steps=3, rows_per_group=20)
CONFIGS = {
    "columns": dataclasses.replace(BASE, layout="columns", refinement=REFINED),
    "planes": dataclasses.replace(BASE, refinement=REFINED),
    "regression": dataclasses.replace(
        BASE, control=ControlConfig(controller="regression", steps=20, batch_size=64)
    ),
    "mixture": dataclasses.replace(BASE, control=ControlConfig(controller="mixture")),
    "bilevel": dataclasses.replace(BASE, control=ControlConfig(controller="bilevel", steps=6)),
    "columns and bilevel": dataclasses.replace(
        BASE, layout="columns", control=ControlConfig(controller="bilevel", steps=6)
    ),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "shop.csv")


@pytest.fixture(scope="module")
def base(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process."""
    folder = tmp_path_factory.mktemp("base") / "run"
    run_pipeline(shop, folder, BASE)
    return folder


def _go_on(ranks: Collectives, shop: Path, out: Path, config: PipelineConfig) -> None:
    train_together(ranks, shop, out, config, redo=True)


def _compare(found: Path, expected: Path) -> None:
    """The same facts and arrays; those of refinement are the same bits."""
    ours, theirs = RunFolder(found), RunFolder(expected)
    assert list(ours.stages) == list(theirs.stages)
    for stage, facts in theirs.stages.items():
        assert ours.stages[stage].keys() == facts.keys()
        other = ours.load(stage)
        for name, array in theirs.load(stage).items():
            if stage == "refinement":
                assert np.array_equal(other[name], array), name
            if name == "item_group":  # values that are equal but for rounding may change places
                assert (other[name] == array).mean() > 0.99
                continue
            np.testing.assert_allclose(other[name], array, 1e-3, 1e-5, err_msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_stages_are_those_of_one_process(
    name: str, rank_processes: RankProcesses, shop: Path, base: Path, tmp_path: Path
) -> None:
    for each in ("one", "two"):
        shutil.copytree(base, tmp_path / each)
    run_pipeline(shop, tmp_path / "one", CONFIGS[name], redo=True)
    rank_processes.run(_go_on, shop, tmp_path / "two", CONFIGS[name])
    _compare(tmp_path / "two", tmp_path / "one")


class _InterruptionError(Exception):
    """In place of a signal."""


def _interrupted(
    ranks: Collectives, shop: Path, out: Path, config: PipelineConfig, kind: type, count: int
) -> None:
    """Goes on until so many steps of a stage are done; saves as often as may be."""
    name = "step" if kind is Loop else "take_step"
    step, taken = getattr(kind, name), [0]

    def stop_at(each: Any, *args: Any) -> float:
        if taken[0] == count:
            raise _InterruptionError
        taken[0] += 1
        return step(each, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timer, "is_due", lambda timer: True)
        patch.setattr(kind, name, stop_at)
        with pytest.raises(_InterruptionError):
            train_together(ranks, shop, out, config, redo=True)


def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process the only rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "kind", "before", "after"),
    [
        ("planes", GroupRefinement, 4, 9),  # two of five groups are done
        ("bilevel", Loop, 4, 2),
        ("columns and bilevel", Loop, 4, 2),
    ],
)
def test_an_interrupted_stage_goes_on_with_another_number_of_ranks(
    name: str,
    kind: type,
    before: int,
    after: int,
    rank_processes: RankProcesses,
    shop: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, taken = CONFIGS[name], []
    for each in ("one", "two"):
        shutil.copytree(base, tmp_path / each)
    rank_processes.run(_interrupted, shop, tmp_path / "two", config, kind, before)
    run_pipeline(shop, tmp_path / "one", config, redo=True)
    method = "step" if kind is Loop else "take_step"
    step = getattr(kind, method)
    monkeypatch.setattr(kind, method, lambda each, *args: taken.append(each) or step(each, *args))
    _alone(monkeypatch)
    run_sharded_pipeline(shop, tmp_path / "two", config)
    assert len(taken) == after
    _compare(tmp_path / "two", tmp_path / "one")
