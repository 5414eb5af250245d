"""Before stage 1: the choice of settings that no one value gets right for all data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.data import ItemLists
from peel_ext.device.item_prior import part_tastes
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.held_out import TrainingData, draw_users
from peel_ext.train.item_prior import (
    NUM_HALVINGS,
    choose_prior,
    describe_items,
    measure_recency,
    weigh_features,
)
from peel_ext.train.pretraining import MakePrior, left_out_weight, pretrain
from peel_ext.train.trainings import Judge, Trainings, find_peak
from peel_ext.train.vector_training import DEFAULT_TEMPERATURE

#: Users whose lists are made however many items there are.
LEAST_USERS = 1000


@dataclass(frozen=True, eq=False)
class Tuned:
    """The settings that were chosen.

    Attributes:
        temperature: temperature of pretraining.
        embedding_dim: dimensions of pretraining.
        prior: weights of an item's features in its prior
            (:func:`peel_ext.train.item_prior.describe_items`); with a validation part those to begin with,
            for it judges the vectors themselves in the end.
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
    training with what has won. Where a validation part is given, nothing is held out, and so the prior
    is chosen on the vectors as pretraining leaves them (:class:`ListJudge`). Settings that are given are
    taken as they are.

    Args:
        data: the training interactions.
        tuning: candidates, and how to judge them.
        pretraining: all other settings.
        method: how interactions are held out; that of :class:`peel_ext.config.SplitConfig`.
        validation: the interactions to judge by, of the same users; None holds a share
            of the others out.
        on_progress: as of :func:`peel_ext.train.pretraining.pretrain`, over all trainings there may be.
        checkpoint: keeps the qualities of finished trainings, and the state of one under way.
        device: the device that trains and ranks.

    Returns:
        What was chosen, of equals the first; where there is nothing to choose by, the only candidate
        or the default, and what the loss leaves out of popularity.

    Raises:
        ValueError: a given prior with more weights than items have features.
    """
    return search_settings(
        lambda: ListJudge.of(data, tuning, method, validation, device),
        tuning, pretraining, data.timestamps is not None, validation is not None,
        on_progress, checkpoint,
    )  # fmt: skip


def search_settings(
    make_judge: Callable[[], Judge],
    tuning: TuningConfig,
    pretraining: PretrainingConfig,
    has_times: bool,
    has_validation: bool,
    on_progress: Callable[[int, int, float], None] | None,
    checkpoint: Checkpoint | None,
) -> Tuned:
    """Chooses what :func:`choose_settings` does, by a judge that is made if there is something to choose.

    Args:
        make_judge: makes the judge.
        tuning: candidates, and how to judge them.
        pretraining: all other settings.
        has_times: True if the interactions have timestamps.
        has_validation: True if a validation part is given, by which the prior is chosen later.
        on_progress: told of the steps of all trainings there may be.
        checkpoint: keeps the qualities of finished trainings, and the state of one under way.

    Raises:
        ValueError: a given prior with more weights than items have features.
    """
    given = pretraining.prior
    _check_prior(given, has_times)
    temperatures, dims = tuning.temperatures, tuning.embedding_dims
    if pretraining.temperature is not None:
        temperatures = (pretraining.temperature,)
    if pretraining.embedding_dim is not None:
        dims = (pretraining.embedding_dim,)
    is_settled = len(temperatures) == len(dims) == 1 and (given is not None or has_validation)
    judge = None if is_settled else make_judge()
    if judge is None or judge.num_users == 0:
        only = temperatures[0] if len(temperatures) == 1 else DEFAULT_TEMPERATURE
        settings = dataclasses.replace(pretraining, temperature=only)
        prior = (left_out_weight(settings),) if given is None else given
        return Tuned(only, dims[0], prior, np.zeros(0))
    epochs = min(tuning.epochs, pretraining.epochs)
    comparisons = len(temperatures) + len(dims) - 1
    planned = [epochs] * (comparisons if comparisons > 1 else 0)
    if given is None and not has_validation:
        planned.append(min(tuning.prior_epochs, pretraining.epochs))
    trainings = Trainings(judge, planned, on_progress, checkpoint)
    best = dataclasses.replace(
        pretraining, temperature=temperatures[0], embedding_dim=dims[0], epochs=epochs
    )
    if comparisons > 1:
        best, quality = find_peak(
            trainings, [dataclasses.replace(best, temperature=each) for each in temperatures]
        )
        trainings.skip_to(len(temperatures))
        best, _ = find_peak(
            trainings, [dataclasses.replace(best, embedding_dim=each) for each in dims],
            tuning.least_gain, quality,
        )  # fmt: skip
    if given is not None:
        weights = list(given)
    elif has_validation:
        weights = trainings.prior_of_best
    else:
        trainings.skip_to(len(planned) - 1)
        weights, _ = trainings.run(dataclasses.replace(best, epochs=planned[-1]))
    return Tuned(
        best.temperature or DEFAULT_TEMPERATURE, best.embedding_dim or dims[0], tuple(weights),
        np.array(trainings.kept.qualities),
    )  # fmt: skip


def _check_prior(prior: Sequence[float] | None, has_times: bool) -> None:
    """Raises ValueError for more weights than items have features."""
    num_features = 1 + NUM_HALVINGS if has_times else 1
    if prior is not None and len(prior) > num_features:
        raise ValueError(
            f"prior must have at most {num_features} weights, for interactions "
            f"{'with' if has_times else 'without'} timestamps, got {prior}"
        )


class PriorJudge(Protocol):
    """Says which prior ranks best with vectors that were learned."""

    @property
    def num_users(self) -> int:
        """The number of users it goes by."""

    @property
    def features(self) -> NDArray[np.float32]:
        """Those of the items [num_features, num_items]."""

    def choose_prior(
        self, users: NDArray[np.float32], items: NDArray[np.float32], start: Sequence[float]
    ) -> tuple[list[float], float]:
        """The weights of the best prior for tastes of users and items, and the quality with it."""


def make_chooser(judge: PriorJudge, start: Sequence[float], chosen: dict[str, Any]) -> MakePrior:
    """Makes what chooses a prior for tastes.

    Args:
        judge: judges the weights; one that knows no users keeps the start.
        start: weights to begin with.
        chosen: told them, as ``prior_weights``.
    """

    def choose(users: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float32]:
        weights = list(start)
        if judge.num_users:
            weights, _ = judge.choose_prior(users, items, start)
        chosen["prior_weights"] = [round(weight, 4) for weight in weights]
        return weigh_features(judge.features, chosen["prior_weights"])

    return choose


@dataclass(frozen=True, eq=False)
class ListJudge:
    """A judge of trainings, by interactions that they do not see.

    Attributes:
        left: what is trained on.
        held_out: what is to be found.
        users: int64 [num_users], those whose lists are made.
        features: float32 [num_features, num_items], by what is trained on.
        device: the device that trains and ranks.
    """

    left: TrainingData
    held_out: ItemLists
    users: NDArray[np.int64]
    features: NDArray[np.float32]
    device: str

    @property
    def num_users(self) -> int:
        """The number of users whose lists are made."""
        return len(self.users)

    @classmethod
    def of(
        cls,
        data: TrainingData,
        tuning: TuningConfig,
        method: str,
        validation: ItemLists | None,
        device: str,
    ) -> ListJudge:
        """A judge by a validation part, or by a share of the interactions that is held out."""
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
        """The weights of the best prior after a training, searched from a start, and the quality."""
        vectors = pretrain(
            self.left.lists,
            self.left.num_items,
            settings,
            weights=self.left.weights,
            on_progress=on_progress,
            checkpoint=checkpoint,
            device=self.device,
        )
        tastes = part_tastes(vectors.users), part_tastes(vectors.items)
        return self.choose_prior(
            *tastes, start if settings.prior is None else settings.prior,
            fixed=settings.prior is not None,
        )  # fmt: skip

    def choose_prior(
        self,
        users: NDArray[np.float32],
        items: NDArray[np.float32],
        start: Sequence[float],
        *,
        fixed: bool = False,
    ) -> tuple[list[float], float]:
        """The weights of the best prior for tastes of all users and items, and the quality with it."""
        return choose_prior(
            users[self.users],
            items,
            self.features,
            self.left.lists.take(self.users),
            self.held_out.take(self.users),
            start,
            fixed=fixed,
            device=self.device,
        )
