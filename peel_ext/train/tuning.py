"""Before stage 1: what no one setting gets right for all data is chosen on held-out interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.device.item_prior import part_tastes
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.held_out import TrainingData, draw_users
from peel_ext.train.item_prior import choose_prior, describe_items, measure_recency
from peel_ext.train.lists import Lists, take_users
from peel_ext.train.pretraining import DEFAULT_TEMPERATURE, left_out_weight, pretrain

#: Users whose lists are made however many items there are.
_LEAST_USERS = 1000


@dataclass(frozen=True, eq=False)
class Tuned:
    """What was chosen.

    Attributes:
        temperature: of pretraining.
        prior: weights of an item's features in its prior
            (:func:`peel_ext.train.item_prior.describe_items`).
        qualities: float64 [num_trainings], NDCG at a depth of 100 of each training, with the prior
            that is best for it: those of the candidates, then the one the prior was chosen after.
    """

    temperature: float
    prior: tuple[float, ...]
    qualities: NDArray[np.float64]


def choose_settings(
    data: TrainingData,
    tuning: TuningConfig,
    pretraining: PretrainingConfig,
    *,
    method: str = "random",
    validation: Lists | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Tuned:
    """The temperature and the prior by which held-out interactions rank best.

    A small, dense data set wants a softer softmax than a large, sparse one, and the order of two
    temperatures shows early in training, if each is judged with the prior that suits it. Popularity
    counts for more in some data than in others, and where there are times, recent popularity for more
    than old. The prior is chosen after a longer training with the temperature that won. Settings that
    are given are taken as they are.

    Args:
        data: the training interactions.
        tuning: candidates, and how to judge them.
        pretraining: all other settings.
        method: how interactions are held out, of :class:`peel_ext.config.SplitConfig`.
        validation: the interactions to judge by, in CSR form over the same users; None holds a share
            of the others out.
        on_progress: as of :func:`peel_ext.train.pretraining.pretrain`, over all trainings.
        checkpoint: where the qualities of finished trainings are kept, and the state of one under way.

    Returns:
        What was chosen, of equals the first; where there is nothing to choose by, the first
        temperature of one or the default, and what the loss leaves out of popularity.
    """
    judge = _Judge.of(data, tuning, method, validation)
    candidates = (
        tuning.temperatures if pretraining.temperature is None else (pretraining.temperature,)
    )
    if len(judge.users) == 0:
        only = candidates[0] if len(candidates) == 1 else DEFAULT_TEMPERATURE
        settings = dataclasses.replace(pretraining, temperature=only)
        return Tuned(only, pretraining.prior or (left_out_weight(settings),), np.zeros(0))
    kept = _TrainingCheckpoint(checkpoint)
    trainings = [
        dataclasses.replace(pretraining, temperature=each, epochs=min(tuning.epochs, pretraining.epochs))
        for each in candidates if len(candidates) > 1
    ]  # fmt: skip
    epochs = [each.epochs for each in trainings]
    if pretraining.prior is None:
        epochs.append(min(tuning.prior_epochs, pretraining.epochs))
    for at, settings in enumerate(trainings):
        if at >= len(kept.qualities):
            prior, quality = judge.train(settings, _part(on_progress, epochs, at), kept)
            kept.add(prior, quality)
    best = int(np.argmax(kept.qualities[: len(trainings)])) if trainings else 0
    chosen = dataclasses.replace(pretraining, temperature=candidates[best], epochs=epochs[-1])
    if pretraining.prior is None and len(kept.qualities) == len(trainings):
        kept.add(*judge.train(chosen, _part(on_progress, epochs, len(trainings)), kept))
    weights = kept.priors[-1] if pretraining.prior is None else pretraining.prior
    return Tuned(candidates[best], tuple(weights), np.array(kept.qualities))


@dataclass(frozen=True, eq=False)
class _Judge:
    """What trainings are judged by: interactions that they do not see."""

    left: TrainingData
    held: Lists
    users: NDArray[np.int64]  # those whose lists are made
    features: NDArray[np.float32]  # of the items, by what is left

    @classmethod
    def of(
        cls, data: TrainingData, tuning: TuningConfig, method: str, validation: Lists | None
    ) -> _Judge:
        left, held = data, validation
        if held is None:
            left, held = data.hold_out(method, tuning.validation_share, tuning.seed)
        # All items tie for a user who has nothing left, and any prior at all would look like a gain.
        known = np.diff(left.lists[0]) > 0
        counts = np.where(known, np.diff(held[0]), 0)
        affordable = max(_LEAST_USERS, tuning.max_scores // max(data.num_items, 1))
        users = draw_users(
            (np.concatenate([[0], np.cumsum(counts)]), held[1]),
            min(tuning.max_users, affordable), tuning.seed,
        )  # fmt: skip
        recency = None if left.timestamps is None else measure_recency(left.timestamps)
        features = describe_items(left.lists[1], left.num_items, recency)
        return cls(left, held, users, features)

    def train(
        self,
        settings: PretrainingConfig,
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: _TrainingCheckpoint,
    ) -> tuple[list[float], float]:
        """The weights of the best prior after a training, and the quality with it."""
        vectors = pretrain(
            *self.left.lists,
            self.left.num_items,
            settings,
            weights=self.left.weights,
            on_progress=on_progress,
            checkpoint=checkpoint,
        )
        return choose_prior(
            part_tastes(vectors.users[self.users]),
            part_tastes(vectors.items),
            self.features,
            take_users(self.left.lists, self.users),
            take_users(self.held, self.users),
            settings.prior or (left_out_weight(settings),),
            fixed=settings.prior is not None,
        )


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
