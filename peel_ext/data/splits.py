"""Splitting interactions into what is trained on, what is to be found, and users held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import SplitConfig
from peel_ext.data.interactions import Interactions
from peel_ext.data.overview import WHOLE, Overview
from peel_ext.errors import DataError


def split_random(
    interactions: Interactions, *, test_share: float, seed: int, overview: Overview = WHOLE
) -> tuple[Interactions, Interactions]:
    """Splits each user's distinct items at random.

    A user with ``c`` items has ``round(test_share * c)`` in the test part, at least 1 if ``c >= 5``,
    at most ``c - 1``.

    Args:
        interactions: what to split; repeated pairs count once.
        test_share: share of each user's items, in (0, 1).
        seed: seeds the draw.
        overview: overview of all interactions, where other processes have users, too.

    Returns:
        The training and the test interactions.

    Raises:
        ValueError: a share outside (0, 1).
    """
    _check_share("test_share", test_share)
    distinct = interactions.deduplicated()
    draw = overview.draw(distinct, seed, np.float32)
    return _split_first(distinct, np.lexsort((draw, distinct.user_rows)), test_share)


def split_last(
    interactions: Interactions, *, test_share: float
) -> tuple[Interactions, Interactions]:
    """Splits off each user's latest items; a share near 0 leaves one out.

    How many is the rule of :func:`split_random`, but at least 1 of two items or more; of equal times
    the one that comes later in the data is the later.

    Raises:
        DataError: interactions without timestamps.
        ValueError: a share outside (0, 1).
    """
    _check_share("test_share", test_share)
    distinct = interactions.deduplicated()
    times = _timestamps(distinct)[::-1]
    order = len(distinct) - 1 - np.lexsort((-times, distinct.user_rows[::-1]))
    return _split_first(distinct, order, test_share, at_least_from=2)


def split_time(
    interactions: Interactions, *, test_share: float, overview: Overview = WHOLE
) -> tuple[Interactions, Interactions]:
    """Splits at one moment for everybody: the latest interactions, equal times on the same side.

    Args:
        interactions: what to split; of repeated pairs the first in the data counts.
        test_share: share of all interactions, in (0, 1).
        overview: overview of all interactions, where other processes have users, too.

    Raises:
        DataError: interactions without timestamps, or all at one time.
        ValueError: a share outside (0, 1).
    """
    _check_share("test_share", test_share)
    distinct = interactions.deduplicated()
    times = _timestamps(distinct)
    if overview.total(len(times)) == 0:
        return distinct, distinct
    cut = overview.value_at_rank(times, 1 - test_share)
    late = times >= cut
    if overview.total(int((~late).sum())) == 0:
        late = times > cut  # a cut inside the first moment: all of it stays to train on
    if overview.total(int(late.sum())) == 0:
        raise DataError("interactions cannot be split by time: all have the same timestamp")
    return distinct.select(~late), distinct.select(late)


def split_users(
    interactions: Interactions, *, share: float, seed: int, overview: Overview = WHOLE
) -> tuple[Interactions, Interactions]:
    """Splits by user, at random: those to train on, and a share of the users held out.

    Only users with interactions are drawn from; ``round(share * users)`` are held out, at least one
    and never all.

    Args:
        interactions: what to split.
        share: share of the users, in (0, 1).
        seed: seeds the draw.
        overview: overview of all interactions, where other processes have users, too.

    Raises:
        DataError: fewer than two users with interactions.
        ValueError: a share outside (0, 1).
    """
    _check_share("share", share)
    users = interactions.users_with_any()
    num_users = overview.total(len(users))
    if num_users < 2:
        raise DataError(f"users cannot be held out of {num_users}: expected at least 2 users")
    count = min(max(1, round(share * num_users)), num_users - 1)
    held_out = np.zeros(interactions.num_users, dtype=bool)
    held_out[overview.choose_users(users, count, seed)] = True
    new = held_out[interactions.user_rows]
    return interactions.select(~new), interactions.select(new)


def core_rows(interactions: Interactions, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the users and items of the k-core, ascending.

    The k-core is the largest set of interactions in which every user and every item has at least
    ``k`` distinct ones; it may be empty.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    left = _core(interactions.deduplicated(), k, WHOLE)
    return left.users_with_any(), left.items_with_any()


def _core(distinct: Interactions, k: int, overview: Overview) -> Interactions:
    """The interactions of the k-core, without their times and the like."""
    left = replace(distinct, timestamps=None, weights=None, positions=None)
    while True:
        of_user = np.bincount(left.user_rows, minlength=left.num_users)
        stay = (of_user[left.user_rows] >= k) & (overview.count_items(left) >= k)
        if overview.total(int((~stay).sum())) == 0:
            return left
        left = left.select(stay)


@dataclass(frozen=True, eq=False)
class Split:
    """The parts that a run trains on and is measured on; all parts share the map of items.

    Attributes:
        train: interactions of the known users; its map of users holds those with training interactions.
        target: what known users are to be shown; same maps.
        others: what known users had beyond both, which is neither trained on nor recommended; same
            maps.
        validation: what settings are chosen on, or None to carve it from ``train``; same maps.
        history: what new users did before; its map of users holds those with a history, and none of
            them is in ``train``. In the order of time, or at random without timestamps.
        history_target: what new users are to be shown; same maps as ``history``.
        method: how the targets came about: ``"given"``, ``"none"``, or a method of
            :class:`SplitConfig`.
        num_left_out: target interactions that nobody can be measured on: of users who have no others,
            or, in a given test part, repeated from the training part.
        num_merged: training interactions that repeat a pair of user and item, and count once.
    """

    train: Interactions
    target: Interactions
    others: Interactions
    validation: Interactions | None
    history: Interactions
    history_target: Interactions
    method: str
    num_left_out: int
    num_merged: int


def split_interactions(
    interactions: Interactions,
    test: Interactions | None,
    config: SplitConfig,
    *,
    validation: Interactions | None = None,
    others: Interactions | None = None,
    overview: Overview = WHOLE,
) -> Split:
    """Carves the parts of a run.

    With target ``"validation"`` neither the test interactions nor the users held out for testing
    are looked at: the target is the validation part given, or it and new users are carved from what
    is left.

    Args:
        interactions: all, or those of the training part.
        test: those of the test part with the same maps, or None to carve them.
        config: how.
        validation: those of the validation part with the same maps, or None.
        others: what users had that is not trained on, with the same maps, or None.
        overview: overview of all interactions, where other processes have users, too: then the parts are
            those of this process's users.

    Raises:
        DataError: nothing is left to train on, or a split by time without timestamps.
    """
    none = interactions.select(np.zeros(len(interactions), dtype=bool))
    others = none if others is None else others
    if config.test_share == 0:
        given = [part for part in (interactions, validation, test) if part is not None]
        interactions, validation, test = Interactions.joined(given), None, none
    train = interactions.deduplicated()
    num_merged = overview.total(len(interactions) - len(train))
    if config.k_core:
        given = [part for part in (train, others, test, validation) if part is not None]
        left = iter(overview.restrict(given, [_core(train, config.k_core, overview)]))
        train, others = next(left), next(left)
        test = None if test is None else next(left)
        validation = None if validation is None else next(left)
    parts = _take_targets(train, test, validation, config, overview)
    if overview.total(len(parts.train)) == 0:
        core = f" in the {config.k_core}-core" if config.k_core else ""
        raise DataError(f"no interactions to train on{core}")
    known, fresh = parts.train.users_with_any(), parts.new.users_with_any()
    target, history_target = parts.target.restrict(known), parts.target.restrict(fresh)
    train = parts.train.restrict(known)
    beyond = [each.restrict(known) for each in (others, *parts.others) if overview.total(len(each))]
    return Split(
        train=train,
        target=target,
        others=_without(beyond, [train, target]),
        validation=None if parts.validation is None else parts.validation.restrict(known),
        history=_in_order(parts.new.restrict(fresh), config.seed, overview),
        history_target=history_target,
        method=parts.method,
        num_left_out=overview.total(
            len(parts.target) - len(target) - len(history_target) + parts.num_repeated
        ),
        num_merged=num_merged,
    )


@dataclass(frozen=True, eq=False)
class _Targets:
    """The parts before users are told apart."""

    train: Interactions
    target: Interactions
    new: Interactions
    validation: Interactions | None
    others: list[Interactions]
    method: str
    num_repeated: int


def _take_targets(
    train: Interactions,
    test: Interactions | None,
    validation: Interactions | None,
    config: SplitConfig,
    overview: Overview,
) -> _Targets:
    is_test = config.target == "test"
    target = test if is_test else validation
    method = config.method if target is None else "given"
    if is_test and config.test_share == 0:
        method = "none"
    others = [part for part in (test, validation) if part is not None and part is not target]
    num_repeated = 0
    if test is None:
        train, test = carve(train, config.method, config.test_share, config.seed, overview)
        if is_test:
            target = test
        else:
            others.append(test)
    if method == "given" and target is not None:
        num_repeated = len(target)
        target = target.without(train)
        num_repeated -= len(target)
    new = train.select(np.zeros(len(train), dtype=bool))
    if config.new_user_share > 0:
        train, new = split_users(
            train, share=config.new_user_share, seed=config.seed, overview=overview
        )
    if target is None:
        train, target = carve(
            train, config.method, config.validation_share, config.seed + 1, overview
        )
    if not is_test and config.new_user_share > 0:
        train, new = split_users(
            train, share=config.new_user_share, seed=config.seed + 1, overview=overview
        )
    kept = None
    if is_test and validation is not None:  # what is measured on must not be chosen by
        kept = validation.without(train).without(target)
        kept = kept if overview.total(len(kept)) else None
    return _Targets(train, target, new, kept, others, method, num_repeated)


def _without(parts: list[Interactions], seen: list[Interactions]) -> Interactions:
    """The distinct ones of some parts that are in none of those seen."""
    if not parts:
        return seen[0].select(np.zeros(len(seen[0]), dtype=bool))
    left = Interactions.joined(parts).deduplicated()
    for part in seen:
        left = left.without(part)
    return left


def carve(
    interactions: Interactions, method: str, share: float, seed: int, overview: Overview = WHOLE
) -> tuple[Interactions, Interactions]:
    """Splits by a method of :class:`peel_ext.config.SplitConfig`: what is left, and what is carved off.

    Raises:
        DataError: a split by time without timestamps.
        ValueError: a share outside (0, 1).
    """
    if method == "last":
        return split_last(interactions, test_share=share)
    if method == "time":
        return split_time(interactions, test_share=share, overview=overview)
    return split_random(interactions, test_share=share, seed=seed, overview=overview)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}")


def _timestamps(interactions: Interactions) -> NDArray[np.float64]:
    if interactions.timestamps is None:
        raise DataError(
            "a split by time needs timestamps, and these interactions have none: name their column "
            "(--timestamp-column, timestamp_column)"
        )
    return interactions.timestamps


def _split_first(
    distinct: Interactions, order: NDArray[np.int64], share: float, at_least_from: int = 5
) -> tuple[Interactions, Interactions]:
    """Puts the first items of each user in an order [m] by user on the test side."""
    counts = np.bincount(distinct.user_rows, minlength=distinct.num_users)
    wanted = np.round(share * counts).astype(np.int64)
    wanted = np.minimum(np.maximum(wanted, counts >= at_least_from), np.maximum(counts - 1, 0))
    starts = np.cumsum(counts) - counts
    taken = np.concatenate([[0], np.cumsum(wanted)])
    places = np.arange(taken[-1]) + np.repeat(starts - taken[:-1], wanted)
    in_test = np.zeros(len(distinct), dtype=bool)
    in_test[order[places]] = True
    return distinct.select(~in_test), distinct.select(in_test)


def _in_order(interactions: Interactions, seed: int, overview: Overview) -> Interactions:
    """By user, and within one by time, or at random without timestamps."""
    times: NDArray[np.floating[Any]] | None = interactions.timestamps
    if times is None:
        times = overview.draw(interactions, seed, np.float64)
    return interactions.select(np.lexsort((times, interactions.user_rows)))
