"""Trainings one after another, each judged on interactions that it does not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.pretraining import left_out_weight


class Judge(Protocol):
    """Trains on a part of the interactions, and says how well the others are found."""

    @property
    def num_users(self) -> int:
        """The number of users it goes by."""

    def train(
        self,
        settings: PretrainingConfig,
        start: Sequence[float],
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: Checkpoint,
    ) -> tuple[list[float], float]:
        """The weights of the best prior after a training, searched from a start, and the quality."""


class Trainings:
    """Trainings one after another, which a checkpoint keeps from being repeated."""

    def __init__(
        self,
        judge: Judge,
        planned: list[int],
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.kept = _TrainingCheckpoint(checkpoint)
        self._judge, self._planned, self._on_progress = judge, planned, on_progress
        self._place = 0  # among the trainings that were planned
        self._count = 0  # of those that were run, now or before

    def skip_to(self, place: int) -> None:
        """Leaves out trainings that have become needless."""
        self._place = max(self._place, place)

    @property
    def prior_of_best(self) -> list[float]:
        """The weights of the prior of the first training that none was better than."""
        return self.kept.priors[int(np.argmax(self.kept.qualities))]

    def run(self, settings: PretrainingConfig) -> tuple[list[float], float]:
        """The weights of the best prior, and the quality with it."""
        if self._count == len(self.kept.qualities):
            progress = _part(self._on_progress, self._planned, self._place)
            # What suited the training before is near what suits this one.
            start = self.kept.priors[-1] if self.kept.priors else [left_out_weight(settings)]
            self.kept.add(*self._judge.train(settings, start, progress, self.kept))
        self._place, self._count = self._place + 1, self._count + 1
        return self.kept.priors[self._count - 1], self.kept.qualities[self._count - 1]


def find_peak(
    trainings: Trainings,
    candidates: Sequence[PretrainingConfig],
    least_gain: float = 0.0,
    quality: float | None = None,
) -> tuple[PretrainingConfig, float]:
    """Finds the candidate after which quality rises no more, and its quality.

    Args:
        trainings: runs them.
        candidates: one at least.
        least_gain: one is better than the one before it that gains more than this, relative.
        quality: quality of the first, where it is known.
    """
    best = candidates[0]
    if quality is None:
        _, quality = trainings.run(best)
    for candidate in candidates[1:]:
        _, found = trainings.run(candidate)
        if not found > quality * (1 + least_gain):
            break
        best, quality = candidate, found
    return best, quality


class _TrainingCheckpoint:
    """A checkpoint that keeps, beside the state of one training, what came of those before it."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._state = (checkpoint.load() if checkpoint is not None else None) or {}
        self.qualities: list[float] = self._state.pop("qualities", np.zeros(0)).tolist()
        self.priors: list[list[float]] = self._state.pop("priors", np.zeros((0, 0))).tolist()

    def add(self, prior: list[float], quality: float) -> None:
        """Notes what came of a training that has ended."""
        self.priors.append(prior)
        self.qualities.append(quality)
        self.save({})

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state of the training that was under way, for the first that asks, or None."""
        state, self._state = self._state, {}
        return state or None

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state, atomically."""
        if self._checkpoint is not None:
            made = {"qualities": np.array(self.qualities), "priors": np.array(self.priors)}
            self._checkpoint.save({**state, **made})


def _part(
    on_progress: Callable[[int, int, float], None] | None, epochs: list[int], at: int
) -> Callable[[int, int, float], None] | None:
    """Progress of one of several trainings as progress of all."""
    if on_progress is None:
        return None
    report, before, count = on_progress, sum(epochs[:at]), epochs[at]

    def tell(done: int, total: int, loss: float) -> None:
        steps = total // count  # of an epoch
        report(before * steps + done, sum(epochs) * steps, loss)

    return tell
