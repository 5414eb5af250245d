"""The prior of each item: what counts of its interactions, old and recent, make it worth to anybody."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.device.item_prior import join_prior
from peel_ext.metrics import rank_quality
from peel_ext.train.held_out import rank_unseen

#: Counts are of all interactions and of the last half, quarter, ... of them down to the last 1/32.
NUM_HALVINGS = 5

#: Length of the lists by which a prior is judged: more than is shown, so that few users say more.
DEPTH = 100

#: Changes of a weight that are tried, large ones first.
_STEPS = (0.1, 0.05, 0.025)

#: Gain of quality, relative, below which a change is taken for noise.
_LEAST_GAIN = 0.003


def measure_recency(timestamps: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The recency of each interaction: the largest k, at most 5, so that it is of the last 1 / 2^k.

    Args:
        timestamps: [num_interactions]; of equal ones the later in the data is the later.

    Returns:
        uint8 [num_interactions].
    """
    count = len(timestamps)
    recency = np.zeros(count, dtype=np.uint8)
    order = np.argsort(timestamps, kind="stable")
    for halvings in range(1, NUM_HALVINGS + 1):
        recency[order[count - (count >> halvings) :]] = halvings
    return recency


def describe_items(
    item_rows: NDArray[np.int64], num_items: int, recency: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """The features of which a prior is a weighted sum: logarithms of counts.

    Args:
        item_rows: [num_interactions].
        num_items: number of items.
        recency: recency of the interactions, as of :func:`measure_recency`; None where there are no times.

    Returns:
        float32 [num_features, num_items]: ``log(max(1, interactions))``, and where there is recency
        ``log(1 + 2^k * interactions among the last 1 / 2^k)`` for k from 1 to 5.
    """
    counts = np.bincount(item_rows, minlength=num_items)
    features = [np.log(np.maximum(counts, 1))]
    if recency is not None:
        for halvings in range(1, NUM_HALVINGS + 1):
            recent = np.bincount(item_rows[recency >= halvings], minlength=num_items)
            features.append(np.log1p(recent * float(1 << halvings)))
    return np.stack(features).astype(np.float32)


def weigh_features(features: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.float32]:
    """The prior float32 [num_items]: features [num_features, num_items] by their weights.

    Weights that are missing are 0; there are no more of them than features.
    """
    used = np.asarray(weights, dtype=np.float64)
    return np.asarray(used @ features[: len(used)], dtype=np.float32)


def give_prior(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    prior: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Vectors whose dot product is ``<user, item> + prior of the item``, but for a constant.

    The prior is centred on what is interacted with, and split between users and items so that a
    relative error in either weighs alike.

    Args:
        users: float32 [num_users, dim - 1]; zero ones stay zero.
        items: float32 [num_items, dim - 1], of length 1.
        prior: [num_items].
        counts: interactions of each item [num_items].

    Returns:
        users float32 [num_users, dim], items float32 [num_items, dim], and the component of every
        user along the axis of the prior (:mod:`peel_ext.device.item_prior`).
    """
    shares = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    centred = prior.astype(np.float64) - float(shares @ prior)
    component = component_of_spread(math.sqrt(float(shares @ centred**2)))
    along = np.where(users.any(axis=1), component, 0.0).astype(np.float32)
    return (
        join_prior(users, along),
        join_prior(items, (centred / component).astype(np.float32)),
        component,
    )


def component_of_spread(spread: float) -> float:
    """The component of every user along the axis of a prior of that standard deviation."""
    return max(round(math.sqrt(spread), 4), 0.01)  # short, as it is shown


def choose_prior(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    features: NDArray[np.float32],
    seen: ItemLists,
    held_out: ItemLists,
    start: Sequence[float],
    *,
    fixed: bool = False,
    device: str = "cpu",
) -> tuple[list[float], float]:
    """The weights of the features whose prior ranks held-out interactions best.

    From the start, changes of one weight after another are tried, and made where they gain, until none
    does.

    Args:
        users: float32 [num_users, dim], of those whose interactions are held out.
        items: float32 [num_items, dim].
        features: float32 [num_features, num_items].
        seen: items that each user had, which are not ranked.
        held_out: items to be found.
        start: weights to begin with.
        fixed: whether to keep to them, and measure alone.
        device: the device that ranks (:func:`peel_ext.train.held_out.rank_unseen`).

    Returns:
        The weights [num_features], and NDCG at a depth of 100 with them.
    """
    vectors = widen(users, np.ones(len(users), dtype=np.float32))

    def judge(weights: Sequence[float]) -> float:
        rows = widen(items, weigh_features(features, weights))
        lists = rank_unseen(vectors, rows, seen, DEPTH, device)
        return rank_quality(lists, held_out.indptr, held_out.items).ndcg

    return search_weights(judge, len(features), start, fixed)


def search_weights(
    judge: Callable[[Sequence[float]], float], count: int, start: Sequence[float], fixed: bool
) -> tuple[list[float], float]:
    """The search of :func:`choose_prior`.

    Args:
        judge: the quality with some weights.
        count: number of weights.
        start: weights to begin with; those that are missing are 0.
        fixed: whether to keep to them.
    """
    weights = [float(each) for each in start]
    weights += [0.0] * (count - len(weights))
    best = judge(weights)
    for step in () if fixed else _STEPS:
        gains = True
        while gains:
            gains = False
            for at, sign in itertools.product(range(len(weights)), (1, -1)):
                changed = [*weights[:at], weights[at] + sign * step, *weights[at + 1 :]]
                found = judge(changed)
                if found > best * (1 + _LEAST_GAIN):
                    weights, best, gains = changed, found, True
    return weights, best


def widen(vectors: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [n, dim] with one more value each."""
    return np.concatenate([vectors, values[:, None]], axis=1, dtype=np.float32)
