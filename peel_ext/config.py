"""The settings of every stage: frozen, plain values that go into the run folder as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


def _check_seed(seed: int) -> None:
    """All random generators in use take these, so that no stage fails after the others have run."""
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed must be at least 0 and below 2^32, got {seed}")


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of stage 1, the user and item vectors.

    Attributes:
        embedding_dim: length of a vector.
        num_layers: rounds of LightGCN smoothing; 0 is matrix factorisation.
        epochs: passes over the users.
        steps_per_epoch: optimiser steps in a pass. A share of the users rather than a number of
            them makes a step, so that small data sets get as many steps as large ones.
        learning_rate: of Adam, at the first step.
        final_learning_rate_share: the learning rate at the last step, as a share of the first.
        temperature: divides the cosines under the softmax.
        user_weight_exponent: a user's loss is weighted by its number of interactions to this power.
        item_popularity_exponent: an item's final vector has the length
            ``(number of interactions / 10) ** item_popularity_exponent``.
        start_scale: root mean square of the entries of the embeddings before the first step, where
            the learning rate is the yardstick.
        seed: of the start and of the order of the users.

    Raises:
        ValueError: a number outside its range.
    """

    embedding_dim: int = 64
    num_layers: int = 2
    epochs: int = 10
    steps_per_epoch: int = 16
    learning_rate: float = 1e-2
    final_learning_rate_share: float = 0.1
    temperature: float = 0.1
    user_weight_exponent: float = 0.5
    item_popularity_exponent: float = 0.05
    start_scale: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "steps_per_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_layers", "epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        _check_seed(self.seed)
        for name in ("learning_rate", "final_learning_rate_share", "temperature", "start_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("user_weight_exponent", "item_popularity_exponent"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")


@dataclass(frozen=True)
class ClusteringConfig:
    """Stage 2, user groups.

    Attributes:
        num_groups: how many; 0 derives it from ``users_per_group``.
        users_per_group: users a group should have on average.
        max_groups: never more than this.
        max_iterations: of k-means.
        seed: of the start.

    Raises:
        ValueError: a number outside its range.
    """

    num_groups: int = 0
    users_per_group: int = 64
    max_groups: int = 256
    max_iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("users_per_group", "max_groups", "max_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.num_groups <= self.max_groups:
            raise ValueError(
                f"num_groups must be between 0 and max_groups ({self.max_groups}), "
                f"got {self.num_groups}"
            )
        _check_seed(self.seed)


@dataclass(frozen=True)
class ExposureConfig:
    """What a row is worth to a user group; see :mod:`peel_ext.train.exposure`.

    Attributes:
        depth: length of each user's list of unseen items.
        cutoff: rank at which an item is worth half.
        slope: how fast worth falls around the cutoff, in ranks.
        group_popularity_weight: share of one interaction of the group.
        popularity_weight: share of one interaction of anybody.

    Raises:
        ValueError: a number outside its range.
    """

    depth: int = 100
    cutoff: float = 20.0
    slope: float = 5.0
    group_popularity_weight: float = 1e-3
    popularity_weight: float = 1e-6

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")
        if not 0 < self.slope < math.inf:
            raise ValueError(f"slope must be above 0 and finite, got {self.slope}")
        for name in ("cutoff", "group_popularity_weight", "popularity_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class SplitConfig:
    """What is trained on and what is measured on; see :mod:`peel_ext.data.splits`.

    Attributes:
        method: how a target is carved: ``"random"`` items of each user, the ``"last"`` of each user,
            or all after one moment, ``"time"``. A given test file is taken as it is.
        test_share: of each user's interactions, or of all with method ``"time"``.
        target: ``"test"``, or ``"validation"`` to carve the target of evaluation from the training
            interactions and never look at the test ones.
        validation_share: the same share with target ``"validation"``.
        new_user_share: of the users, held out of every stage of training, for the protocols that
            measure on users the model has never seen.
        k_core: users and items of fewer interactions are left out first, over and over until none
            is; 0 keeps all.
        seed: of the split.

    Raises:
        ValueError: a setting outside its range.
    """

    method: str = "random"
    test_share: float = 0.2
    target: str = "test"
    validation_share: float = 0.1
    new_user_share: float = 0.0
    k_core: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", ("random", "last", "time")),
            ("target", ("test", "validation")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name in ("test_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.new_user_share < 1:
            raise ValueError(f"new_user_share must lie in [0, 1), got {self.new_user_share}")
        if self.k_core < 0:
            raise ValueError(f"k_core must be at least 0, got {self.k_core}")
        _check_seed(self.seed)


@dataclass(frozen=True)
class PipelineConfig:
    """All settings of a run.

    Attributes:
        layout: of the blocks, ``"planes"`` or ``"columns"``.
    """

    split: SplitConfig = field(default_factory=SplitConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    layout: str = "planes"
