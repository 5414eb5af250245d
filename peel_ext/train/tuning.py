"""Before stage 1: what no one setting gets right for all data is chosen on held-out interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.data import ItemLists
from peel_ext.device.item_prior import part_tastes
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.held_out import TrainingData, draw_users
from peel_ext.train.item_prior import NUM_HALVINGS, choose_prior, describe_items, measure_recency
from peel_ext.train.pretraining import DEFAULT_TEMPERATURE, left_out_weight, pretrain

#: Users whose lists are made however many items there are.
LEAST_USERS = 1000


@dataclass(frozen=True, eq=False)
class Tuned:
    """The settings that were chosen.

    Attributes:
        temperature: temperature of pretraining.
        embedding_dim: dimensions of pretraining.
        prior: weights of an item's features in its prior
            (:func:`peel_ext.train.item_prior.describe_items`).
        qualities: float64 [num_trainings], NDCG at a depth of 100 of each training, with the prior
            that is best for it: those of temperatures, those of larger tables, and the one the prior
            was chosen after.
    """

    temperature: float
    embedding_dim: int
    prior: tuple[float, ...]
    qualities: NDArray[np.float64]


def choose_settings(
    data: TrainingData,
    tuning: TuningConfig,
    pretraining: PretrainingConfig,
    *,
    method: str = "random",
    validation: ItemLists | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> Tuned:
    """The temperature, the dimensions and the prior by which held-out interactions rank best.

    A small, dense data set wants a softer softmax than a large, sparse one, and the order of two
    temperatures shows early in training, if each is judged with the prior that suits it. More
    dimensions have to be worth their bytes. Popularity counts for more in some data than in others,
    and where there are times, recent popularity for more than old: the prior is chosen after a longer
    training with what has won. Settings that are given are taken as they are.

    Args:
        data: the training interactions.
        tuning: candidates, and how to judge them.
        pretraining: all other settings.
        method: how interactions are held out; that of :class:`peel_ext.config.SplitConfig`.
        validation: the interactions to judge by, of the same users; None holds a share
            of the others out.
        on_progress: as of :func:`peel_ext.train.pretraining.pretrain`, over all trainings there may be.
        checkpoint: where the qualities of finished trainings are kept, and the state of one under way.
        device: where to train and to rank.

    Returns:
        What was chosen, of equals the first; where there is nothing to choose by, the only candidate
        or the default, and what the loss leaves out of popularity.

    Raises:
        ValueError: a given prior with more weights than items have features.
    """
    return search_settings(
        lambda: _Judge.of(data, tuning, method, validation, device),
        tuning, pretraining, data.timestamps is not None, on_progress, checkpoint,
    )  # fmt: skip


def search_settings(
    make_judge: Callable[[], Judge],
    tuning: TuningConfig,
    pretraining: PretrainingConfig,
    has_times: bool,
    on_progress: Callable[[int, int, float], None] | None,
    checkpoint: Checkpoint | None,
) -> Tuned:
    """Chooses what :func:`choose_settings` does, by a judge that is made if there is something to choose.

    Args:
        make_judge: makes it.
        tuning: as there.
        pretraining: as there.
        has_times: whether the interactions have timestamps.
        on_progress: as there.
        checkpoint: as there.
    """
    given = pretraining.prior
    num_features = 1 + NUM_HALVINGS if has_times else 1
    if given is not None and len(given) > num_features:
        raise ValueError(
            f"prior must have at most {num_features} weights, for interactions "
            f"{'without' if num_features == 1 else 'with'} timestamps, got {given}"
        )
    temperatures, dims = tuning.temperatures, tuning.embedding_dims
    if pretraining.temperature is not None:
        temperatures = (pretraining.temperature,)
    if pretraining.embedding_dim is not None:
        dims = (pretraining.embedding_dim,)
    if given is not None and len(temperatures) == len(dims) == 1:
        return Tuned(temperatures[0], dims[0], given, np.zeros(0))
    judge = make_judge()
    if judge.num_users == 0:
        only = temperatures[0] if len(temperatures) == 1 else DEFAULT_TEMPERATURE
        settings = dataclasses.replace(pretraining, temperature=only)
        prior = (left_out_weight(settings),) if given is None else given
        return Tuned(only, dims[0], prior, np.zeros(0))
    epochs = min(tuning.epochs, pretraining.epochs)
    comparisons = len(temperatures) + len(dims) - 1
    planned = [epochs] * (comparisons if comparisons > 1 else 0)
    if given is None:
        planned.append(min(tuning.prior_epochs, pretraining.epochs))
    trainings = _Trainings(judge, planned, on_progress, checkpoint)
    best = dataclasses.replace(
        pretraining, temperature=temperatures[0], embedding_dim=dims[0], epochs=epochs
    )
    if comparisons > 1:
        best, quality = _first_peak(
            trainings, [dataclasses.replace(best, temperature=each) for each in temperatures]
        )
        trainings.skip_to(len(temperatures))
        best, _ = _first_peak(
            trainings, [dataclasses.replace(best, embedding_dim=each) for each in dims],
            tuning.least_gain, quality,
        )  # fmt: skip
    weights = list(given or ())
    if given is None:
        trainings.skip_to(len(planned) - 1)
        weights, _ = trainings.run(dataclasses.replace(best, epochs=planned[-1]))
    return Tuned(
        best.temperature or DEFAULT_TEMPERATURE, best.embedding_dim or dims[0], tuple(weights),
        np.array(trainings.kept.qualities),
    )  # fmt: skip


def _first_peak(
    trainings: _Trainings,
    candidates: Sequence[PretrainingConfig],
    least_gain: float = 0.0,
    quality: float | None = None,
) -> tuple[PretrainingConfig, float]:
    """The candidate after which quality rises no more, and its quality.

    Args:
        trainings: runs them.
        candidates: one at least.
        least_gain: one is better than the one before it that gains more than this, relative.
        quality: of the first, where it is known.
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


class _Trainings:
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

    def run(self, settings: PretrainingConfig) -> tuple[list[float], float]:
        """The weights of the best prior, and the quality with it."""
        if self._count == len(self.kept.qualities):
            progress = _part(self._on_progress, self._planned, self._place)
            # What suited the training before is near what suits this one.
            start = self.kept.priors[-1] if self.kept.priors else [left_out_weight(settings)]
            self.kept.add(*self._judge.train(settings, start, progress, self.kept))
        self._place, self._count = self._place + 1, self._count + 1
        return self.kept.priors[self._count - 1], self.kept.qualities[self._count - 1]


@dataclass(frozen=True, eq=False)
class _Judge:
    """What trainings are judged by: interactions that they do not see."""

    left: TrainingData
    held_out: ItemLists
    users: NDArray[np.int64]  # those whose lists are made
    features: NDArray[np.float32]  # of the items, by what is left
    device: str

    @property
    def num_users(self) -> int:
        return len(self.users)

    @classmethod
    def of(
        cls,
        data: TrainingData,
        tuning: TuningConfig,
        method: str,
        validation: ItemLists | None,
        device: str,
    ) -> _Judge:
        left, held_out = data, validation
        if held_out is None:
            left, held_out = data.hold_out(method, tuning.validation_share, tuning.seed)
        # All items tie for a user who has nothing left, and any prior at all would look like a gain.
        usable = np.flatnonzero((left.lists.counts > 0) & (held_out.counts > 0))
        affordable = max(LEAST_USERS, tuning.max_scores // max(data.num_items, 1))
        users = draw_users(usable, min(tuning.max_users, affordable), tuning.seed)
        recency = None if left.timestamps is None else measure_recency(left.timestamps)
        features = describe_items(left.lists.items, left.num_items, recency)
        return cls(left, held_out, users, features, device)

    def train(
        self,
        settings: PretrainingConfig,
        start: Sequence[float],
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: Checkpoint,
    ) -> tuple[list[float], float]:
        vectors = pretrain(
            self.left.lists,
            self.left.num_items,
            settings,
            weights=self.left.weights,
            on_progress=on_progress,
            checkpoint=checkpoint,
            device=self.device,
        )
        return choose_prior(
            part_tastes(vectors.users[self.users]),
            part_tastes(vectors.items),
            self.features,
            self.left.lists.take(self.users),
            self.held_out.take(self.users),
            start if settings.prior is None else settings.prior,
            fixed=settings.prior is not None,
            device=self.device,
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
