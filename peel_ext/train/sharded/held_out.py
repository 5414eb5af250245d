"""Interactions held out by several processes, and features of the items in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.held_out import TrainingData
from peel_ext.train.item_prior import NUM_HALVINGS, measure_recency


def hold_out(
    data: ShardedData, method: str, share: float, seed: int, ranks: Collectives
) -> tuple[ShardedData, ItemLists]:
    """Splits off a share of the own users' interactions.

    It is what :meth:`peel_ext.train.held_out.TrainingData.hold_out` draws in one process, for which
    every rank has all interactions for a moment.
    """
    counts, items = _join(data.lists.counts, ranks), _join(data.lists.items, ranks)
    whole = TrainingData(
        ItemLists.from_counts(counts, items),
        data.items.size,
        None if data.weights is None else _join(data.weights, ranks),
        None if data.timestamps is None else _join(data.timestamps, ranks),
    )
    left, held = whole.hold_out(method, share, seed)
    arrays: dict[str, NDArray[Any]] = {**left.lists.to_arrays("left"), **held.to_arrays("held")}
    if left.weights is not None:
        arrays["left_weights"] = left.weights
    if left.timestamps is not None:
        arrays["left_timestamps"] = left.timestamps
    own, other = (
        ShardedData.of_split(arrays, data.items.size, ranks, part) for part in ("left", "held")
    )
    return own, other.lists


def describe_items(data: ShardedData, ranks: Collectives) -> NDArray[np.float32]:
    """Describes the own items as :func:`peel_ext.train.item_prior.describe_items` does all.

    Returns:
        float32 [num_features, num_own_items].
    """
    features = [np.log(np.maximum(_count(data.lists.items, data, ranks), 1))]
    if data.timestamps is not None:
        whole = measure_recency(_join(data.timestamps, ranks))
        start = int(_join(np.array([len(data.lists.items)]), ranks)[: ranks.rank].sum())
        recency = whole[start : start + len(data.lists.items)]
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


def _join(values: NDArray[Any], ranks: Collectives) -> NDArray[Any]:
    """The values of all ranks, in order."""
    joined: NDArray[Any] = ranks.join(torch.from_numpy(values)).numpy()
    return joined
