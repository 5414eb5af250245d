"""Reading interactions by several processes: each reads a share of the files, and no one has all ids.

What comes out is what one process reads: the same ids in the same rows, the same order, the same remarks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ReadingConfig
from peel_ext.data.delimited_files import has_quoted_fields
from peel_ext.data.folders import format_of
from peel_ext.data.frames import is_frame
from peel_ext.data.interactions import Interactions, RowsElsewhere
from peel_ext.data.parts import Part, PartReader, join_pieces
from peel_ext.data.ratings import drop_low
from peel_ext.data.readers import (
    STANDARD_INPUT,
    GivenParts,
    data_places,
    find_parts,
    open_table,
    read_split,
    warn,
)
from peel_ext.data.remarks import (
    SOME_HAVE_TIMES,
    dropped_remark,
    failure_remark,
    once,
    text_remark,
)
from peel_ext.data.table_shares import Pieces, Share, deal, find_pieces
from peel_ext.data.tables import Table
from peel_ext.errors import DataError
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import agreed, count_before, gather
from peel_ext.scale.numbering import number_ids
from peel_ext.scale.shards import Route, ShardedParts
from peel_ext.scale.shared_overlap import check_shared_overlap
from peel_ext.scale.shared_overview import SharedOverview


def read_shard(
    data: Any,
    reading: ReadingConfig | None,
    ranks: Collectives,
    on_remark: Callable[[str], None] = warn,
) -> ShardedParts:
    """Reads what :func:`peel_ext.data.read_split` reads, on all ranks at the same time.

    Parquet is read by row groups and text by lines, about as many bytes on each rank; compressed text,
    text with quotes and LightGCN's by one rank a file. Frames and interactions, which every rank has
    whole, are cut.

    Args:
        data: a path, several in a list, a frame, or interactions; the same on all ranks.
        reading: how; the same on all ranks.
        ranks: the processes.
        on_remark: told by rank 0 what is not used, in a line each.

    Raises:
        DataError: on every rank: the data cannot be read or used, or ranks have other data or settings.
        TypeError: data of another kind.
    """
    reading = reading or ReadingConfig()
    tell = once(on_remark) if ranks.is_first else _ignore
    is_whole = isinstance(data, Interactions) or is_frame(data)
    _check_alike(["in memory" if is_whole else "in files"], ranks)
    if is_whole:
        with agreed(ranks):
            held = read_split(data, reading, tell)
        _check_alike([zlib.crc32(rows) for rows in _rows(held.train)], ranks)
        return ShardedParts.of(held, ranks)
    if isinstance(data, str) and data == STANDARD_INPUT:
        raise DataError("standard input cannot be read by several processes: name a file")
    with agreed(ranks):
        places = data_places(data)
        found = {name: files for name, files in find_parts(places, reading, tell).items() if files}
        pieces = {
            name: [find_pieces(file, reading) for file in files] for name, files in found.items()
        }
    _compare(found, pieces, reading, ranks)
    reader = PartReader(reading, _ignore, is_alone=False)
    num_names, columns = [], []
    for name, files in found.items():
        shares = _own_shares(files, pieces[name], reading, ranks)
        with agreed(ranks):
            part = reader.read_some(name, _open_all(shares, files, places, reading))
        if ranks.total(part.length) == 0:
            raise DataError(f"{files[0]}: no interactions")
        num_names.append((len(reader.users.names), len(reader.items.names)))
        columns += [each for own in gather(reader.columns, ranks) for each in own]
        reader.columns.clear()
    have_times = _compare_times(reader.parts, reading, ranks, tell)
    first = {name: str(files[0]) for name, files in found.items()}
    sharded = _number(reader, num_names, have_times, first, reading, ranks, tell)
    given, overview = sharded
    for name in ("test", "validation"):
        if name in given:
            check_shared_overlap(given["train"], given[name], name, overview, tell, ranks)
    return ShardedParts(GivenParts(**given, columns="; ".join(dict.fromkeys(columns))), overview)


def _ignore(remark: str) -> None:
    """Tells nobody."""


def _check_alike(found: list[Any], ranks: Collectives) -> None:
    """Raises DataError where what this rank finds of its data is not what rank 0 finds."""
    told = gather(found, ranks)
    others = [rank for rank, each in enumerate(told) if each != told[0]]
    if others:
        raise DataError(
            f"data must be the same on all ranks, got others on rank {others[0]} than on rank 0"
        )


def _rows(part: Interactions) -> list[NDArray[Any]]:
    return [np.ascontiguousarray(rows) for rows in (part.user_rows, part.item_rows)]


def _compare(
    found: dict[str, list[Path]],
    pieces: dict[str, list[Pieces]],
    reading: ReadingConfig,
    ranks: Collectives,
) -> None:
    """Raises DataError where ranks were given other files or settings than rank 0."""
    settings = dataclasses.asdict(reading)
    names = {part: [file.name for file in files] for part, files in found.items()}
    digest = hashlib.sha256(repr(pieces).encode()).hexdigest()
    told = gather([settings, names, digest], ranks)
    for rank, (others, files, content) in enumerate(told):
        for key, value in told[0][0].items():
            if others[key] != value:
                raise DataError(
                    f"{key} must be the same on all ranks, got {value!r} on rank 0 and "
                    f"{others[key]!r} on rank {rank}"
                )
        if files != told[0][1] or content != told[0][2]:
            what = ", ".join(name for each in files.values() for name in each)
            raise DataError(
                f"data must be the same on all ranks, got other files or lengths on rank {rank} "
                f"than on rank 0: {what}"
            )


def _own_shares(
    files: list[Path], pieces: list[Pieces], reading: ReadingConfig, ranks: Collectives
) -> list[Share]:
    """What this rank reads of the files of a part."""
    quoted = np.zeros(len(files), dtype=np.int32)
    with agreed(ranks):
        for share in deal(pieces, ranks.size)[ranks.rank]:
            file, kind = files[share.file], format_of(files[share.file], reading)
            is_cut = share.extent is not None and pieces[share.file].kind == "lines"
            if is_cut and share.extent is not None and kind not in (None, "jsonl"):
                quoted[share.file] = has_quoted_fields(file, kind, reading, share.extent)
    cannot = ranks.max(torch.from_numpy(quoted)).tolist()
    left = [
        dataclasses.replace(each, kind="whole") if bad else each
        for each, bad in zip(pieces, cannot, strict=True)
    ]
    return deal(left, ranks.size)[ranks.rank]


def _open_all(
    shares: list[Share], files: list[Path], places: list[Path], reading: ReadingConfig
) -> Iterator[Table]:
    for share in shares:
        yield open_table(files[share.file], places, reading, share.extent)


def _compare_times(
    parts: dict[str, Part],
    reading: ReadingConfig,
    ranks: Collectives,
    tell: Callable[[str], None],
) -> dict[str, bool]:
    """Whether each part has times: as one process finds it that reads the shares one after another.

    Raises:
        DataError: times of a column that was asked for are dates on one rank, numbers on another.
    """
    told = gather(
        [
            [part.remarks, sorted(part.have_times), part.are_dates, part.failure]
            for part in parts.values()
        ],
        ranks,
    )
    made: dict[str, bool] = {}
    seen: bool | None = None
    for at, (name, part) in enumerate(parts.items()):
        for remarks, *_ in (status[at] for status in told):
            for remark in remarks:
                tell(remark)
        made[name], have = True, set[bool]()
        for rank, (_, own, are_dates, failure) in enumerate(status[at] for status in told):
            have |= set(own)
            if made[name] and None not in (seen, are_dates) and seen != are_dates:
                first_time = part.first_time if rank == ranks.rank else None
                failure = gather(None if first_time is None else first_time(), ranks)[rank]
                if reading.timestamp_column is not None:
                    raise DataError(failure)
            elif made[name] and are_dates is not None:
                seen = are_dates
            if made[name] and failure is not None:
                tell(failure_remark(failure))
                made[name] = False
            made[name] = made[name] and False not in own
        if have == {True, False}:
            tell(SOME_HAVE_TIMES)
    return made


def _number(
    reader: PartReader,
    num_names: list[tuple[int, int]],
    have_times: dict[str, bool],
    first: dict[str, str],
    reading: ReadingConfig,
    ranks: Collectives,
    tell: Callable[[str], None],
) -> tuple[dict[str, Interactions], SharedOverview]:
    """The parts by name, on the owners of their users, with rows for ids."""
    num_dropped = ranks.total(reader.num_dropped)
    if num_dropped:
        tell(dropped_remark(num_dropped))
    of_users, of_items = zip(*num_names, strict=True)
    users, user_partition, user_rows, odd_user = number_ids(reader.users, of_users, ranks)
    items, item_partition, item_rows, odd_item = number_ids(reader.items, of_items, ranks)
    for what, odd in (("users", odd_user), ("items", odd_item)):
        if odd is not None:
            tell(text_remark(what, odd))
    lengths = [part.length for part in reader.parts.values()]
    rows = zip(_cut(user_rows, lengths), _cut(item_rows, lengths), strict=True)
    del user_rows, item_rows
    made: dict[str, Interactions] = {}
    counts: dict[str, NDArray[np.bool_]] = {}
    start = 0
    for name, part in reader.parts.items():
        before, size = count_before(part.length, ranks)
        own_users, own_items = next(rows)
        route = Route(own_users, user_partition, ranks)
        own_users = route.send(own_users)
        own_users -= own_users.dtype.type(user_partition.start(ranks.rank))
        own_items = route.send(own_items)
        times = _send(part.times if have_times[name] else None, route)
        weights = _send(part.weights if reading.weight_column is not None else None, route)
        made[name] = Interactions(
            own_users, own_items, times, users, RowsElsewhere(item_partition.size), weights,
            route.send_places(start + before),
        )  # fmt: skip
        start += size
        if reading.min_rating is not None:
            held = np.concatenate([*part.counts, np.zeros(0, dtype=bool)])
            counts[name] = route.send(held.view(np.uint8)).view(bool)
    overview = SharedOverview(items, item_partition, ranks)
    if reading.min_rating is not None:
        made = drop_low(made, counts, first, reading.min_rating, tell, overview)
    return made, overview


def _cut(rows: NDArray[np.int32], lengths: list[int]) -> Iterator[NDArray[np.int32]]:
    """Runs of an array, of which the last one to be used lets it go."""
    for start, length in zip(np.cumsum([0, *lengths]).tolist(), lengths, strict=False):
        yield rows[start : start + length]


def _send(pieces: list[NDArray[np.float64]] | None, route: Route) -> NDArray[np.float64] | None:
    """All pieces in order, taken apart, by their way; None for none."""
    return None if pieces is None else route.send(join_pieces(pieces))
