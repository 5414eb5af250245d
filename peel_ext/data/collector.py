"""Ids that come in pieces, turned into rows without ever holding an object for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.ids import CodedStrings
from peel_ext.data.interactions import IdMap
from peel_ext.errors import DataError

#: Distinct integers of recent pieces are put together when there are so many more than before.
_MERGE_AT = 1 << 20

#: The largest table that finds the row of an integer, in entries of four bytes.
_MAX_SPAN = 1 << 26

#: An integer as it is written, or a whole float, which programs make of one.
_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})(?:\.0*)?")


class IdCollector:
    """Collects one column of ids, integers and strings.

    Strings of text files whose every one is a plain integer ("7", not "007") or a whole float ("7.0")
    become integers; where some are not, or come with a type that says string, integers become strings.
    """

    def __init__(self) -> None:
        self._pieces: list[NDArray[Any]] = []
        self._are_codes: list[bool] = []
        self._code_of: dict[str, int] = {}
        self._are_strings = False  # whether some came typed so
        self.odd: str | None = None  # one that makes text of many integers, once finished
        self._distinct = np.zeros(0, np.int64)
        self._recent: list[NDArray[np.int64]] = []

    def add_integers(self, ids: NDArray[Any]) -> None:
        """Adds integers [m] of any width.

        Raises:
            DataError: one that does not fit in 64 bits with a sign.
        """
        if ids.dtype == np.uint64 and ids.size and int(ids.max()) >= 1 << 63:
            raise DataError(f"ids must be below 2^63, got {int(ids.max())}")
        if ids.dtype == np.uint64:  # which NumPy compares with others as floats
            ids = ids.astype(np.int64)
        self._pieces.append(ids)
        self._are_codes.append(False)
        self._recent.append(sort_distinct(ids).astype(np.int64))
        if sum(map(len, self._recent)) > len(self._distinct) + _MERGE_AT:
            self._merge()

    def add_strings(self, ids: CodedStrings) -> None:
        """Adds strings [m]; those of text files may mean integers."""
        self._are_strings = self._are_strings or (ids.typed and len(ids) > 0)
        own = np.zeros(len(ids.names), dtype=np.int32)
        for code in sort_distinct(ids.codes).tolist():
            own[code] = self._code_of.setdefault(ids.names[code], len(self._code_of))
        self._pieces.append(own[ids.codes])
        self._are_codes.append(True)

    @property
    def integers(self) -> NDArray[np.int64]:
        """The distinct ids that came as integers, ascending."""
        self._merge()
        return self._distinct

    @property
    def names(self) -> list[str]:
        """The distinct ids that came as strings, in the order they first came."""
        return list(self._code_of)

    @property
    def are_strings(self) -> bool:
        """True if some came with the type of strings, and so are never integers."""
        return self._are_strings

    def values_of_names(self) -> NDArray[np.int64] | None:
        """The integers that :attr:`names` mean where all are text for such, else None."""
        return None if self._are_strings else _integers(self.names)

    def odd_names(self, are_strings: bool) -> list[str]:
        """Those of :attr:`names` that mean no integer: all, where some are strings by their type."""
        return [name for name in self.names if are_strings or not _INTEGER.fullmatch(name)]

    def finish(self) -> tuple[IdMap, NDArray[np.int32]]:
        """The map of the distinct ids, and the row of every id in the order they were added.

        Takes the pieces apart to save memory, so it can be called once.
        """
        integers, names = self.integers, self.names
        values = self.values_of_names()
        if values is not None:
            ids: NDArray[Any] = sort_distinct(np.concatenate([integers, values]))
            of_code = np.searchsorted(ids, values)
            of_integer = np.searchsorted(ids, integers)
        else:
            texts = [*names, *map(str, integers.tolist())]
            odd = self.odd_names(self._are_strings)
            if are_few(len(odd), len(texts)):
                self.odd = odd[0]
            distinct = sorted(set(texts))
            row_of = {name: row for row, name in enumerate(distinct)}
            rows = np.array([row_of[text] for text in texts], dtype=np.int64)
            of_code, of_integer = rows[: len(names)], rows[len(names) :]
            ids = np.empty(len(distinct), dtype=object)
            ids[:] = distinct
        return IdMap(ids), self.take_rows(of_integer, of_code)

    def _merge(self) -> None:
        self._distinct = sort_distinct(np.concatenate([self._distinct, *self._recent]))
        self._recent = []

    def take_rows(
        self, of_integer: NDArray[np.int64], of_code: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """The row of every id [m] in the order they were added; takes the pieces apart, so once.

        Args:
            of_integer: rows of :attr:`integers`.
            of_code: rows of :attr:`names`.
        """
        integers = self._distinct
        rows = np.empty(sum(map(len, self._pieces)), dtype=np.int32)
        find = _row_finder(integers, of_integer, len(rows))
        start = 0
        self._pieces.reverse()
        for is_code in self._are_codes:
            piece = self._pieces.pop()  # freed as its rows are made
            place = rows[start : start + len(piece)]
            if is_code:
                place[:] = of_code[piece]
            else:
                place[:] = find(piece)
            start += len(piece)
        return rows


def are_few(num_odd: int, num_all: int) -> bool:
    """True if so few of the distinct ids mean no integer that it is worth a remark."""
    return 0 < num_odd <= num_all // 10


def _row_finder(
    integers: NDArray[np.int64], rows: NDArray[np.int64], count: int
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Finds the rows of integers, ``count`` in all: in a table where they lie close together."""
    least = int(integers[0]) if len(integers) else 0
    span = int(integers[-1]) - least + 1 if len(integers) else 0
    if span > min(8 * count, _MAX_SPAN):
        return lambda piece: rows[np.searchsorted(integers, piece)]
    row_of = np.zeros(span, dtype=np.int32)
    row_of[integers - least] = rows
    return lambda piece: row_of[piece.astype(np.int64) - least]


def _integers(names: list[str]) -> NDArray[np.int64] | None:
    """What names mean, if all are integers of 64 bits with a sign."""
    found = [_INTEGER.fullmatch(name) for name in names]
    if not all(found):
        return None
    values = [int(match[1]) for match in found if match is not None]
    if values and not -(1 << 63) <= min(values) <= max(values) < 1 << 63:
        return None
    return np.array(values, dtype=np.int64)


def sort_distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Each value once, ascending, by sorting: np.unique hashes, and is slow with millions."""
    ordered = np.sort(values)
    is_first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]
