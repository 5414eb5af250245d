"""Names of items, to show beside their ids."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ReadingConfig
from peel_ext.data.collector import IdCollector
from peel_ext.data.columns import ITEM_NAMES, find_usual
from peel_ext.data.folders import format_of
from peel_ext.data.ids import CodedStrings, Ids, read_ids
from peel_ext.data.interactions import IdMap
from peel_ext.data.readers import open_table, warn
from peel_ext.data.tables import Table
from peel_ext.data.values import ValueReadingError, unify_text
from peel_ext.errors import DataError

#: Usual names of the column with names, in order of preference.
_TITLES = (
    "title", "movietitle", "name", "itemname", "itemtitle", "productname", "producttitle",
    "booktitle", "artistname", "trackname", "songname", "gamename", "animename",
)  # fmt: skip


def read_item_names(
    source: str | os.PathLike[str],
    items: IdMap,
    on_remark: Callable[[str], None] = warn,
) -> list[str | None]:
    """The name of every item, or None where the file has none.

    Args:
        source: a file of any format that interactions may have, or RecBole's ``.item``, with a column
            of ids and one of names; ``"movies.csv:title"`` says which. Text that is not UTF-8 is taken
            for Latin-1.
        items: the items.
        on_remark: told how many have no name.

    Raises:
        DataError: the file cannot be read, has no such columns, or names none of the items.
    """
    file, column = _part(os.fspath(source))
    try:
        ids, names = _read(file, column, "utf-8")
    except DataError as error:
        if "UTF-8" not in str(error):
            raise
        ids, names = _read(file, column, "latin-1")
    wanted = {str(each): row for row, each in enumerate(items.ids.tolist())}
    found: list[str | None] = [None] * len(items)
    for each, name in zip(ids, names, strict=True):
        row = wanted.get(str(each))
        if row is not None and found[row] is None:
            found[row] = name
    num_named = sum(name is not None for name in found)
    if num_named == 0:
        raise DataError(
            f"{file}: names none of the {len(items)} items: it has ids such as "
            f"{ids[0] if ids else None!r}, the interactions such as {items.to_ids([0])[0]!r}"
        )
    if num_named < len(items):
        on_remark(f"{file}: names {num_named:,} of {len(items):,} items")
    return found


def _part(source: str) -> tuple[Path, str | None]:
    """A file and maybe a column of ``FILE:COLUMN``."""
    file, colon, column = source.rpartition(":")
    if colon and not Path(source).exists():
        return Path(file), column
    return Path(source), None


def _read(file: Path, column: str | None, encoding: str) -> tuple[list[Any], list[str | None]]:
    """Ids and names, as they come."""
    reading = ReadingConfig(encoding=encoding)
    if file.suffix.lower() == ".item":
        reading = dataclasses.replace(reading, format="inter")
    table = open_table(file, [], reading)
    movies = format_of(file, reading) == "movielens" and len(table.header) == 3 and not column
    places = (0, 1) if movies else _find(table.name, table.header, column)
    ids, names = IdCollector(), list[str | None]()
    for batch in _batches(table, list(places)):
        found, missing = _ids(table, batch.column(0))
        keep = ~missing
        if isinstance(found, CodedStrings):
            ids.add_strings(found.select(keep))
        else:
            ids.add_integers(found[keep])
        names.extend(_names(table, batch.column(1).filter(keep)))
    id_map, rows = ids.finish()
    return id_map.to_ids(rows.astype(np.int64)), names


def _batches(table: Table, places: list[int]) -> Iterator[Any]:
    try:
        for batch in table.batches(places):
            columns = [unify_text(column) for column in batch.columns]
            yield batch.from_arrays(columns, names=batch.schema.names)
    except OSError as error:
        raise DataError(f"{table.name}: cannot be read: {error.strerror or error}") from error


def _names(table: Table, column: Any) -> list[str | None]:
    import pyarrow

    try:
        texts = column.cast(pyarrow.large_string()).to_pylist()
    except pyarrow.ArrowException:
        raise DataError(f"{table.name}: names are {column.type}, expected strings") from None
    tidy = table.tidy or str.strip
    return [None if text is None else tidy(text) or None for text in texts]


def _ids(table: Table, column: Any) -> tuple[Ids, NDArray[np.bool_]]:
    try:
        return read_ids(column, table.tidy, keep_words=True)
    except ValueReadingError as error:
        raise DataError(f"{table.place(error.row)}: {error.message}") from None


def _find(name: str, header: list[str], column: str | None) -> tuple[int, int]:
    """Positions of ids and names."""
    item = find_usual(header, ITEM_NAMES)
    if column is not None:
        title = header.index(column) if column in header else None
    else:
        title = find_usual(header, _TITLES)
    if item is None and len(header) == 2 and title is not None:
        item = 1 - title
    if item is None or title is None or item == title:
        raise DataError(
            f"{name}: expected a column of item ids, and one of names, {column or 'such as title'}; "
            f"columns are {', '.join(header) or 'none'}"
        )
    return item, title
