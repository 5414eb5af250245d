"""Users folded in where each rank has its own items; see :mod:`peel_ext.device.fold_in`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.device.fold_in import STEP_SIZE, STEPS, users_at_a_time
from peel_ext.device.item_prior import add_component, part_tastes
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.exchange import Visits, in_batches
from peel_ext.scale.item_shard import ItemShard
from peel_ext.train.clustering import normalise_rows


def fold_in_users(
    rows: NDArray[np.int64],
    items: NDArray[np.float32],
    histories: ItemShard,
    ranks: Collectives,
    *,
    steps: int = STEPS,
    temperature: float,
    prior: float,
) -> NDArray[np.float32]:
    """The vectors float32 [m, dim] of own users, as :func:`peel_ext.device.fold_in_users` makes them.

    Users go to the items of every rank at each step, and owners put together what comes back.

    Args:
        rows: int64 [m], own users, as all ranks number them.
        items: float32 [num_own_items, dim].
        histories: interactions of all users with the own items.
        ranks: the processes.
        steps: as there.
        temperature: as there.
        prior: as there.
    """
    units = normalise_rows(items if prior == 0 else part_tastes(items))
    candidates = units[np.any(units, axis=1)]
    vectors = np.zeros((len(rows), items.shape[1]), dtype=np.float32)
    size = max(1, users_at_a_time(histories.items.rows_per_rank) // ranks.size)
    for part in in_batches(len(rows), size, ranks):
        visits = Visits(len(rows[part]), ranks)
        everybody = visits.send(torch.from_numpy(rows[part])).numpy()
        sums = visits.bring_back(torch.from_numpy(_sum_histories(everybody, units, histories)))
        means = sums.sum(dim=0).numpy()
        means, counts = means[:, :-1] / np.maximum(means[:, -1:], 1), means[:, -1:]
        own = normalise_rows(means)
        for _ in range(steps):
            visitors = visits.send(torch.from_numpy(own)).numpy()
            found = torch.from_numpy(_expect_rows(visitors, candidates, temperature))
            expected = _join_expected(visits.bring_back(found).numpy())
            gradient = (expected - means) / np.float32(temperature)
            own = normalise_rows(own - np.float32(STEP_SIZE) * gradient) * (counts > 0)
        vectors[part] = own
    return vectors if prior == 0 else add_component(vectors, prior)


def _sum_histories(
    rows: NDArray[np.int64], units: NDArray[np.float32], histories: ItemShard
) -> NDArray[np.float32]:
    """The sums of the own units in the histories of users, and how many, float32 [m, dim + 1]."""
    indptr, columns = (each.numpy() for each in histories.lists_of(rows))
    owners = np.repeat(np.arange(len(rows)), np.diff(indptr))
    sums = np.zeros((len(rows), units.shape[1] + 1), dtype=np.float32)
    there = np.any(units, axis=1)[columns]
    np.add.at(sums[:, :-1], owners, units[columns])
    sums[:, -1] = np.bincount(owners[there], minlength=len(rows))
    return sums


def _expect_rows(
    vectors: NDArray[np.float32], candidates: NDArray[np.float32], temperature: float
) -> NDArray[np.float32]:
    """The part of own candidates in the softmax of users, float32 [m, dim + 2].

    The sum of the candidates by their shares, the sum of the shares, and the largest logarithm of a
    share, to which the others are relative.
    """
    made = np.zeros((len(vectors), vectors.shape[1] + 2), dtype=np.float32)
    with np.errstate(invalid="ignore"):  # as in the fold-in of one process
        shares = (vectors / np.float32(temperature)) @ candidates.T
        largest = shares.max(axis=1, keepdims=True, initial=np.finfo(np.float32).min)
        np.exp(shares - largest, out=shares)
        made[:, :-2] = shares @ candidates
    made[:, -2], made[:, -1:] = shares.sum(axis=1), largest
    return made


def _join_expected(parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean candidate [m, dim] under the softmax over those of all ranks [num_ranks, m, dim + 2]."""
    largest = parts[:, :, -1:]
    joined = (parts[:, :, :-1] * np.exp(largest - largest.max(axis=0))).sum(axis=0)
    return np.asarray(joined[:, :-1] / np.maximum(joined[:, -1:], np.finfo(np.float32).tiny))
