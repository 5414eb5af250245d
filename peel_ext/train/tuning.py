"""Before stage 1: what no one setting gets right for all data is chosen on held-out interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.held_out import draw_users, hold_out_weighted, measure
from peel_ext.train.lists import Lists, take_users
from peel_ext.train.pretraining import DEFAULT_TEMPERATURE, pretrain


def choose_temperature(
    indptr: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    num_items: int,
    tuning: TuningConfig,
    pretraining: PretrainingConfig,
    *,
    weights: NDArray[np.float64] | None = None,
    validation: Lists | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """The temperature whose short training finds most of the held-out interactions.

    A small, dense data set wants a softer softmax than a large, sparse one, and the order of two
    temperatures shows early in training.

    Args:
        indptr: [num_users + 1], interactions in CSR form.
        item_rows: [num_interactions].
        num_items: number of items.
        tuning: candidates, and how to judge them.
        pretraining: all other settings.
        weights: of the interactions in training [num_interactions], or None.
        validation: the interactions to judge by, in CSR form over the same users; None holds a share
            of the others out.
        on_progress: as of :func:`peel_ext.train.pretraining.pretrain`, over all candidates.
        checkpoint: where the recalls of finished candidates are kept, and the state of one under way.

    Returns:
        The temperature, of equals the first, and the recall of each candidate [num_candidates]; of
        the first candidate alone, or of the default, without training when there is nothing to
        choose or to choose by.
    """
    candidates = tuning.temperatures
    left: Lists = (indptr, item_rows)
    if validation is None:
        left, held, weights = hold_out_weighted(
            left, num_items, tuning.validation_share, tuning.seed, weights
        )
    else:
        held = validation
    users = draw_users(held, tuning.max_users, tuning.seed)
    if len(candidates) == 1 or len(users) == 0:
        only = candidates[0] if len(candidates) == 1 else DEFAULT_TEMPERATURE
        return only, np.zeros(0)
    kept = _CandidateCheckpoint(checkpoint) if checkpoint is not None else None
    recalls = kept.recalls if kept is not None else []  # one list, so that all is saved
    for at in range(len(recalls), len(candidates)):
        config = dataclasses.replace(
            pretraining,
            temperature=candidates[at],
            epochs=min(tuning.epochs, pretraining.epochs),
        )
        vectors = pretrain(
            *left,
            num_items,
            config,
            weights=weights,
            on_progress=_shifted(on_progress, at, len(candidates)),
            checkpoint=kept,
        )
        quality = measure(
            vectors.users[users],
            vectors.items,
            take_users(left, users),
            take_users(held, users),
            tuning.n,
        )
        recalls.append(quality.recall)
        if kept is not None:
            kept.save({})
    return candidates[int(np.argmax(recalls))], np.array(recalls)


class _CandidateCheckpoint:
    """A checkpoint that keeps, beside the state of one training, the recalls of those before it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._state = checkpoint.load() or {}
        self.recalls: list[float] = self._state.pop("recalls", np.zeros(0)).tolist()

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state of the training that was under way, for the first that asks, or None."""
        state, self._state = self._state, {}
        return state or None

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state, atomically."""
        self._checkpoint.save({**state, "recalls": np.array(self.recalls)})


def _shifted(
    on_progress: Callable[[int, int, float], None] | None, before: int, count: int
) -> Callable[[int, int, float], None] | None:
    """Progress of one of ``count`` trainings of equal length as progress of all."""
    if on_progress is None:
        return None
    report = on_progress
    return lambda done, total, loss: report(before * total + done, count * total, loss)
