"""All stages in order, from interactions to a run folder that serves every budget."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import peel_ext
from peel_ext.config import PipelineConfig, ReadingConfig, SplitConfig
from peel_ext.data import (
    GivenParts,
    IdMap,
    ItemLists,
    Split,
    make_interactions,
    read_split,
    split_interactions,
)
from peel_ext.data.item_names import read_item_names
from peel_ext.data.readers import warn
from peel_ext.errors import DataError, TrainingWarning
from peel_ext.memory import trim_memory
from peel_ext.threads import check_environment
from peel_ext.train.placement import remark_on_ranking, require_device
from peel_ext.train.run_files import fingerprint
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.stages import STAGES, Made, Stages
from peel_ext.train.trained_run import TrainedRun as TrainedRun
from peel_ext.train.vectors import VectorPair, check_vectors

#: In the place of a path: a small data set the package makes itself.
SYNTHETIC = "synthetic"

#: Called with the stage, steps done, steps in all (0: unknown) and a short remark.
Progress = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, remark: str) -> None:
    """Reports nothing."""


def load_split(
    data: Any,
    config: SplitConfig,
    reading: ReadingConfig | None = None,
    on_remark: Callable[[str], None] = warn,
) -> Split:
    """Interactions, read and split; a given test part is the target.

    Args:
        data: what :func:`peel_ext.data.read_split` takes, or ``"synthetic"``.
        config: settings of the split.
        reading: settings of reading, or None for the default ones.
        on_remark: told what of the data is not used.

    Raises:
        DataError: the data cannot be read or split, or nothing is left to train on.
    """
    return _split(data, _read(data, reading, on_remark), config)


def _read(data: Any, reading: ReadingConfig | None, on_remark: Callable[[str], None]) -> GivenParts:
    if isinstance(data, str) and data == SYNTHETIC:
        return make_synthetic(reading)
    return read_split(data, reading, on_remark)


def make_synthetic(reading: ReadingConfig | None) -> GivenParts:
    """The data set that the package makes itself.

    Raises:
        ValueError: settings of reading.
    """
    if reading not in (None, ReadingConfig()):
        raise ValueError("settings of reading are for data that is yet to be read")
    return GivenParts(make_interactions())


def remark_on_split(
    given: GivenParts, config: SplitConfig, on_remark: Callable[[str], None]
) -> None:
    """Tells where a split that is asked for does not make the test part."""
    if given.test is not None and config.method != "random":
        on_remark(
            f"a test part is given: split {config.method!r} is only how interactions are held out to "
            "choose settings by"
        )


def _split(data: Any, given: GivenParts, config: SplitConfig) -> Split:
    try:
        return split_interactions(
            given.train, given.test, config, validation=given.validation, others=given.below
        )
    except DataError as error:
        raise DataError(f"{name_of(data)}: {error}") from None


def name_of(data: Any) -> str:
    """The name of data where it is told of."""
    return str(data) if isinstance(data, str | os.PathLike) else type(data).__name__


def split_arrays(split: Split) -> dict[str, NDArray[Any]]:
    """The parts of a split in CSR form, by the names they have in a :class:`TrainedRun`.

    What users had beyond training and target, a validation part, weights and times are there where
    the split has them.
    """
    lengths = np.bincount(split.history.user_rows, minlength=split.history.num_users)
    rows = split.history.item_rows.astype(np.int64)  # by user, then in order
    arrays: dict[str, NDArray[Any]] = {
        **split.train.csr().to_arrays("train"),
        **split.target.csr().to_arrays("test"),
        **ItemLists.from_counts(lengths, rows).to_arrays("history"),
        **split.history_target.csr().to_arrays("history_test"),
    }
    if len(split.others):
        arrays |= split.others.csr().to_arrays("other")
    if split.validation is not None:
        arrays |= split.validation.csr().to_arrays("validation")
    weights, timestamps = split.train.csr_weights(), split.train.csr_timestamps()
    if weights is not None:
        arrays["train_weights"] = weights
    if timestamps is not None:
        arrays["train_timestamps"] = timestamps
    return arrays


class PreparedData(NamedTuple):
    """The data a run is made from.

    Attributes:
        split: result of :func:`split_arrays`.
        ids: id maps by name: users, items, new_users.
        facts: how the split was made, and what it left out.
    """

    split: dict[str, NDArray[Any]]
    ids: dict[str, IdMap]
    facts: dict[str, Any]


def prepare_data(
    data: Any, config: PipelineConfig, on_remark: Callable[[str], None]
) -> PreparedData:
    """Reads and splits what a run is made from.

    Args:
        data: what :func:`run_pipeline` takes.
        config: all settings.
        on_remark: told what of the data is not used.

    Raises:
        DataError: the data cannot be read or split, or nothing is left to train on.
    """
    given = _read(data, config.reading, on_remark)
    remark_on_split(given, config.split, on_remark)
    parts, columns = _split(data, given, config.split), given.columns
    del given  # memory that training needs
    ids = {
        "users": parts.train.users,
        "items": parts.train.items,
        "new_users": parts.history.users,
    }
    facts: dict[str, Any] = {"split": parts.method}
    facts |= {"columns": columns} if columns else {}
    facts |= {"validation": len(parts.validation)} if parts.validation is not None else {}
    facts |= {"repeats_merged": parts.num_merged} if parts.num_merged else {}
    facts |= {"test_left_out": parts.num_left_out} if parts.num_left_out else {}
    return PreparedData(split_arrays(parts), ids, facts)


def run_pipeline(
    data: Any,
    out: str | os.PathLike[str],
    config: PipelineConfig | None = None,
    progress: Progress = silent,
    *,
    vectors: VectorPair | None = None,
    item_names: str | os.PathLike[str] | None = None,
    redo: bool = False,
    on_loss: Callable[[str, int, float], None] | None = None,
    on_remark: Callable[[str], None] | None = None,
) -> TrainedRun:
    """Trains on interactions, and saves every stage in a run folder.

    A stage that the folder has finished is not repeated, and one that was interrupted goes on from
    its last checkpoint: on the CPU the result is the same, bit for bit, as without the interruption.

    Args:
        data: a data file, several, or a folder, maybe with train, valid and test files; a frame
            (pandas, polars, Arrow); or interactions (:func:`peel_ext.data.read_split`).
        out: the run folder.
        config: all settings.
        progress: told of every step of the stages that have more than one, and of their ends.
        vectors: user and item vectors of another model, in place of pretraining; one row for each
            user and item in ascending order of their ids, users held out included or not.
        item_names: a file with the names of items (:func:`peel_ext.data.read_item_names`), to show;
            it may be given again later, when the run is finished.
        redo: drop the stages that other settings or data make invalid instead of refusing.
        on_loss: told the stage, the step and the loss of every step of training.
        on_remark: told what of the data is not used, of a loss that did not fall, and of what the CPU
            does in place of the device, a line each; None warns, with a ``DataWarning`` or
            ``TrainingWarning``.

    Returns:
        The trained run.

    Raises:
        DataError: the data or the vectors cannot be read or used.
        RunError: the folder cannot be written, or holds stages of other settings or data, or another
            process trains there.
        TypeError: data of another kind.
        ValueError: a device that torch does not find, or an environment variable of this package that
            is out of range.
    """
    config = PipelineConfig() if config is None else config
    if not isinstance(config, PipelineConfig):
        raise TypeError(f"config must be a PipelineConfig, got {type(config).__name__}")
    check_environment()
    require_device(config.device)
    RunFolder(out).check_writable()
    progress("data", 0, 0, name_of(data))
    on_data, on_doubt = on_remark or warn, on_remark or warn_of_training
    remark_on_ranking(config.device, on_doubt)
    split, ids, facts = prepare_data(data, config, on_data)
    names = None if item_names is None else read_item_names(item_names, ids["items"], on_data)
    vectors = None if vectors is None else fit_vectors(vectors, ids)

    def on_step(stage: str, done: int, total: int, loss: float) -> None:
        if total > 1:  # the only step is the end of its stage, which is told when that is saved
            progress(stage, done, total, f"loss {loss:.4f}")
        if on_loss is not None:
            on_loss(stage, done, loss)

    with RunFolder(out).lock():
        folder = RunFolder(out)  # as it is now that no other process trains there
        sections = {stage.name: stage.sections for stage in STAGES}
        digest = fingerprint_data(split, ids)
        folder.begin(settings_of(config, vectors), digest, sections, redo=redo)
        stages = Stages(folder, config, split, facts, ids, vectors, on_step, on_doubt)
        for stage in STAGES:
            _run_stage(folder, stage.name, functools.partial(stage.make, stages), progress)
        if names is not None:
            folder.add_document("item_names.json", names)
    return TrainedRun.open(out)


def warn_of_training(remark: str) -> None:
    """Warns of what makes the result of a stage doubtful."""
    warnings.warn(remark, TrainingWarning, stacklevel=2)


def _run_stage(folder: RunFolder, name: str, make: Callable[[], Made], progress: Progress) -> None:
    """Makes and saves what a stage makes, unless it is there."""
    if name in folder.stages:
        progress(name, 1, 1, "done before")
        return
    progress(name, 0, 0, "")
    finish_stage(folder, name, make, progress)
    trim_memory()


def finish_stage(
    folder: RunFolder, name: str, make: Callable[[], Made], progress: Progress
) -> None:
    """Makes and saves what a stage makes, and tells of it."""
    began = time.perf_counter()
    tensors, facts = make()
    seconds = round(time.perf_counter() - began, 2)
    folder.finish(name, tensors, {**facts, "seconds": seconds, "versions": versions_in_use()})
    remark = ", ".join(f"{key} {value}" for key, value in facts.items())
    progress(name, 1, 1, f"{remark}, {seconds:.1f} s" if remark else f"{seconds:.1f} s")


def versions_in_use() -> dict[str, str]:
    """The versions of what a stage is computed with."""
    return {
        "peel_ext": peel_ext.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def fingerprint_data(split: dict[str, NDArray[Any]], ids: dict[str, IdMap]) -> str:
    """A digest of the interactions, and of the ids of their rows."""
    arrays = dict(split)
    for name, each in ids.items():
        text = None if each.holds_integers else "\0".join(each.ids.tolist()).encode()
        arrays[f"ids of {name}"] = each.ids if text is None else np.frombuffer(text, np.uint8)
    return fingerprint(arrays)


def settings_of(config: PipelineConfig, vectors: VectorPair | None) -> dict[str, Any]:
    """The settings that a run folder keeps, with a digest of vectors that were given."""
    settings = dataclasses.asdict(config)
    if vectors is not None:
        settings["vectors"] = fingerprint(vectors._asdict())
    return settings


def fit_vectors(vectors: VectorPair, ids: dict[str, IdMap]) -> VectorPair:
    """The vectors as a run keeps them, without the rows of users held out, where those have rows.

    Raises:
        DataError: as of :func:`peel_ext.train.vectors.check_vectors`.
    """
    known, new = ids["users"].ids, ids["new_users"].ids
    if len(new) > 0 and len(vectors.users) == len(known) + len(new):
        everybody = np.sort(np.concatenate([known, new]))
        vectors = VectorPair(vectors.users[np.searchsorted(everybody, known)], vectors.items)
    return check_vectors(vectors, len(known), len(ids["items"]))
