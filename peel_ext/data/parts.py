"""Tables that belong together, such as train and test, read to interactions with common id maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ReadingConfig
from peel_ext.data.collector import IdCollector
from peel_ext.data.columns import Columns, find_columns
from peel_ext.data.ids import CodedStrings, Ids, read_ids
from peel_ext.data.interactions import Interactions
from peel_ext.data.ratings import drop_low
from peel_ext.data.remarks import (
    SOME_HAVE_TIMES,
    dropped_remark,
    failure_remark,
    mixed_times,
    text_remark,
)
from peel_ext.data.tables import Table
from peel_ext.data.values import ValueReadingError, read_numbers, read_times, unify_text
from peel_ext.errors import DataError

_Read = TypeVar("_Read")


@dataclass
class Part:
    """The interactions of one part, piece by piece, without their ids.

    Attributes:
        name: name of its first table, empty before that.
        length: interactions so far.
        times: times of the interactions; None where not all have one.
        have_times: whether tables so far have times.
        are_dates: whether the times are of dates, None before the first.
        first_time: tells where the first time stands, with its column.
        failure: why times are not used, where one could not be read.
        weights: weights of the interactions.
        counts: whether each is rated so much or more that it counts.
        remarks: on columns that are not used.
    """

    name: str = ""
    length: int = 0
    times: list[NDArray[np.float64]] | None = field(default_factory=list)
    have_times: set[bool] = field(default_factory=set)
    are_dates: bool | None = None
    first_time: Callable[[], str] | None = None
    failure: str | None = None
    weights: list[NDArray[np.float64]] = field(default_factory=list)
    counts: list[NDArray[np.bool_]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class PartReader:
    """Reads parts one after another; ids of all of them are collected together.

    Args:
        reading: how.
        on_remark: told what is not used.
        is_alone: whether no other process reads a share of the same parts. Where some do, it is for
            them to compare whether the times of all are dates.

    Attributes:
        users: ids of users so far.
        items: ids of items so far.
        parts: what else was read, by the name of the part.
        columns: names of the columns read, of every table so far.
        num_dropped: rows left out for want of an id, so far.
    """

    def __init__(
        self,
        reading: ReadingConfig,
        on_remark: Callable[[str], None],
        is_alone: bool = True,
    ) -> None:
        self._is_alone = is_alone
        self._reading = reading
        self._on_remark = on_remark
        self.users, self.items = IdCollector(), IdCollector()
        self.parts: dict[str, Part] = {}
        self.columns: list[str] = []
        self.num_dropped = 0

    def read(self, name: str, tables: Iterable[Table]) -> None:
        """Reads the tables of a part.

        Raises:
            DataError: one cannot be read or used, or all are empty.
        """
        part = self.read_some(name, tables)
        if part.length == 0:
            raise DataError(f"{part.name}: no interactions")

    def read_some(self, name: str, tables: Iterable[Table]) -> Part:
        """The same where there may be none.

        Raises:
            DataError: one cannot be read or used.
        """
        part = self.parts[name] = Part()
        for table in tables:
            part.name = part.name or table.name
            try:
                self._read_table(part, table)
            except OSError as error:
                raise DataError(
                    f"{table.name}: cannot be read: {error.strerror or error}"
                ) from error
            except DataError as error:
                raise _named(error, table.name) from None
        return part

    def finish(self) -> dict[str, Interactions]:
        """The parts by name, and ``"below"`` where some are rated below what counts; once only."""
        if self.num_dropped:
            self._on_remark(dropped_remark(self.num_dropped))
        user_map, user_rows = self.users.finish()
        item_map, item_rows = self.items.finish()
        for what, collector in (("users", self.users), ("items", self.items)):
            if collector.odd is not None:
                self._on_remark(text_remark(what, collector.odd))
        made: dict[str, Interactions] = {}
        start = 0
        for name, part in self.parts.items():
            own = slice(start, start + part.length)
            start += part.length
            times = join_pieces(part.times) if part.times else None
            weights = join_pieces(part.weights) if part.weights else None
            made[name] = Interactions(
                user_rows[own], item_rows[own], times, user_map, item_map, weights
            )
        if self._reading.min_rating is None:
            return made
        counts = {name: np.concatenate(part.counts) for name, part in self.parts.items()}
        first = {name: part.name for name, part in self.parts.items()}
        return drop_low(made, counts, first, self._reading.min_rating, self._on_remark)

    def _read_table(self, part: Part, table: Table) -> None:
        columns = find_columns(table.name, table.header, self._reading)
        for remark in columns.remarks():
            part.remarks.append(remark)
            self._on_remark(remark)
        part.have_times.add(columns.timestamp is not None)
        if part.have_times == {True, False}:
            self._on_remark(SOME_HAVE_TIMES)
        if columns.timestamp is None:
            part.times = None
        self.columns.append("|".join(table.header[at] for at in columns.read))
        start = 0
        for batch in table.batches(columns.read):
            try:
                self._read_batch(part, table, columns, batch, start)
            except ValueReadingError as error:
                raise DataError(f"{table.place(start + error.row)}: {error.message}") from None
            start += len(batch)

    def _read_batch(
        self, part: Part, table: Table, columns: Columns, batch: Any, start: int
    ) -> None:
        values = dict(zip(columns.read, map(unify_text, batch.columns), strict=True))
        keep = np.ones(len(batch), dtype=bool)
        ids: list[Ids] = []
        for at in (columns.user, columns.item):
            found, missing = self._read_ids(table, at, values[at])
            ids.append(found)
            keep &= ~missing
        whole = bool(keep.all())
        self.num_dropped += 0 if whole else int((~keep).sum())
        # Rows that are dropped may hold anything in other columns.
        chosen = {at: column if whole else column.filter(keep) for at, column in values.items()}
        try:
            times = self._read_times(part, table, columns, chosen, keep, start)
        except ValueReadingError as error:
            if self._reading.timestamp_column is not None:
                raise
            part.failure = f"{table.place(start + error.row)}: {error.message}"
            self._on_remark(failure_remark(part.failure))
            times = part.times = None
        for collector, found in zip((self.users, self.items), ids, strict=True):
            selected = found if whole else _select(found, keep)
            if isinstance(selected, CodedStrings):
                collector.add_strings(selected)
            else:
                collector.add_integers(selected)
        part.length += int(keep.sum())
        if times is not None and part.times is not None:
            part.times.append(times)
        counts = np.ones(int(keep.sum()), dtype=bool)
        if columns.rating is not None and self._reading.min_rating is not None:
            counts = _read(table, columns.rating, chosen, keep) >= self._reading.min_rating
            part.counts.append(counts)
        if columns.weight is not None:
            part.weights.append(_read_weights(table, columns.weight, chosen, keep, counts))

    def _read_ids(self, table: Table, at: int, column: Any) -> tuple[Ids, NDArray[np.bool_]]:
        name = table.header[at]
        policy = self._reading.missing
        try:
            ids, missing = read_ids(column, table.tidy, policy == "keep")
        except ValueReadingError as error:
            raise ValueReadingError(error.row, f"column {name} {error.message}") from None
        if missing.any() and policy != "drop":
            row = int(np.argmax(missing))
            raise ValueReadingError(
                row,
                f"column {name} holds {column[row].as_py()!r}, a missing id: --missing drop "
                "(missing='drop') leaves such rows out, keep takes such words as ids",
            )
        return ids, missing

    def _read_times(
        self,
        part: Part,
        table: Table,
        columns: Columns,
        values: dict[int, Any],
        keep: NDArray[np.bool_],
        start: int,
    ) -> NDArray[np.float64] | None:
        at = columns.timestamp
        if at is None or part.times is None:
            return None
        times, are_dates = _named_column(table, at, keep, lambda: read_times(values[at]))
        if len(times):
            others = self.parts.values() if self._is_alone else [part]
            if not {each.are_dates for each in others} <= {None, are_dates}:
                raise ValueReadingError(0, mixed_times(table.header[at]))
            if part.are_dates is None:
                part.are_dates = are_dates
                name = table.header[at]
                part.first_time = lambda: f"{table.place(start)}: {mixed_times(name)}"
        return times


def _read(
    table: Table, at: int, values: dict[int, Any], keep: NDArray[np.bool_]
) -> NDArray[np.float64]:
    return _named_column(table, at, keep, lambda: read_numbers(values[at], "numbers"))


def _read_weights(
    table: Table,
    at: int,
    values: dict[int, Any],
    keep: NDArray[np.bool_],
    counts: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Weights of the rows kept; 1 of those that do not count."""
    rows = np.flatnonzero(keep)[counts]
    weights = np.ones(len(counts))
    counted = np.zeros(len(keep), dtype=bool)
    counted[rows] = True
    own = values if counts.all() else {at: values[at].filter(counts)}
    weights[counts] = _read(table, at, own, counted)
    if len(weights) and weights.min() <= 0:
        row = int(np.argmin(weights > 0))
        raise ValueReadingError(
            int(np.flatnonzero(keep)[row]),
            f"column {table.header[at]} holds {weights[row]:g}, expected weights above 0; "
            "--min-rating with --rating-column leaves rows of less out",
        )
    return weights


def _named_column(
    table: Table, at: int, keep: NDArray[np.bool_], read: Callable[[], _Read]
) -> _Read:
    """What is read of the rows kept; errors name the column and the row among all."""
    try:
        return read()
    except ValueReadingError as error:
        kept = np.flatnonzero(keep)
        row = int(kept[error.row]) if error.row < len(kept) else error.row
        raise ValueReadingError(row, f"column {table.header[at]}: {error.message}") from None


def join_pieces(pieces: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """All pieces in order; takes them apart, so that no two copies are ever whole."""
    joined = np.empty(sum(map(len, pieces)))
    start = 0
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        joined[start : start + len(piece)] = piece
        start += len(piece)
    return joined


def _select(ids: Ids, keep: NDArray[np.bool_]) -> Ids:
    return ids.select(keep) if isinstance(ids, CodedStrings) else ids[keep]


def _named(error: DataError, name: str) -> DataError:
    return error if str(error).startswith(name) else DataError(f"{name}: {error}")
