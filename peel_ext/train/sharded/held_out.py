"""Interactions held out by several processes, and features of the items in parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import IdMap, Interactions, ItemLists
from peel_ext.data.interactions import RowsElsewhere
from peel_ext.data.splits import carve
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import count_before
from peel_ext.scale.partition import Partition
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.scale.shared_overview import SharedOverview
from peel_ext.train.item_prior import NUM_HALVINGS


def hold_out(
    data: ShardedData, method: str, share: float, seed: int, ranks: Collectives
) -> tuple[ShardedData, ItemLists]:
    """Splits off a share of the own users' interactions.

    It is what :meth:`peel_ext.train.held_out.TrainingData.hold_out` draws in one process.
    """
    lists, times = data.lists, data.timestamps
    start, count = count_before(len(lists.items), ranks)
    whole = Interactions(
        lists.owners(), lists.items, times, RowsElsewhere(len(lists)),
        RowsElsewhere(data.items.size), data.weights, start + np.arange(len(lists.items)),
    )  # fmt: skip
    ordered = False
    if times is not None and count > 0:
        ends = np.array([-np.inf, -np.inf])
        if len(times):
            ends = np.array([times.max(), -times.min()])
        latest, earliest = ranks.max(torch.from_numpy(ends)).tolist()
        ordered = latest != -earliest
    overview = SharedOverview(IdMap(np.zeros(0, np.int64)), data.items, ranks)
    left, held = carve(whole, method if ordered else "random", share, seed, overview)
    kept = dataclasses.replace(
        data, lists=left.csr(), weights=left.csr_weights(), timestamps=left.csr_timestamps()
    )
    return kept, held.csr()


def measure_recency(timestamps: NDArray[np.float64], ranks: Collectives) -> NDArray[np.uint8]:
    """Measures the recency of own interactions as :func:`peel_ext.train.item_prior.measure_recency` does.

    Args:
        timestamps: [num_own_interactions]; those of a rank come before those of the next one.
        ranks: the processes.
    """
    recency = np.zeros(len(timestamps), dtype=np.uint8)
    overview = SharedOverview(IdMap(np.zeros(0, np.int64)), Partition(0, ranks.size), ranks)
    count = ranks.total(len(timestamps))
    for halvings in range(1, NUM_HALVINGS + 1):
        wanted = count >> halvings
        if wanted == 0:
            break
        # The first of the last, by rank from 0; the half keeps rounding from changing it.
        edge = overview.value_at_rank(timestamps, (count - wanted - 0.5) / max(count - 1, 1))
        later, ties = timestamps > edge, np.flatnonzero(timestamps == edge)
        before, num_ties = count_before(len(ties), ranks)
        first = num_ties - (wanted - ranks.total(int(later.sum())))
        recency[later] = halvings
        recency[ties[max(first - before, 0) :]] = halvings
    return recency


def describe_items(data: ShardedData, ranks: Collectives) -> NDArray[np.float32]:
    """Describes the own items as :func:`peel_ext.train.item_prior.describe_items` does all.

    Returns:
        float32 [num_features, num_own_items].
    """
    features = [np.log(np.maximum(_count(data.lists.items, data, ranks), 1))]
    if data.timestamps is not None:
        recency = measure_recency(data.timestamps, ranks)
        for halvings in range(1, NUM_HALVINGS + 1):
            recent = _count(data.lists.items[recency >= halvings], data, ranks)
            features.append(np.log1p(recent * float(1 << halvings)))
    return np.stack(features).astype(np.float32)


def _count(
    item_rows: NDArray[np.int64], data: ShardedData, ranks: Collectives
) -> NDArray[np.int64]:
    """Counts how often all ranks have each of the own items among these."""
    counts = torch.from_numpy(np.bincount(item_rows, minlength=data.items.size))
    parts = [data.items.count(rank) for rank in range(ranks.size)]
    arrived = ranks.exchange(counts.split(parts))
    return np.asarray(torch.stack(arrived).sum(dim=0).numpy(), dtype=np.int64)
