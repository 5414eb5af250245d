"""Ids of which every rank has some, numbered as one process that has all would do.

Each rank owns a run of the ids in ascending order, whose ends are found from samples: it merges what the
others send, and tells them the rows. In the end the runs are those of a :class:`Partition`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.collector import IdCollector, are_few, sort_distinct
from peel_ext.data.interactions import IdMap
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import (
    count_before,
    exchange,
    exchange_counted,
    gather,
)
from peel_ext.scale.partition import Partition

#: Samples of the ids of all ranks, for each rank that is to own a run.
_SAMPLES = 256

#: What is known of a text: it came as one, it came as an integer, it means none.
_NAME, _INTEGER, _ODD = 1, 2, 4


def number_ids(
    collector: IdCollector, num_names: Sequence[int], ranks: Collectives
) -> tuple[IdMap, Partition, NDArray[np.int32], str | None]:
    """Numbers the ids of all ranks.

    Args:
        collector: the ids of this rank; its pieces are taken apart.
        num_names: how many names it had after each part of the data.
        ranks: the processes.

    Returns:
        The own run of ids, the partition of all, the row [m] of each id of this rank, and the id that
        makes text of many integers, or None.
    """
    integers, names = collector.integers, collector.names
    values = collector.values_of_names()
    are_text = gather([collector.are_strings, values is None], ranks)
    if values is not None and not any(text for _, text in are_text):
        distinct = sort_distinct(np.concatenate([integers, values]))
        ids, partition, rows = _number_integers(distinct, ranks)
        of_integer, of_code = (rows[np.searchsorted(distinct, each)] for each in (integers, values))
        return ids, partition, collector.take_rows(of_integer, of_code), None
    odd = collector.odd_names(any(typed for typed, _ in are_text))
    flags: dict[str, int] = dict.fromkeys(names, _NAME)
    for name in odd:
        flags[name] |= _ODD
    texts = [str(value) for value in integers.tolist()]
    for text in texts:
        flags[text] = flags.get(text, 0) | _INTEGER
    ids, partition, row_of, counts = _number_texts(flags, ranks)
    of_integer, of_code = (
        np.fromiter((row_of[text] for text in each), np.int64, count=len(each))
        for each in (texts, names)
    )
    first = _first_odd(names, odd, num_names, ranks)
    few = are_few(counts[_ODD], counts[_NAME] + counts[_INTEGER])
    return ids, partition, collector.take_rows(of_integer, of_code), first if few else None


def redistribute(ids: IdMap, partition: Partition, ranks: Collectives) -> IdMap:
    """The own run of a partition of ids of which each rank has a run of any length."""
    start, _ = count_before(len(ids), ranks)
    edges = np.clip(partition.edges - start, 0, len(ids))
    leaving = np.diff(edges).tolist()
    if ids.holds_integers:
        return IdMap(exchange(ids.ids, leaving, ranks)[0])
    return IdMap(_objects(exchange_texts(ids.ids.tolist(), leaving, ranks)[0]))


def _first_odd(
    names: list[str], odd: list[str], num_names: Sequence[int], ranks: Collectives
) -> str | None:
    """The first name of all ranks that means no integer, by the part that it is in."""
    own = None
    if odd:
        place = names.index(odd[0])
        own = [int(np.searchsorted(num_names, place, side="right")), ranks.rank, odd[0]]
    found = [each for each in gather(own, ranks) if each is not None]
    return min(found)[2] if found else None


def _sample(ids: Sequence[Any] | NDArray[Any], ranks: Collectives) -> list[int]:
    """Places of the samples of this rank: their number goes by how many ids it has."""
    _, num_ids = count_before(len(ids), ranks)
    count = min(len(ids), -(-len(ids) * _SAMPLES * ranks.size // max(1, num_ids)))
    return [len(ids) * at // count for at in range(count)]


def _ends(samples: list[Any], ranks: Collectives) -> list[Any]:
    """The first id of each run but that of rank 0."""
    samples.sort()
    return [samples[len(samples) * rank // ranks.size] for rank in range(1, ranks.size) if samples]


def _number_integers(
    distinct: NDArray[np.int64], ranks: Collectives
) -> tuple[IdMap, Partition, NDArray[np.int64]]:
    """The own run, the partition of all, and the rows [n] of ascending integers [n]."""
    sampled = gather(distinct[_sample(distinct, ranks)].tolist(), ranks)
    ends = _ends([each for samples in sampled for each in samples], ranks)
    places = np.searchsorted(distinct, np.array(ends, dtype=np.int64))
    leaving = _runs(places, len(distinct), ranks)
    arrived, arriving = exchange(distinct, leaving, ranks)
    own = sort_distinct(arrived)
    start, size = count_before(len(own), ranks)
    found = start + np.searchsorted(own, arrived)
    rows = exchange_counted(found, arriving, leaving, ranks)
    partition = Partition(size, ranks.size)
    return redistribute(IdMap(own), partition, ranks), partition, rows


def _number_texts(
    flags: dict[str, int], ranks: Collectives
) -> tuple[IdMap, Partition, dict[str, int], dict[int, int]]:
    """The own run, the partition of all, the rows of texts, and how many of all have each flag."""
    texts = sorted(flags)
    sampled = gather([texts[at] for at in _sample(texts, ranks)], ranks)
    ends = _ends([each for samples in sampled for each in samples], ranks)
    places = np.searchsorted(_objects(texts), _objects(ends)) if texts else np.zeros(len(ends))
    leaving = _runs(places, len(texts), ranks)
    arrived, arriving = exchange_texts(texts, leaving, ranks)
    own_flags = np.fromiter((flags[text] for text in texts), np.uint8, count=len(texts))
    merged: dict[str, int] = {}
    for text, flag in zip(
        arrived, exchange_counted(own_flags, leaving, arriving, ranks).tolist(), strict=True
    ):
        merged[text] = merged.get(text, 0) | flag
    own = sorted(merged)
    start, size = count_before(len(own), ranks)
    row_of = {text: start + at for at, text in enumerate(own)}
    found = np.fromiter((row_of[text] for text in arrived), np.int64, count=len(arrived))
    rows = exchange_counted(found, arriving, leaving, ranks).tolist()
    counts = {
        flag: ranks.total(sum(1 for each in merged.values() if each & flag))
        for flag in (_NAME, _INTEGER, _ODD)
    }
    partition = Partition(size, ranks.size)
    ids = redistribute(IdMap(_objects(own)), partition, ranks)
    return ids, partition, dict(zip(texts, rows, strict=True)), counts


def _runs(places: NDArray[Any], count: int, ranks: Collectives) -> list[int]:
    """How many of some ascending ids belong to each rank, whose runs begin at some places."""
    if len(places) == 0:  # there are no ids at all, or one rank
        return [count] + [0] * (ranks.size - 1)
    return np.diff([0, *places.tolist(), count]).astype(np.int64).tolist()


def exchange_texts(
    texts: Sequence[str], leaving: list[int], ranks: Collectives
) -> tuple[list[str], list[int]]:
    """Sends runs of texts to the ranks; returns what arrives, and how many from each."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, count=len(encoded))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    runs = np.diff(ends[np.concatenate([[0], np.cumsum(leaving)])]).astype(np.int64).tolist()
    arrived, arriving = exchange(lengths, leaving, ranks)
    data = exchange(np.frombuffer(bytearray(b"".join(encoded)), np.uint8), runs, ranks)[0].tobytes()
    stops = np.cumsum(arrived).tolist()
    starts = [0, *stops[:-1]] if stops else []
    return [
        data[start:stop].decode("utf-8", "surrogatepass")
        for start, stop in zip(starts, stops, strict=True)
    ], arriving


def _objects(values: Sequence[str]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
