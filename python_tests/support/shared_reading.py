"""What several ranks read beside what one process reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import thread_ranks

from peel_ext.config import ReadingConfig, SplitConfig
from peel_ext.data import IdMap, Split, read_split, split_interactions
from peel_ext.data.interactions import Interactions
from peel_ext.errors import DataError
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.reading import read_shard
from peel_ext.scale.shards import split_shard

_PARTS = ("train", "target", "others", "validation", "history", "history_target")


@dataclass
class Found:
    """What was read: of all users, or of those of one rank."""

    parts: dict[str, list[list[Any]]] = field(default_factory=dict)
    ids: list[list[Any]] = field(default_factory=list)
    facts: list[Any] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None


def _by_user(part: Interactions) -> list[list[Any]]:
    """Of each user the items, times and weights, in order."""
    columns = [each for each in (part.timestamps, part.weights) if each is not None]
    rows = [
        list(
            zip(
                part.item_rows[own].tolist(), *(each[own].tolist() for each in columns), strict=True
            )
        )
        for own in (np.flatnonzero(part.user_rows == user) for user in range(part.num_users))
    ]
    return rows


def found(split: Split, items: IdMap, columns: str, remarks: list[str]) -> Found:
    parts = {name: getattr(split, name) for name in _PARTS}
    return Found(
        {name: _by_user(part) for name, part in parts.items() if part is not None},
        [split.train.users.ids.tolist(), split.history.users.ids.tolist(), items.ids.tolist()],
        [split.method, split.num_left_out, split.num_merged, split.train.num_items, columns,
         items.ids.dtype],
        remarks,
    )  # fmt: skip


def read_alone(data: Any, reading: ReadingConfig, config: SplitConfig) -> Found:
    remarks: list[str] = []
    try:
        given = read_split(data, reading, remarks.append)
        split = split_interactions(
            given.train, given.test, config, validation=given.validation, others=given.below
        )
    except DataError as error:
        return Found(remarks=remarks, error=str(error))
    return found(split, split.train.items, given.columns, remarks)


def read_with(ranks: Collectives, data: Any, reading: ReadingConfig, config: SplitConfig) -> Found:
    remarks: list[str] = []
    try:
        parts = read_shard(data, reading, ranks, remarks.append)
        made = split_shard(parts, config, ranks)
    except DataError as error:
        return Found(remarks=remarks, error=str(error))
    sizes = [len(made.split.train.users), len(made.split.history.users), len(made.item_ids)]
    assert sizes == [each.count(ranks.rank) for each in (made.users, made.new_users, made.items)]
    return found(made.split, made.item_ids, parts.given.columns, remarks)


def compare(
    data: Any,
    reading: ReadingConfig | None = None,
    config: SplitConfig | None = None,
    sizes: tuple[int, ...] = (1, 2, 3),
) -> Found:
    """Reads with one process and with several ranks; returns what the one found."""
    settings = reading or ReadingConfig(), config or SplitConfig()
    alone = read_alone(data, *settings)
    for size in sizes:
        check(thread_ranks.run(size, read_with, data, *settings), alone)
    return alone


def check(shared: list[Found], alone: Found) -> None:
    assert [each.error for each in shared] == [alone.error] * len(shared)
    assert [each.remarks for each in shared[1:]] == [[]] * (len(shared) - 1)
    if alone.error is not None:
        return
    assert sorted(shared[0].remarks) == sorted(alone.remarks)
    assert shared[0].parts.keys() == alone.parts.keys()
    for name, rows in alone.parts.items():
        assert [user for each in shared for user in each.parts[name]] == rows, name
    for at, ids in enumerate(alone.ids):
        assert [row for each in shared for row in each.ids[at]] == ids
    assert all(each.facts == alone.facts for each in shared)
