"""The data a run is made from, where each process has read its own users' part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.data import IdMap, ItemLists, Split
from peel_ext.errors import DataError
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import gather
from peel_ext.scale.numbering import exchange_texts
from peel_ext.scale.partition import Partition
from peel_ext.scale.reading import read_shard
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.scale.shards import ShardedParts, split_shard
from peel_ext.train.pipeline import (
    SYNTHETIC,
    PreparedData,
    make_synthetic,
    name_of,
    remark_on_split,
    split_arrays,
)


class SharedRunData(NamedTuple):
    """The interactions of a run.

    Attributes:
        data: the own users' training interactions.
        validation: those of a validation part that was given, or None.
        whole: data of all users, on rank 0 alone.
    """

    data: ShardedData
    validation: ItemLists | None
    whole: PreparedData | None


def read_data(
    data: Any, config: PipelineConfig, ranks: Collectives, on_remark: Callable[[str], None]
) -> SharedRunData:
    """Reads and splits interactions, each rank its part; what comes out is what one process makes.

    Args:
        data: as of :func:`peel_ext.train.pipeline.run_pipeline`, the same on all ranks.
        config: all settings.
        ranks: the processes.
        on_remark: told by rank 0 what of the data is not used.

    Raises:
        DataError: on every rank: the data cannot be read or used, ranks were given different data, or
            there are fewer users or items than ranks.
    """
    names = gather(name_of(data), ranks)
    for rank, name in enumerate(names):
        if (name == SYNTHETIC) != (names[0] == SYNTHETIC):
            raise DataError(
                f"data must be the same on all ranks, got {name!r} on rank {rank} and {names[0]!r} "
                "on rank 0"
            )
    if isinstance(data, str) and data == SYNTHETIC:
        parts = ShardedParts.of(make_synthetic(config.reading), ranks)
    else:
        parts = read_shard(data, config.reading, ranks, on_remark)
    columns = parts.given.columns
    if ranks.is_first:
        remark_on_split(parts.given, config.split, on_remark)
    try:
        sharded = split_shard(parts, config.split, ranks)
    except DataError as error:
        raise DataError(f"{name_of(data)}: {error}") from None
    del parts  # memory that training needs
    Partition.of("users", sharded.users.size, ranks.size)
    Partition.of("items", sharded.items.size, ranks.size)
    split = sharded.split
    own = split_arrays(split)
    validation = None
    if split.validation is not None:
        validation = ItemLists.from_arrays(own, "validation")
    lists = ItemLists.from_arrays(own, "train")
    made = ShardedData(
        lists, sharded.users, sharded.items, own.get("train_weights"), own.get("train_timestamps")
    )
    ids = {
        "users": collect_ids(split.train.users, ranks),
        "items": collect_ids(sharded.item_ids, ranks),
        "new_users": collect_ids(split.history.users, ranks),
    }
    facts = _describe(split, columns, ranks)
    whole = _collect(own, len(split.train.users), ranks)
    prepared = PreparedData(whole, ids, facts) if ranks.is_first else None
    return SharedRunData(made, validation, prepared)


def collect_ids(ids: IdMap, ranks: Collectives) -> IdMap:
    """The ids of all ranks, in order, on rank 0; none on the others."""
    nobody_has_any = ranks.total(len(ids)) == 0
    if ranks.total(not ids.holds_integers and (len(ids) > 0 or nobody_has_any)) == 0:
        return IdMap(ranks.collect(torch.from_numpy(ids.ids.astype(np.int64))).numpy())
    to_first = [len(ids), *[0] * (ranks.size - 1)]
    texts, _ = exchange_texts(ids.ids.tolist(), to_first, ranks)
    return IdMap(np.array(texts, dtype=object))


def _describe(split: Split, columns: str, ranks: Collectives) -> dict[str, Any]:
    """How the split was made, and what it left out, as one process tells it."""
    facts: dict[str, Any] = {"split": split.method}
    facts |= {"columns": columns} if columns else {}
    if split.validation is not None:
        facts["validation"] = ranks.total(len(split.validation))
    facts |= {"repeats_merged": split.num_merged} if split.num_merged else {}
    facts |= {"test_left_out": split.num_left_out} if split.num_left_out else {}
    return facts


def _collect(
    own: dict[str, NDArray[Any]], num_users: int, ranks: Collectives
) -> dict[str, NDArray[Any]]:
    """The arrays of a split of all users on rank 0, from those of the own users of each rank."""
    made: dict[str, NDArray[Any]] = {}
    empty = ItemLists.empty(num_users)
    for part in ("train", "test", "history", "history_test", "other", "validation"):
        there = f"{part}_indptr" in own
        if ranks.total(int(there)) == 0:
            continue
        lists = ItemLists.from_arrays(own, part) if there else empty
        counts, items = (
            ranks.collect(torch.from_numpy(each)).numpy() for each in (lists.counts, lists.items)
        )
        made |= ItemLists.from_counts(counts, items).to_arrays(part)
    for name in ("train_weights", "train_timestamps"):
        if name in own:
            made[name] = ranks.collect(torch.from_numpy(own[name])).numpy()
    return made
