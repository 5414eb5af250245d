"""Ids that come in pieces, turned into rows without ever holding an object for each."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.interactions import IdMap
from peel_ext.errors import DataError

#: Distinct integers of recent pieces are put together when there are so many more than before.
_MERGE_AT = 1 << 20

_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class IdCollector:
    """Collects one column of ids, integers and strings.

    Strings of text files whose every one is a plain integer ("7", not "007") become integers; where
    some are not, or come with a type that says string, integers become strings.
    """

    def __init__(self) -> None:
        self._pieces: list[NDArray[Any]] = []
        self._are_codes: list[bool] = []
        self._code_of: dict[str, int] = {}
        self._are_strings = False  # whether some came typed so
        self._distinct = np.zeros(0, np.int64)
        self._recent: list[NDArray[np.int64]] = []

    def add_integers(self, ids: NDArray[Any]) -> None:
        """Adds integers [m] of any width.

        Raises:
            DataError: one that does not fit in 64 bits with a sign.
        """
        if ids.dtype == np.uint64 and ids.size and int(ids.max()) >= 1 << 63:
            raise DataError(f"ids must be below 2^63, got {int(ids.max())}")
        self._pieces.append(ids)
        self._are_codes.append(False)
        self._recent.append(_distinct(ids).astype(np.int64))
        if sum(map(len, self._recent)) > len(self._distinct) + _MERGE_AT:
            self._merge()

    def add_strings(self, ids: list[str]) -> None:
        """Adds strings [m] that may mean integers."""
        code_of = self._code_of
        codes = [code_of.setdefault(name, len(code_of)) for name in ids]
        self._pieces.append(np.array(codes, dtype=np.int32))
        self._are_codes.append(True)

    def add_coded_strings(self, codes: NDArray[Any], names: list[str]) -> None:
        """Adds what is known to be strings, ``names[codes]``; not every name need occur."""
        self._are_strings = self._are_strings or len(codes) > 0
        own = np.zeros(len(names), dtype=np.int32)
        for code in _distinct(codes).tolist():
            own[code] = self._code_of.setdefault(names[code], len(self._code_of))
        self._pieces.append(own[codes])
        self._are_codes.append(True)

    def finish(self) -> tuple[IdMap, NDArray[np.int32]]:
        """The map of the distinct ids, and the row of every id in the order they were added.

        Takes the pieces apart to save memory, so it can be called once.
        """
        self._merge()
        integers = self._distinct
        names = list(self._code_of)
        if not self._are_strings and all(map(_PLAIN_INTEGER.fullmatch, names)):
            values = np.array(names, dtype=np.int64)
            ids: NDArray[Any] = _distinct(np.concatenate([integers, values]))
            of_code = np.searchsorted(ids, values)
            of_integer = np.searchsorted(ids, integers)
        else:
            texts = [*names, *map(str, integers.tolist())]
            distinct = sorted(set(texts))
            row_of = {name: row for row, name in enumerate(distinct)}
            rows = np.array([row_of[text] for text in texts], dtype=np.int64)
            of_code, of_integer = rows[: len(names)], rows[len(names) :]
            ids = np.empty(len(distinct), dtype=object)
            ids[:] = distinct
        return IdMap(ids), self._rows(integers, of_code, of_integer)

    def _merge(self) -> None:
        self._distinct = _distinct(np.concatenate([self._distinct, *self._recent]))
        self._recent = []

    def _rows(
        self,
        integers: NDArray[np.int64],
        of_code: NDArray[np.int64],
        of_integer: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        rows = np.empty(sum(map(len, self._pieces)), dtype=np.int32)
        start = 0
        self._pieces.reverse()
        for is_code in self._are_codes:
            piece = self._pieces.pop()  # freed as its rows are made
            place = rows[start : start + len(piece)]
            if is_code:
                place[:] = of_code[piece]
            else:
                place[:] = of_integer[np.searchsorted(integers, piece)]
            start += len(piece)
        return rows


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Each value once, ascending, by sorting: np.unique hashes, and is slow with millions."""
    ordered = np.sort(values)
    is_first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]
