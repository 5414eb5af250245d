"""The settings of every stage: frozen, plain values that go into the run folder as JSON."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

#: For each annotation what a setting may be, what it becomes, and what an error calls it.
_KINDS: dict[str, tuple[type, type, str]] = {
    "int": (numbers.Integral, int, "an integer"),
    "int | None": (numbers.Integral, int, "an integer or None"),
    "float": (numbers.Real, float, "a number"),
    "float | None": (numbers.Real, float, "a number or None"),
    "str": (str, str, "a string"),
    "str | None": (str, str, "a string or None"),
    "bool": (bool, bool, "True or False"),
}


#: Where training may compute.
DEVICES = ("cpu", "cuda")

#: What files of interactions may be, whatever their suffix.
FILE_FORMATS = ("parquet", "csv", "tsv", "inter", "jsonl", "lightgcn", "movielens")


class _Checked:
    """Settings of the types they are declared with; numbers of NumPy become Python's, for JSON."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, each.name)
            if each.type not in _KINDS or (value is None and "None" in str(each.type)):
                continue
            kind, plain, name = _KINDS[str(each.type)]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{each.name} must be {name}, got {value!r}")
            if not isinstance(value, (int, float, str)):
                object.__setattr__(self, each.name, plain(value))


def _check_at_least(config: Any, **minima: float) -> None:
    for name, minimum in minima.items():
        if not getattr(config, name) >= minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {getattr(config, name)}")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {getattr(config, name)}")


def _check_choice(config: Any, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed)}, got {getattr(config, name)!r}"
            )


def _numbers(name: str, given: Any) -> tuple[float, ...]:
    """A setting that is several numbers, as Python's own."""
    some = isinstance(given, Sequence) and not isinstance(given, str)
    if not some or not all(isinstance(each, numbers.Real) for each in given):
        raise ValueError(f"{name} must be numbers, got {given!r}")
    if not all(math.isfinite(each) for each in given):
        raise ValueError(f"{name} must be finite, got {given!r}")
    return tuple(float(each) for each in given)


def _check_candidates(config: Any, name: str, above: float) -> None:
    """One value or more, ascending, all above a bound."""
    given = _numbers(name, getattr(config, name))
    if not given or not given[0] > above or list(given) != sorted(set(given)):
        raise ValueError(
            f"{name} must be above {above} and ascending, and at least one, got {getattr(config, name)!r}"
        )
    object.__setattr__(config, name, given)


def _check_seed(seed: int) -> None:
    """All random generators in use take these, so that no stage fails after the others have run."""
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed must be at least 0 and below 2^32, got {seed}")


@dataclass(frozen=True)
class ReadingConfig(_Checked):
    """The reading of interactions; see :func:`peel_ext.data.read_interactions`.

    Without a header line, columns are named ``"1"``, ``"2"`` and so on.

    Attributes:
        user_column: its name; None finds the usual ones, in any case.
        item_column: the same.
        timestamp_column: the same. One that is found, not named, and cannot be read is left out, with
            a remark.
        rating_column: what ``min_rating`` looks at; None finds the usual ones.
        min_rating: only interactions rated so much or more count. Users have had the others all the
            same: they are not recommended.
        weight_column: how much each interaction counts in the training loss, such as a number of
            plays; see :attr:`PretrainingConfig.weight_scale`.
        separator: between the fields of a text file, one character or more; None follows the suffix,
            and the header line of a ``.csv`` file.
        header: whether the first line of a text file names the columns.
        timestamps: whether times are read at all.
        format: the format of the files, one of :data:`FILE_FORMATS`; None follows the suffix.
        encoding: the encoding of text files.
        missing: what is done where an id is missing (empty, null, nan, NA, None and the like):
            ``"refuse"`` the file, ``"drop"`` the interaction, or ``"keep"`` such words as ids, for
            those who have an item called so.

    Raises:
        ValueError: a setting outside its range, or settings that exclude each other.
    """

    user_column: str | None = None
    item_column: str | None = None
    timestamp_column: str | None = None
    rating_column: str | None = None
    min_rating: float | None = None
    weight_column: str | None = None
    separator: str | None = None
    header: bool = True
    timestamps: bool = True
    format: str | None = None
    encoding: str = "utf-8"
    missing: str = "refuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, missing=("refuse", "drop", "keep"))
        if self.format is not None:
            _check_choice(self, format=FILE_FORMATS)
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise ValueError(f"min_rating must be finite, got {self.min_rating}")
        if self.rating_column is not None and self.min_rating is None:
            raise ValueError("rating_column needs min_rating: ratings are compared with it")
        if self.timestamp_column is not None and not self.timestamps:
            raise ValueError("timestamp_column and timestamps=False exclude each other")
        unusable = self.separator is not None and set(self.separator) & set('"\r\n')
        if self.separator == "" or unusable:
            raise ValueError(
                "separator must have a character, and no quote or line break, "
                f"got {self.separator!r}"
            )
        try:
            plain = "\n,".encode(self.encoding) == b"\n,"
        except (LookupError, UnicodeError):
            plain = False
        if not plain:
            raise ValueError(
                "encoding must be one that Python knows and that has ASCII as it is, such as latin-1, "
                f"got {self.encoding!r}"
            )


@dataclass(frozen=True)
class TuningConfig(_Checked):
    """The choices made on validation interactions before training; see :mod:`peel_ext.train.tuning`.

    Attributes:
        temperatures: candidates for :attr:`PretrainingConfig.temperature`, ascending; those after one
            that is worse than the one before it are not tried.
        embedding_dims: candidates for :attr:`PretrainingConfig.embedding_dim`, ascending: the first,
            unless a larger one is better by ``least_gain``.
        least_gain: what a larger table has to gain in quality, relative, to be worth its bytes.
        validation_share: share of the training interactions, held out for the choice as the target is.
        epochs: epochs of each candidate's short training.
        prior_epochs: epochs of the training after which the prior is chosen: short ones leave more to it.
        max_users: users whose lists are made; a random sample of more.
        max_scores: users times items of these lists; a smaller sample, of 1,000 users at least, beyond.
        seed: seeds the draws.

    Raises:
        ValueError: a setting outside its range.
    """

    temperatures: tuple[float, ...] = (0.1, 0.14, 0.2, 0.28)
    embedding_dims: tuple[int, ...] = (64, 128)
    least_gain: float = 0.03
    validation_share: float = 0.1
    epochs: int = 3
    prior_epochs: int = 6
    max_users: int = 10_000
    max_scores: int = 1 << 26
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_candidates(self, "temperatures", 0)
        _check_candidates(self, "embedding_dims", 1)
        object.__setattr__(self, "embedding_dims", tuple(map(int, self.embedding_dims)))
        if not 0 <= self.least_gain < math.inf:
            raise ValueError(f"least_gain must be at least 0 and finite, got {self.least_gain}")
        if not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share must lie between 0 and 1, got {self.validation_share}"
            )
        _check_at_least(self, epochs=1, prior_epochs=1, max_users=1, max_scores=1)
        _check_seed(self.seed)


@dataclass(frozen=True)
class PretrainingConfig(_Checked):
    """Settings of stage 1, the user and item vectors.

    Attributes:
        embedding_dim: values of a vector, the one that the prior takes included, at least 2; None
            leaves the choice to the tuning stage.
        num_layers: rounds of LightGCN smoothing; 0 is matrix factorisation.
        epochs: passes over the users.
        steps_per_epoch: optimiser steps in a pass. A share of the users rather than a number of
            them makes a step, so that small data sets get as many steps as large ones.
        learning_rate: that of Adam, at the first step.
        final_learning_rate_share: the learning rate at the last step, as a share of the first.
        temperature: divides the cosines under the softmax; None leaves the choice to the tuning
            stage.
        softmax: ``"full"``, over all items; ``"sampled"``, over a sample of them; ``"auto"`` takes
            the full one while an epoch has at most ``max_full_scores`` scores.
        max_full_scores: users times items up to which the full softmax is affordable.
        num_negatives: items drawn for every 512 users of the sampled softmax.
        user_weight_exponent: a user's loss is weighted by its number of interactions to this power.
        negative_popularity_exponent: an item that competes as a negative weighs its number of
            interactions (at least 1) to this power, relative to the mean (the negatives of Mikolov
            et al., 2013, arXiv 1310.4546, are drawn that way). Above 0 the vectors have to say less
            about popularity, and more about taste.
        weight_scale: what becomes of the weights of interactions, where there are any: ``"log"`` takes
            ``log(1 + weight)``, ``"linear"`` leaves them; a user's are then divided by their sum.
        prior: weights of an item's log counts, of all its interactions, then of those among the last
            half, quarter, ... of all (:func:`peel_ext.train.item_prior.describe_items`), whose sum
            is added to the cosine; None leaves the choice to the tuning stage.
        start_scale: root mean square of the entries of the embeddings before the first step, where
            the learning rate is the yardstick.
        seed: seeds the start and the order of the users.

    Raises:
        ValueError: a setting outside its range.
    """

    embedding_dim: int | None = None
    num_layers: int = 2
    epochs: int = 15
    steps_per_epoch: int = 16
    learning_rate: float = 4e-2
    final_learning_rate_share: float = 0.1
    temperature: float | None = None
    softmax: str = "auto"
    max_full_scores: int = 1 << 32
    num_negatives: int = 8192
    user_weight_exponent: float = 0.75
    negative_popularity_exponent: float = 0.25
    weight_scale: str = "log"
    prior: tuple[float, ...] | None = None
    start_scale: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_dim is not None:
            _check_at_least(self, embedding_dim=2)
        _check_at_least(self, steps_per_epoch=1, num_negatives=1)
        _check_at_least(self, num_layers=0, epochs=0, max_full_scores=0)
        _check_positive(self, "learning_rate", "final_learning_rate_share", "start_scale")
        if self.temperature is not None:
            _check_positive(self, "temperature")
        _check_seed(self.seed)
        _check_choice(self, softmax=("auto", "full", "sampled"), weight_scale=("log", "linear"))
        if self.prior is not None:
            object.__setattr__(self, "prior", _numbers("prior", self.prior))
        for name in ("user_weight_exponent", "negative_popularity_exponent"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")


@dataclass(frozen=True)
class ClusteringConfig(_Checked):
    """Stage 2, user groups.

    Attributes:
        num_groups: how many; 0 derives it from ``users_per_group``.
        users_per_group: users a group should have on average.
        max_groups: never more than this.
        max_cells: never more groups than keep groups times items below this; every cell costs the
            server some 30 bytes of memory.
        max_iterations: upper limit of the rounds of k-means.
        seed: seeds the start.

    Raises:
        ValueError: a setting outside its range.
    """

    num_groups: int = 0
    users_per_group: int = 64
    max_groups: int = 512
    max_cells: int = 1 << 26
    max_iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(self, users_per_group=1, max_groups=1, max_cells=1, max_iterations=1)
        if not 0 <= self.num_groups <= self.max_groups:
            raise ValueError(
                f"num_groups must be between 0 and max_groups ({self.max_groups}), "
                f"got {self.num_groups}"
            )
        _check_seed(self.seed)


@dataclass(frozen=True)
class ExposureConfig(_Checked):
    """The worth of a row to a user group; see :mod:`peel_ext.train.block_weights.exposure`.

    Attributes:
        depth: length of each user's list of unseen items.
        cutoff: rank at which an item is worth half.
        slope: how fast worth falls around the cutoff, in ranks.
        group_popularity_weight: share of one interaction of the group.
        popularity_weight: share of one interaction of anybody.
        max_scores: users times items that are scored; beyond it a random share of every group's users
            stands for all.
        seed: seeds the draw of users.

    Raises:
        ValueError: a setting outside its range.
    """

    depth: int = 100
    cutoff: float = 20.0
    slope: float = 10.0
    group_popularity_weight: float = 0.3
    popularity_weight: float = 1e-6
    max_scores: int = 1 << 34
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(self, depth=1, max_scores=1)
        _check_positive(self, "slope")
        for name in ("cutoff", "group_popularity_weight", "popularity_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )
        _check_seed(self.seed)


@dataclass(frozen=True)
class BlendConfig(_Checked):
    """The shares of a user in several groups; see :mod:`peel_ext.train.blending`.

    Attributes:
        num_groups: nearest groups that have a share.
        temperature: divides the cosine between user and centroid; the larger, the more alike the
            shares.
        own_share: share of the user's own list in what blocks are worth.

    Raises:
        ValueError: a setting outside its range.
    """

    num_groups: int = 64
    temperature: float = 0.1
    own_share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(self, num_groups=1)
        _check_positive(self, "temperature")
        if not 0 <= self.own_share < 1:
            raise ValueError(f"own_share must be in [0, 1), got {self.own_share}")


@dataclass(frozen=True)
class RefinementConfig(_Checked):
    """Stage 3, rows of each group's own; see :mod:`peel_ext.train.refinement`.

    Attributes:
        steps: steps of Adam; 0 leaves every group with the global table.
        rows_per_group: rows that are refined, those of the largest exposure; 0: all.
        learning_rate: that of Adam.
        anchor: weight of the mean squared distance to the global table.
        diversity: weight of the regulariser that keeps the blocks of an item, or in the planes
            layout the coordinates of the table, from saying the same.

    Raises:
        ValueError: a setting outside its range.
    """

    steps: int = 0
    rows_per_group: int = 1024
    learning_rate: float = 1e-3
    anchor: float = 10.0
    diversity: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(self, steps=0, rows_per_group=0, anchor=0, diversity=0)
        _check_positive(self, "learning_rate")


@dataclass(frozen=True)
class ControlConfig(_Checked):
    """Stage 4, what decides the weights of blocks; see :mod:`peel_ext.train.block_weights`.

    Attributes:
        controller: ``"exposure"``, the exposure of rows as it is; ``"regression"``, hits of held-out
            interactions foretold from it and other features; ``"bilevel"``, the paper's loop;
            ``"mixture"``, exposure in the group or around it.
        held_out_share: share of each user's interactions, which a controller learns from.
        max_users: users whose held-out interactions count; a random sample of more.
        hit_depth: length of the lists in which a held-out interaction is a hit.
        hidden_dim: width of the controller's two hidden layers.
        steps: steps of the controller's Adam.
        batch_size: rows in a step of the regression.
        learning_rate: that of the controller's Adam.
        seed: seeds the draws.

    Raises:
        ValueError: a setting outside its range.
    """

    controller: str = "exposure"
    held_out_share: float = 0.2
    max_users: int = 10_000
    hit_depth: int = 30
    hidden_dim: int = 32
    steps: int = 600
    batch_size: int = 32_768
    learning_rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, controller=("exposure", "regression", "bilevel", "mixture"))
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share must lie between 0 and 1, got {self.held_out_share}")
        _check_at_least(self, max_users=1, hit_depth=1, hidden_dim=1, steps=0, batch_size=1)
        _check_seed(self.seed)
        _check_positive(self, "learning_rate")


@dataclass(frozen=True)
class ColumnsConfig(_Checked):
    """The cuts of the columns layout; see :class:`peel_ext.format.ColumnsLayout`.

    Attributes:
        num_item_groups: contiguous runs of rows that are kept or dropped together, one for each row at
            most.
        block_dim: adjacent columns of a block, at most those of a row and at least 1/64 of them. 8 stands
            for what fits, where rows have fewer than 8 or more than 512 values.
        value_type: ``"float32"``, ``"float16"`` or ``"int8"``.

    Raises:
        ValueError: a setting outside its range.
    """

    num_item_groups: int = 20
    block_dim: int = 8
    value_type: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(self, num_item_groups=1, block_dim=1)
        _check_choice(self, value_type=("float32", "float16", "int8"))


@dataclass(frozen=True)
class SplitConfig(_Checked):
    """The parts that are trained on and measured on; see :mod:`peel_ext.data.splits`.

    Attributes:
        method: how a target is carved: ``"random"`` items of each user, the ``"last"`` of each user,
            or all after one moment, ``"time"``. A given test file is taken as it is.
        test_share: share of each user's interactions, or of all with method ``"time"``; 0 trains on
            everything there is, given test and validation files included, to serve and not to measure.
        target: ``"test"``, or ``"validation"`` to take the target of evaluation from a given validation
            file, or carve it from the training interactions, and never look at the test ones.
        validation_share: the same share with target ``"validation"``.
        new_user_share: share of the users, held out of every stage of training, for the protocols that
            measure on users the model has never seen.
        k_core: users and items of fewer interactions are left out first, over and over until none
            is; 0 keeps all.
        seed: seeds the split.

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
        super().__post_init__()
        _check_choice(self, method=("random", "last", "time"), target=("test", "validation"))
        if not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share must lie between 0 and 1, got {self.validation_share}"
            )
        for name in ("test_share", "new_user_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        _check_at_least(self, k_core=0)
        _check_seed(self.seed)


@dataclass(frozen=True)
class PipelineConfig:
    """All settings of a run.

    Attributes:
        layout: layout of the blocks, ``"planes"`` or ``"columns"``.
        columns: how the columns layout cuts; of no meaning to the other.
        device: where to train, one of :data:`DEVICES`. What is drawn at random is the same on both,
            sums are rounded otherwise; a run begun on one may go on on the other.

    Raises:
        ValueError: a part that is no such settings, or another layout or device.
    """

    reading: ReadingConfig = field(default_factory=ReadingConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    layout: str = "planes"
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    device: str = "cpu"

    @classmethod
    def paper(cls) -> PipelineConfig:
        """The method as the PEEL paper (Zheng et al., 2023, arXiv 2306.10532) has it, all of it on.

        From the paper and its code: rows of 128 values, 20 item groups, blocks of 8 columns in float32,
        a table of each user group's own at all rows, the diversity penalty, the bi-level controller. The
        numbers it does not give (16 user groups, steps, weights of penalties) are ours. So are
        pretraining, whose loss knows no diversity, and the exposure that the controller corrects.
        """
        return cls(
            pretraining=PretrainingConfig(embedding_dim=128),
            clustering=ClusteringConfig(num_groups=16),
            refinement=RefinementConfig(steps=60, rows_per_group=0, diversity=0.01),
            control=ControlConfig(controller="bilevel"),
            layout="columns",
            columns=ColumnsConfig(num_item_groups=20, block_dim=8),
        )

    def __post_init__(self) -> None:
        for each in fields(self):
            wanted = each.default_factory
            if isinstance(wanted, type) and not isinstance(getattr(self, each.name), wanted):
                raise ValueError(
                    f"{each.name} must be a {wanted.__name__}, got {getattr(self, each.name)!r}"
                )
        _check_choice(self, layout=("planes", "columns"), device=DEVICES)
