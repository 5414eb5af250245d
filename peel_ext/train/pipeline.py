"""All stages in order, from interactions to a run folder that serves every budget."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig, SplitConfig
from peel_ext.data import (
    IdMap,
    Interactions,
    Split,
    make_interactions,
    read_split,
    split_interactions,
)
from peel_ext.errors import DataError, RunError
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.run_folder import RunFolder, fingerprint
from peel_ext.train.stages import DEPENDS, Made, Stages
from peel_ext.train.vectors import VectorPair, check_vectors

#: In the place of a path: a small data set the package makes itself.
SYNTHETIC = "synthetic"

#: Called with the stage, steps done, steps in all (0: unknown) and a short remark.
Progress = Callable[[str, int, int, str], None]


def _silent(stage: str, done: int, total: int, remark: str) -> None:
    """Reports nothing."""


def load_split(data: str | os.PathLike[str], config: SplitConfig) -> Split:
    """The interactions of a file or folder, split; a given test file is the target.

    Raises:
        DataError: the data cannot be read or split, or nothing is left to train on.
    """
    interactions: Interactions
    test: Interactions | None
    if data == SYNTHETIC:
        interactions, test = make_interactions(), None
    else:
        interactions, test = read_split(data)
    try:
        return split_interactions(interactions, test, config)
    except DataError as error:
        raise DataError(f"{data}: {error}") from None


def split_arrays(split: Split) -> dict[str, NDArray[np.int64]]:
    """The four parts of a split in CSR form, by the names they have in a :class:`TrainedRun`."""
    train_indptr, train_items = split.train.csr()
    test_indptr, test_items = split.target.csr()
    target_indptr, target_items = split.history_target.csr()
    lengths = np.bincount(split.history.user_rows, minlength=split.history.num_users)
    return {
        "train_indptr": train_indptr,
        "train_items": train_items,
        "test_indptr": test_indptr,
        "test_items": test_items,
        "history_indptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "history_items": split.history.item_rows.astype(np.int64),  # by user, then in order
        "history_test_indptr": target_indptr,
        "history_test_items": target_items,
    }


def run_pipeline(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PipelineConfig | None = None,
    progress: Progress = _silent,
    *,
    vectors: VectorPair | None = None,
    redo: bool = False,
    on_loss: Callable[[str, int, float], None] | None = None,
) -> TrainedRun:
    """Trains on the interactions of a file or folder, and saves every stage in a run folder.

    A stage that the folder has finished is not repeated, and one that was interrupted goes on from
    its last checkpoint: the result is the same, bit for bit, as without the interruption.

    Args:
        data: a data file, or a folder with one, or with train and test files.
        out: the run folder.
        config: all settings.
        progress: told of every step of the stages that have more than one, and of their ends.
        vectors: user and item vectors of another model, in place of pretraining; one row for each
            user and item in ascending order of their ids, users held out included or not.
        redo: drop the stages that other settings or data make invalid instead of refusing.
        on_loss: told the stage, the step and the loss of every step of training.

    Returns:
        The trained run.

    Raises:
        DataError: the data or the vectors cannot be read or used.
        RunError: the folder holds stages of other settings or data, or another process trains there.
    """
    config = config or PipelineConfig()
    progress("data", 0, 0, str(data))
    parts = load_split(data, config.split)
    split = split_arrays(parts)
    ids = {
        "users": parts.train.users,
        "items": parts.train.items,
        "new_users": parts.history.users,
    }
    facts = {"split": parts.method} | (
        {"test_left_out": parts.num_left_out} if parts.num_left_out else {}
    )
    del parts  # memory that training needs
    settings = dataclasses.asdict(config)
    if vectors is not None:
        vectors = check_vectors(_of_trained(vectors, ids), len(ids["users"]), len(ids["items"]))
        settings["vectors"] = fingerprint(vectors._asdict())

    def on_step(stage: str, done: int, total: int, loss: float) -> None:
        if total > 1:  # the only step is the end of its stage, which is told when that is saved
            progress(stage, done, total, f"loss {loss:.4f}")
        if on_loss is not None:
            on_loss(stage, done, loss)

    with RunFolder(out).lock():
        folder = RunFolder(out)  # as it is now that no other process trains there
        folder.begin(settings, fingerprint(split), DEPENDS, redo=redo)
        stages = Stages(folder, config, split, facts, ids, vectors, on_step)
        for name in DEPENDS:
            _run_stage(folder, name, getattr(stages, name), progress)
    return TrainedRun.open(out)


def _run_stage(folder: RunFolder, name: str, make: Callable[[], Made], progress: Progress) -> None:
    """Makes and saves what a stage makes, unless it is there."""
    if name in folder.stages:
        progress(name, 1, 1, "done before")
        return
    progress(name, 0, 0, "")
    began = time.perf_counter()
    tensors, facts = make()
    seconds = round(time.perf_counter() - began, 2)
    folder.finish(name, tensors, {**facts, "seconds": seconds})
    remark = ", ".join(f"{key} {value}" for key, value in facts.items())
    progress(name, 1, 1, f"{remark}, {seconds:.1f} s" if remark else f"{seconds:.1f} s")


def _of_trained(vectors: VectorPair, ids: dict[str, IdMap]) -> VectorPair:
    """The vectors without the rows of users held out, where those have rows."""
    known, new = ids["users"].ids, ids["new_users"].ids
    if len(new) == 0 or len(vectors.users) != len(known) + len(new):
        return vectors
    everybody = np.sort(np.concatenate([known, new]))
    return VectorPair(vectors.users[np.searchsorted(everybody, known)], vectors.items)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, opened.

    Attributes:
        folder: where it lies.
        users: ids of the users.
        items: ids of the items.
        user_vectors: float32 [num_users, dim], of length 1.
        user_group: int64 [num_users].
        centroids: float32 [num_groups, dim].
        embedding: the item table under any budget, one group per user group.
        temperature: of pretraining's softmax, which fold-in shares.
        train_indptr: int64 [num_users + 1], training interactions in CSR form.
        train_items: their items, ascending for each user.
        test_indptr: the same of the target interactions.
        test_items: their items.
        new_users: ids of the users held out of every stage.
        history_indptr: int64 [num_new_users + 1], what they did before, in CSR form.
        history_items: their items, for each user in the order of time where there is time.
        history_test_indptr: the same of their target interactions.
        history_test_items: their items.
    """

    folder: RunFolder
    users: IdMap
    items: IdMap
    user_vectors: NDArray[np.float32]
    user_group: NDArray[np.int64]
    centroids: NDArray[np.float32]
    embedding: ElasticEmbedding
    temperature: float
    train_indptr: NDArray[np.int64]
    train_items: NDArray[np.int64]
    test_indptr: NDArray[np.int64]
    test_items: NDArray[np.int64]
    new_users: IdMap
    history_indptr: NDArray[np.int64]
    history_items: NDArray[np.int64]
    history_test_indptr: NDArray[np.int64]
    history_test_items: NDArray[np.int64]

    @property
    def full_bytes(self) -> int:
        """Bytes of the item table in float32."""
        return self.embedding.weight.numel() * 4

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrainedRun:
        """Opens a run folder.

        Raises:
            RunError: no run there, or not a finished one.
        """
        folder = RunFolder(path)
        state = folder.load("block_weights")
        groups = folder.load("clustering")
        embedding = ElasticEmbedding.from_pretrained(
            torch.from_numpy(state["weight"]),
            num_groups=len(groups["centroids"]),
            layout=folder.config["layout"],
        )
        embedding.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        user_vectors = folder.load("pretraining")["users"]
        data = folder.load("data")
        return cls(
            folder=folder,
            users=_read_ids(folder, "users.json", len(user_vectors)),
            items=_read_ids(folder, "items.json", embedding.num_embeddings),
            user_vectors=user_vectors,
            user_group=groups["user_group"],
            centroids=groups["centroids"],
            embedding=embedding,
            temperature=folder.stages["tuning"]["temperature"],
            new_users=_read_ids(folder, "new_users.json", len(data["history_indptr"]) - 1),
            **data,
        )


def _read_ids(folder: RunFolder, name: str, expected: int) -> IdMap:
    ids = IdMap.from_values(folder.read_document(name))[0]
    if len(ids) != expected:
        raise RunError(f"{folder.path / name}: expected {expected} distinct ids, found {len(ids)}")
    return ids
