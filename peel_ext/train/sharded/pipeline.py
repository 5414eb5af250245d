"""All stages in order by several processes, into a run folder as one process makes it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from peel_ext.config import PipelineConfig
from peel_ext.data import IdMap
from peel_ext.data.item_names import read_item_names
from peel_ext.data.readers import warn
from peel_ext.errors import ElsewhereError
from peel_ext.memory import trim_memory
from peel_ext.scale.collectives import Collectives
from peel_ext.threads import check_environment
from peel_ext.train.pipeline import (
    PreparedData,
    Progress,
    fingerprint_data,
    finish_stage,
    fit_vectors,
    name_of,
    settings_of,
    silent,
    versions_in_use,
    warn_of_training,
)
from peel_ext.train.placement import remark_on_ranking, require_device
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.sharded.data import SharedRunData, read_data
from peel_ext.train.sharded.stages import ShardedStages
from peel_ext.train.stages import STAGES, Stages
from peel_ext.train.vectors import VectorPair


class Listeners(NamedTuple):
    """The functions that are told of the way; see :func:`peel_ext.train.pipeline.run_pipeline`."""

    progress: Progress = silent
    on_loss: Callable[[str, int, float], None] | None = None
    on_remark: Callable[[str], None] | None = None


def run_sharded_pipeline(
    data: Any,
    out: str | os.PathLike[str],
    config: PipelineConfig | None = None,
    listeners: Listeners | None = None,
    *,
    vectors: VectorPair | None = None,
    item_names: str | os.PathLike[str] | None = None,
    redo: bool = False,
) -> None:
    """Does what :func:`peel_ext.train.pipeline.run_pipeline` does, by processes of ``torchrun``.

    Every rank calls it with the same arguments. Rank 0 alone writes, and tells ``listeners`` what happens.

    Args:
        data: as there.
        out: as there, on a file system that all ranks share.
        config: all settings.
        listeners: what is told on the way.
        vectors: as there; those of rank 0 count, which deals them out.
        item_names: as there.
        redo: as there.

    Raises:
        DataError: as there; fewer users or items than ranks; or ranks read different data.
        ElsewhereError: another rank raises what ends the run.
        RankError: another rank has ended without a word.
        RunError: as there.
        ValueError: as there; more processes on a host than CUDA devices, or another rank was given other
            settings.
    """
    config = PipelineConfig() if config is None else config
    check_environment()
    require_device(config.device)
    with Collectives.joined(config.device) as ranks:
        train_together(
            ranks, data, out, config, listeners, vectors=vectors, item_names=item_names, redo=redo
        )


def train_together(
    ranks: Collectives,
    data: Any,
    out: str | os.PathLike[str],
    config: PipelineConfig,
    listeners: Listeners | None = None,
    *,
    vectors: VectorPair | None = None,
    item_names: str | os.PathLike[str] | None = None,
    redo: bool = False,
) -> None:
    """Does what :func:`run_sharded_pipeline` does, by processes that have joined each other."""
    with contextlib.ExitStack() as held:
        told = listeners if ranks.is_first and listeners is not None else Listeners()
        _agree_on_settings(config, ranks)
        # First of all: nobody reads for a run that cannot be.
        ranks.on_first(lambda: held.enter_context(_locked(out)))
        told.progress("data", 0, 0, name_of(data))
        remark = (told.on_remark or warn) if ranks.is_first else _ignore
        doubt = (told.on_remark or warn_of_training) if ranks.is_first else _ignore
        remark_on_ranking(config.device, doubt)
        shared = read_data(data, config, ranks, remark)
        prepared = shared.whole
        names = None
        if item_names is not None:
            items = IdMap(np.zeros(0, np.int64)) if prepared is None else prepared.ids["items"]
            names = ranks.on_first(lambda: read_item_names(item_names, items, remark))
        given = ranks.on_first(lambda: _checked(vectors, prepared))
        folder = ranks.on_first(lambda: _begin(out, config, prepared, given, redo))
        _run_stages(folder, Path(out), config, shared, given, told, ranks)
        if folder is not None and names is not None:
            folder.add_document("item_names.json", names)
        ranks.barrier()


@contextlib.contextmanager
def _locked(out: str | os.PathLike[str]) -> Iterator[None]:
    """The run folder while no other process trains there."""
    RunFolder(out).check_writable()
    with RunFolder(out).lock():
        yield


def _checked(vectors: VectorPair | None, whole: PreparedData | None) -> VectorPair | None:
    assert whole is not None  # on rank 0, which alone has them
    return None if vectors is None else fit_vectors(vectors, whole.ids)


def _begin(
    out: str | os.PathLike[str],
    config: PipelineConfig,
    whole: PreparedData | None,
    vectors: VectorPair | None,
    redo: bool,
) -> RunFolder:
    assert whole is not None  # on rank 0, which alone begins
    folder = RunFolder(out)  # as it is now that no other process trains there
    sections = {stage.name: stage.sections for stage in STAGES}
    digest = fingerprint_data(whole.split, whole.ids)
    folder.begin(settings_of(config, vectors), digest, sections, redo=redo)
    return folder


def _agree_on_settings(config: PipelineConfig, ranks: Collectives) -> None:
    own = {"settings": dataclasses.asdict(config), "versions": versions_in_use()}
    text = json.dumps(own, sort_keys=True)
    differing = ranks.differing(hashlib.sha256(text.encode()).digest())
    first = ranks.tell(own)
    if not differing:
        return
    if ranks.rank != differing[0]:
        raise ElsewhereError("another rank tells what differs")
    mine, theirs = (_flat(json.loads(json.dumps(each))) for each in (own, first))
    name = next(name for name in theirs if mine[name] != theirs[name])
    raise ValueError(
        f"rank {ranks.rank} was started with {name} {mine[name]!r}, rank 0 with {theirs[name]!r}: "
        "all ranks need the same"
    )


def _flat(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Settings of sections by names such as ``split.seed``."""
    found: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, dict):
            found |= _flat(each, f"{before}{name}.")
        else:
            found[before + name] = each
    return found


def _run_stages(
    folder: RunFolder | None,
    path: Path,
    config: PipelineConfig,
    shared: SharedRunData,
    vectors: VectorPair | None,
    told: Listeners,
    ranks: Collectives,
) -> None:
    def on_step(stage: str, done: int, total: int, loss: float) -> None:
        if total > 1:
            told.progress(stage, done, total, f"loss {loss:.4f}")
        if told.on_loss is not None:
            told.on_loss(stage, done, loss)

    on_doubt = (told.on_remark or warn_of_training) if ranks.is_first else _ignore
    stages = ShardedStages(
        folder, path, config, shared.data, shared.validation, vectors,
        ranks.tell(vectors is not None), ranks, on_step, on_doubt,
    )  # fmt: skip
    whole = shared.whole
    if folder is not None and whole is not None:
        if "data" not in folder.stages:
            made = Stages(
                folder, config, whole.split, whole.facts, whole.ids, None, on_step, on_doubt
            )
            finish_stage(folder, "data", made.data, told.progress)
        whole.split.clear()  # memory that training needs
    for stage in STAGES[1:]:
        _run_stage(stages, stage.name, told.progress)


def _run_stage(stages: ShardedStages, name: str, progress: Progress) -> None:
    """Makes what a stage makes, and saves it on rank 0, unless it is there."""
    folder, ranks = stages.folder, stages.ranks
    if ranks.tell(folder is not None and name in folder.stages):
        progress(name, 1, 1, "done before")
        stages.load(name)
    elif folder is not None:
        progress(name, 0, 0, "")
        finish_stage(folder, name, getattr(stages, name), progress)
    else:
        getattr(stages, name)()
    trim_memory()
    stages.facts[name] = ranks.tell({} if folder is None else folder.stages[name])


def _ignore(remark: str) -> None:
    """Ignores what another rank tells."""
