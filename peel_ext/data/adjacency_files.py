"""LightGCN's text: a user and all its items on each line, between blanks. It is no table, so its lines
are read here and not by pyarrow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peel_ext.data.columns import ITEM_NAMES, USER_NAMES, find_usual
from peel_ext.data.tables import Table, open_bytes, require_pyarrow
from peel_ext.errors import DataError

#: Interactions in a record batch.
_BATCH_ROWS = 1 << 18


def open_adjacency(file: Path, encoding: str) -> Table:
    """A table of a file of LightGCN; a user without items has no interactions."""
    require_pyarrow()

    def batches(positions: list[int]) -> Iterator[Any]:
        import pyarrow

        checks = _Shape(file)
        pair: tuple[list[str], list[str]] = ([], [])
        for user, items in checks.watch(_lines(file, encoding)):
            pair[0].extend([user] * len(items))
            pair[1].extend(items)
            if len(pair[0]) >= _BATCH_ROWS:
                yield pyarrow.record_batch([pair[at] for at in positions], names=["0", "1"])
                pair = ([], [])
        checks.finish()
        if pair[0]:
            yield pyarrow.record_batch([pair[at] for at in positions], names=["0", "1"])

    def place(row: int) -> str:
        for number, _, items in _lines(file, encoding):
            row -= len(items)
            if row < 0:
                return f"{file}:{number}"
        return str(file)

    return Table(str(file), ["user_id", "item_id"], batches, place, lambda name: name)


def _lines(file: Path, encoding: str) -> Iterator[tuple[int, str, list[str]]]:
    """Number, user and items of every line that has a user."""
    with open_bytes(file) as stream:
        held = b""
        number = 0
        while True:
            data = stream.read(1 << 20)
            *lines, held = (held + data).split(b"\n")
            for raw in lines if data else [held]:
                number += 1
                fields = _fields(file, number, raw, encoding)
                if fields:
                    yield number, fields[0], fields[1:]
            if not data:
                return


def _fields(file: Path, number: int, raw: bytes, encoding: str) -> list[str]:
    try:
        line = raw.decode(encoding).removeprefix("\ufeff" if number == 1 else "")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}:{number}: not {encoding.upper()}: {error.reason}; name another encoding "
            "(--encoding, encoding)"
        ) from None
    line = line.rstrip("\r")
    if "\r" in line:
        raise DataError(f"{file}:{number}: holds a carriage return that ends no line")
    # What else Unicode takes for a space may be part of an id.
    return [part for part in re.split("[ \t]", line) if part]


class _Shape:
    """Whether lines look like another format: that would be read without an error, and wrong."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._widths: Counter[int] = Counter()
        self._users: set[str] = set()
        self._num_lines = 0
        self._num_separated = 0
        self._is_header = False  # the first line, if those after it are all numbers
        self._has_names = False  # in the first line, of columns of users and items
        self._all_numbers = True  # all lines but the first

    def watch(self, lines: Iterator[tuple[int, str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
        """The users and items of lines, looked at on the way."""
        for _, user, items in lines:
            fields = [user, *items]
            self._num_lines += 1
            self._num_separated += any(re.search("[,;|]|::", field) is not None for field in fields)
            if self._num_lines == 1:
                self._is_header = not any(map(_is_number, fields))
                self._has_names = (
                    find_usual(fields[:1], USER_NAMES) is not None
                    and find_usual(fields[1:2], ITEM_NAMES) is not None
                )
            elif self._all_numbers:
                self._all_numbers = all(map(_is_number, fields))
            self._widths[len(fields)] += 1
            self._users.add(user)
            yield user, items

    def finish(self) -> None:
        """Raises DataError where all lines together look like another format."""
        width, count = max(self._widths.items(), key=lambda each: each[1], default=(0, 0))
        repeated = self._num_lines > len(self._users)
        if self._num_lines and self._num_separated == self._num_lines:
            found = "every line has commas or other separators"
        elif width >= 3 and 3 * count >= 2 * self._num_lines and repeated:
            most = "every line has" if count == self._num_lines else "most lines have"
            found = f"{most} {width} fields, and users come on several lines"
        elif self._has_names or (self._num_lines > 1 and self._is_header and self._all_numbers):
            found = "the first line looks like a header"
        else:
            return
        raise DataError(
            f"{self._file}: a .txt file is taken for LightGCN's, a user and all its items on each "
            f"line, but {found}; read it as a table with --separator, and --no-header if it has none "
            "(separator=, header=)"
        )


def _is_number(field: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", field) is not None
