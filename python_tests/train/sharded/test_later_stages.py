"""Stages after pretraining, by two processes and by one, of the same vectors and groups."""

from __future__ import annotations

import dataclasses
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from rank_processes import RankProcesses
from shop_runs import write_shop

from peel_ext.config import (
    ClusteringConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
    TuningConfig,
)
from peel_ext.scale.collectives import Collectives
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
            np.testing.assert_allclose(other[name], array, 1e-4, 1e-6, err_msg=name)


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


def _interrupted(ranks: Collectives, shop: Path, out: Path, config: PipelineConfig) -> None:
    """Refines until each rank has done one of its groups; saves as often as may be."""
    step, taken = GroupRefinement.take_step, [0]

    def stop_at(refinement: GroupRefinement) -> float:
        if taken[0] == config.refinement.steps + 1:
            raise _InterruptionError
        taken[0] += 1
        return step(refinement)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timer, "is_due", lambda timer: True)
        patch.setattr(GroupRefinement, "take_step", stop_at)
        with pytest.raises(_InterruptionError):
            train_together(ranks, shop, out, config, redo=True)


def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process the only rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)


def test_an_interrupted_refinement_goes_on_with_another_number_of_ranks(
    rank_processes: RankProcesses,
    shop: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, taken = CONFIGS["planes"], []
    for each in ("one", "two"):
        shutil.copytree(base, tmp_path / each)
    rank_processes.run(_interrupted, shop, tmp_path / "two", config)
    assert (tmp_path / "two" / "refinement.checkpoint" / "index.json").exists()
    run_pipeline(shop, tmp_path / "one", config, redo=True)
    step = GroupRefinement.take_step
    monkeypatch.setattr(GroupRefinement, "take_step", lambda each: taken.append(each) or step(each))
    _alone(monkeypatch)
    run_sharded_pipeline(shop, tmp_path / "two", config)
    assert len(taken) == (5 - 2) * config.refinement.steps  # two of five groups were done
    _compare(tmp_path / "two", tmp_path / "one")
