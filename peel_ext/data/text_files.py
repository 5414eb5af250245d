"""Interactions in text: csv, tsv, RecBole's atomic files, LightGCN's and MovieLens's."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from peel_ext.data.pieces import PIECE_ROWS, ColumnNames, Piece, find_columns
from peel_ext.errors import DataError


def read_table(file: Path, names: ColumnNames) -> Iterator[Piece]:
    """Pieces of a file with a header line: ``.csv``, ``.tsv`` or ``.inter``.

    Raises:
        DataError: it cannot be used; names the line where there is one.
    """
    lines = _decoded_lines(file)
    if file.suffix == ".csv":
        reader = csv.reader(lines, strict=True)
    else:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{file}: empty, expected a header line")
        if file.suffix == ".inter":
            header = [name.rpartition(":")[0] or name for name in header]
        places = find_columns(file, header, names)
        rows = ((reader.line_num, fields) for fields in reader if fields)
        yield from _pieces(file, rows, len(header), *places)
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: {error}") from None


def read_movielens(file: Path) -> Iterator[Piece]:
    """Pieces of a ``.dat`` file of MovieLens: ``user::item::rating::timestamp``, without a header.

    Raises:
        DataError: as :func:`read_table`.
    """
    lines = enumerate(_decoded_lines(file), start=1)
    split = ((number, text.rstrip("\r\n").split("::")) for number, text in lines)
    yield from _pieces(file, ((at, fields) for at, fields in split if fields != [""]), 4, 0, 1, 3)


def read_adjacency(file: Path) -> Iterator[Piece]:
    """Pieces of a ``.txt`` file of LightGCN: a user and its items on each line, between spaces.

    A user without items has no interactions.

    Raises:
        DataError: as :func:`read_table`.
    """
    users: list[str] = []
    items: list[str] = []
    for number, text in enumerate(_decoded_lines(file), start=1):
        line = text.rstrip("\r\n")
        if "\r" in line:
            raise DataError(f"{file}:{number}: holds a carriage return that ends no line")
        # What else Unicode takes for a space may be part of an id.
        user, *theirs = [part for part in re.split("[ \t]", line) if part] or [""]
        users.extend([user] * len(theirs))
        items.extend(theirs)
        if len(users) >= PIECE_ROWS:
            yield Piece(users, items, None)
            users, items = [], []
    yield Piece(users, items, None)


def _decoded_lines(file: Path) -> Iterator[str]:
    """Lines of a UTF-8 file; an undecodable one is named."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{file}:{number}: not UTF-8: {error.reason}") from None
            if "\0" in text:
                raise DataError(f"{file}:{number}: holds a zero byte")
            yield text


def _pieces(
    file: Path,
    rows: Iterator[tuple[int, list[str]]],
    width: int,
    user_at: int,
    item_at: int,
    time_at: int | None,
) -> Iterator[Piece]:
    users: list[str] = []
    items: list[str] = []
    times: list[float] = []

    def piece() -> Piece:
        return Piece(users, items, np.array(times) if time_at is not None else None)

    for number, fields in rows:
        if len(fields) != width:
            raise DataError(f"{file}:{number}: expected {width} fields, got {len(fields)}")
        user, item = fields[user_at], fields[item_at]
        if not user or not item:
            raise DataError(f"{file}:{number}: empty {'item' if user else 'user'} id")
        users.append(user)
        items.append(item)
        if time_at is not None:
            times.append(_parse_time(file, number, fields[time_at]))
        if len(users) == PIECE_ROWS:
            yield piece()
            users, items, times = [], [], []
    yield piece()


def _parse_time(file: Path, number: int, text: str) -> float:
    try:
        value = math.nan if "_" in text else float(text)  # which would take "1_0"
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}:{number}: timestamp {text!r} is not a finite number")
    return value
