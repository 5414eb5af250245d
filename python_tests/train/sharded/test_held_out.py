"""What several ranks hold out together is what one process holds out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import thread_ranks

from peel_ext.data import IdMap, Interactions
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.held_out import TrainingData
from peel_ext.train.sharded import held_out

_USERS, _ITEMS = 23, 30


def _draw(seed: int, times: np.ndarray | None) -> TrainingData:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, _USERS, 400), rng.integers(0, _ITEMS, 400)
    made = Interactions(
        users, items, times, IdMap(np.arange(_USERS)), IdMap(np.arange(_ITEMS)),
        rng.integers(1, 5, 400).astype(np.float64),
    )  # fmt: skip
    return TrainingData(made.csr(), _ITEMS, made.csr_weights(), made.csr_timestamps())


def _own(data: TrainingData, ranks: Collectives) -> ShardedData:
    users = Partition(_USERS, ranks.size)
    own = users.own(ranks.rank)
    rows = slice(data.lists.indptr[own.start], data.lists.indptr[own.stop])
    values = (None if each is None else each[rows] for each in (data.weights, data.timestamps))
    lists = data.lists.take(np.arange(own.start, own.stop))
    return ShardedData(lists, users, Partition(_ITEMS, ranks.size), *values)


def _hold_out(ranks: Collectives, data: TrainingData, method: str) -> list[list[Any]]:
    left, held = held_out.hold_out(_own(data, ranks), method, 0.3, 7, ranks)
    return _plain(left, held)


def _plain(left: Any, held: Any) -> list[list[Any]]:
    values = (left.lists.counts, left.lists.items, held.counts, held.items, left.weights)
    made = [each.tolist() for each in values]
    return made if left.timestamps is None else [*made, left.timestamps.tolist()]


@pytest.mark.parametrize("method", ["random", "last", "time"])
@pytest.mark.parametrize("kind", ["none", "alike", "some"])
def test_the_same_is_held_out(method: str, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = {"none": None, "alike": np.ones(400), "some": rng.integers(-9, 9, 400) / 3}[kind]
    data = _draw(seed, times)
    want = _plain(*data.hold_out(method, 0.3, 7))
    for size in (1, 3):
        found = zip(*thread_ranks.run(size, _hold_out, data, method), strict=True)
        assert [list(itertools.chain(*parts)) for parts in found] == want
