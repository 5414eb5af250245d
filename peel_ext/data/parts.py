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
from peel_ext.data.tables import Table
from peel_ext.data.values import ValueReadingError, read_numbers, read_times, unify_text
from peel_ext.errors import DataError

_Read = TypeVar("_Read")


@dataclass
class _Part:
    """What is known of the interactions of one part, piece by piece."""

    length: int = 0
    times: list[NDArray[np.float64]] | None = field(default_factory=list)  # None: not for all
    have_times: set[bool] = field(default_factory=set)  # of the tables so far
    weights: list[NDArray[np.float64]] = field(default_factory=list)
    counts: list[NDArray[np.bool_]] = field(default_factory=list)  # rated so much or more


class PartReader:
    """Reads parts one after another; ids of all of them are collected together.

    Args:
        reading: how.
        on_remark: told what is not used.
    """

    def __init__(self, reading: ReadingConfig, on_remark: Callable[[str], None]) -> None:
        self._reading = reading
        self._on_remark = on_remark
        self._users, self._items = IdCollector(), IdCollector()
        self._parts: dict[str, _Part] = {}
        self._first: dict[str, str] = {}  # table of each part, by name
        self._are_dates: set[bool] = set()  # of the times so far
        self._num_dropped = 0
        self._columns: list[str] = []

    @property
    def columns(self) -> str:
        """Names of the columns read, of every table that has others than those before."""
        return "; ".join(dict.fromkeys(self._columns))

    def read(self, name: str, tables: Iterable[Table]) -> None:
        """Reads the tables of a part.

        Raises:
            DataError: one cannot be read or used, or all are empty.
        """
        part = self._parts[name] = _Part()
        for table in tables:
            self._first.setdefault(name, table.name)
            try:
                self._read_table(part, table)
            except OSError as error:
                raise DataError(
                    f"{table.name}: cannot be read: {error.strerror or error}"
                ) from error
            except DataError as error:
                raise _named(error, table.name) from None
        if part.length == 0:
            raise DataError(f"{self._first[name]}: no interactions")

    def finish(self) -> dict[str, Interactions]:
        """The parts by name, and ``"below"`` where some are rated below what counts; once only."""
        if self._num_dropped:
            self._on_remark(f"{self._num_dropped:,} rows with a missing id are left out")
        user_map, user_rows = self._users.finish()
        item_map, item_rows = self._items.finish()
        for what, collector in (("users", self._users), ("items", self._items)):
            if collector.odd is not None:
                self._on_remark(f"ids of {what} are text: {collector.odd!r} is, most are integers")
        made: dict[str, Interactions] = {}
        start = 0
        for name, part in self._parts.items():
            own = slice(start, start + part.length)
            start += part.length
            times = _join(part.times) if part.times else None
            weights = _join(part.weights) if part.weights else None
            made[name] = Interactions(
                user_rows[own], item_rows[own], times, user_map, item_map, weights
            )
        return made if self._reading.min_rating is None else self._without_low(made)

    def _without_low(self, made: dict[str, Interactions]) -> dict[str, Interactions]:
        """The parts without what is rated too low, which becomes a part of its own."""
        counts = {name: np.concatenate(part.counts) for name, part in self._parts.items()}
        kept = {name: whole.select(counts[name]) for name, whole in made.items()}
        below = Interactions.joined([whole.select(~counts[name]) for name, whole in made.items()])
        for name, part in kept.items():
            if len(part) == 0:
                raise DataError(
                    f"{self._first[name]}: no interaction is rated {self._reading.min_rating:g} or more"
                )
        self._on_remark(
            f"{len(below):,} of {sum(map(len, counts.values())):,} interactions are rated below "
            f"{self._reading.min_rating:g}: not trained on, and not recommended"
        )
        users, items = (
            np.unique(np.concatenate([each(part) for part in kept.values()]))
            for each in (Interactions.users_with_any, Interactions.items_with_any)
        )
        return {
            name: part.restrict(users, items) for name, part in {**kept, "below": below}.items()
        }

    def _read_table(self, part: _Part, table: Table) -> None:
        columns = find_columns(table.name, table.header, self._reading)
        for remark in columns.remarks():
            self._on_remark(remark)
        part.have_times.add(columns.timestamp is not None)
        if part.have_times == {True, False}:
            self._on_remark("times are not used: only some of the files have them")
        if columns.timestamp is None:
            part.times = None
        self._columns.append("|".join(table.header[at] for at in columns.read))
        start = 0
        for batch in table.batches(columns.read):
            try:
                self._read_batch(part, table, columns, batch, start)
            except ValueReadingError as error:
                raise DataError(f"{table.place(start + error.row)}: {error.message}") from None
            start += len(batch)

    def _read_batch(
        self, part: _Part, table: Table, columns: Columns, batch: Any, start: int
    ) -> None:
        values = dict(zip(columns.read, map(unify_text, batch.columns), strict=True))
        keep = np.ones(len(batch), dtype=bool)
        ids: list[Ids] = []
        for at in (columns.user, columns.item):
            found, missing = self._read_ids(table, at, values[at])
            ids.append(found)
            keep &= ~missing
        whole = bool(keep.all())
        self._num_dropped += 0 if whole else int((~keep).sum())
        # Rows that are dropped may hold anything in other columns.
        chosen = {at: column if whole else column.filter(keep) for at, column in values.items()}
        try:
            times = self._read_times(part, table, columns, chosen, keep)
        except ValueReadingError as error:
            if self._reading.timestamp_column is not None:
                raise
            place = table.place(start + error.row)
            self._on_remark(f"{place}: {error.message}; times are not used")
            times = part.times = None
        for collector, found in zip((self._users, self._items), ids, strict=True):
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
        part: _Part,
        table: Table,
        columns: Columns,
        values: dict[int, Any],
        keep: NDArray[np.bool_],
    ) -> NDArray[np.float64] | None:
        at = columns.timestamp
        if at is None or part.times is None:
            return None
        times, are_dates = _named_column(table, at, keep, lambda: read_times(values[at]))
        if len(times):
            self._are_dates.add(are_dates)
        if len(self._are_dates) > 1:
            self._are_dates.discard(are_dates)
            raise ValueReadingError(
                0, f"column {table.header[at]}: some times are dates and some are numbers"
            )
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


def _join(pieces: list[NDArray[np.float64]]) -> NDArray[np.float64]:
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
