"""Reading interactions from Parquet, csv, tsv and RecBole's atomic files."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.interactions import IdMap, Interactions
from peel_ext.errors import DataError, DependencyError

_SUFFIXES = (".parquet", ".csv", ".tsv", ".inter")
_USER_NAMES = ("user_id", "userId", "user", "uid")
_ITEM_NAMES = ("item_id", "itemId", "movieId", "item", "iid")
_TIME_NAMES = ("timestamp", "time")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class _Columns:
    """Raw columns of one file."""

    users: NDArray[Any] | list[str]
    items: NDArray[Any] | list[str]
    timestamps: NDArray[np.float64] | None


def read_interactions(
    path: str | os.PathLike[str],
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    timestamp_column: str | None = None,
) -> Interactions:
    """Reads one file of interactions.

    The suffix tells the format: ``.parquet``; ``.csv`` and ``.tsv`` with a header line; ``.inter``,
    RecBole's atomic format, tab-separated with a typed header such as ``user_id:token``. Ids may be
    integers or strings; text whose every id is a plain integer ("7", not "007") becomes integers.

    Args:
        path: the file.
        user_column: its name (default: user_id, userId, user or uid).
        item_column: its name (default: item_id, itemId, movieId, item or iid).
        timestamp_column: its name (default: timestamp or time, if there).

    Raises:
        DataError: the file cannot be read or used; names it, and the line where there is one.
        DependencyError: Parquet without pyarrow.
    """
    file = Path(path)
    columns = _read_columns(file, user_column, item_column, timestamp_column)
    return _combine([columns])[0]


def read_split(path: str | os.PathLike[str]) -> tuple[Interactions, Interactions | None]:
    """Reads a file, or a folder with one data file, or with ``train.*`` and ``test.*``.

    Returns:
        All interactions and None; or those of the train and of the test file, with id maps over
        both.

    Raises:
        DataError: as :func:`read_interactions`, or a folder without a clear choice of files.
    """
    place = Path(path)
    if not place.is_dir():
        return read_interactions(place), None
    files = sorted(file for file in place.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    train = [file for file in files if file.stem == "train"]
    test = [file for file in files if file.stem == "test"]
    if len(train) == 1 and len(test) == 1:
        parts = _combine([_read_columns(train[0]), _read_columns(test[0])])
        return parts[0], parts[1]
    if len(files) == 1:
        return read_interactions(files[0]), None
    found = ", ".join(file.name for file in files) or "none"
    raise DataError(
        f"{place}: expected one data file ({', '.join(_SUFFIXES)}), or one train and one test file, "
        f"found {found}"
    )


def _combine(parts: list[_Columns]) -> list[Interactions]:
    """Interactions of several files with common id maps."""
    maps, rows = [], []
    for name in ("users", "items"):
        columns = [getattr(part, name) for part in parts]
        merged: Any
        if all(isinstance(column, np.ndarray) for column in columns):
            merged = np.concatenate(columns)
        else:
            texts = [str(value) for column in columns for value in column]
            merged = _integers(texts) if all(map(_INTEGER.fullmatch, texts)) else texts
        id_map, places = IdMap.from_values(merged)
        maps.append(id_map)
        rows.append(np.split(places, np.cumsum([len(column) for column in columns])[:-1]))
    return [
        Interactions(rows[0][at], rows[1][at], part.timestamps, maps[0], maps[1])
        for at, part in enumerate(parts)
    ]


def _integers(texts: list[str]) -> NDArray[np.int64]:
    return np.array(texts, dtype=np.int64) if texts else np.zeros(0, dtype=np.int64)


def _read_columns(
    file: Path, user: str | None = None, item: str | None = None, time: str | None = None
) -> _Columns:
    if file.suffix not in _SUFFIXES:
        raise DataError(f"{file}: expected a file ending in {', '.join(_SUFFIXES)}")
    try:
        if file.suffix == ".parquet":
            return _read_parquet(file, user, item, time)
        return _read_text(file, user, item, time)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


def _find(
    file: Path, header: list[str], asked: str | None, names: tuple[str, ...], required: bool
) -> int | None:
    """Position of a column in the header."""
    for name in (asked,) if asked is not None else names:
        if name in header:
            return header.index(name)
    if asked is None and not required:
        return None
    expected = asked if asked is not None else " or ".join(names)
    raise DataError(f"{file}: no column {expected}; columns are {', '.join(header) or 'none'}")


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


def _read_text(file: Path, user: str | None, item: str | None, time: str | None) -> _Columns:
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
        user_at = _find(file, header, user, _USER_NAMES, True)
        item_at = _find(file, header, item, _ITEM_NAMES, True)
        time_at = _find(file, header, time, _TIME_NAMES, False)
        return _read_rows(file, reader, len(header), int(user_at or 0), int(item_at or 0), time_at)
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: {error}") from None


def _read_rows(
    file: Path, reader: Any, width: int, user_at: int, item_at: int, time_at: int | None
) -> _Columns:
    users: list[str] = []
    items: list[str] = []
    times: list[float] = []
    for fields in reader:
        if not fields:
            continue  # a blank line
        line = f"{file}:{reader.line_num}"
        if len(fields) != width:
            raise DataError(f"{line}: expected {width} fields, got {len(fields)}")
        if not fields[user_at] or not fields[item_at]:
            raise DataError(f"{line}: empty {'item' if fields[user_at] else 'user'} id")
        users.append(fields[user_at])
        items.append(fields[item_at])
        if time_at is not None:
            times.append(_parse_time(line, fields[time_at]))
    if not users:
        raise DataError(f"{file}: no interactions after the header")
    return _Columns(users, items, np.array(times) if time_at is not None else None)


def _parse_time(line: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{line}: timestamp {text!r} is not a finite number")
    return value


def _read_parquet(file: Path, user: str | None, item: str | None, time: str | None) -> _Columns:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            "Parquet needs pyarrow: install it with pip install 'peel_ext[train]'"
        ) from error
    try:
        header = pyarrow.parquet.read_schema(file).names
        places = [
            _find(file, header, user, _USER_NAMES, True),
            _find(file, header, item, _ITEM_NAMES, True),
            _find(file, header, time, _TIME_NAMES, False),
        ]
        names = [header[at] for at in places if at is not None]
        table = pyarrow.parquet.read_table(file, columns=names)
    except pyarrow.ArrowException as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: not a readable Parquet file: {first}") from None
    if table.num_rows == 0:
        raise DataError(f"{file}: no interactions")
    users, items = (_parquet_ids(file, name, table[name]) for name in names[:2])
    times = None
    if len(names) == 3:
        times = _parquet_times(file, names[2], table[names[2]])
    return _Columns(users, items, times)


def _parquet_ids(file: Path, name: str, column: Any) -> NDArray[Any] | list[str]:
    from pyarrow import types

    if column.null_count:
        raise DataError(f"{file}: column {name} holds {column.null_count} nulls, expected ids")
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_integer(column.type):
        integers: NDArray[Any] = column.to_numpy()
        return integers
    if types.is_string(column.type) or types.is_large_string(column.type):
        texts: list[str] = column.to_pylist()
        if "" in texts:
            raise DataError(f"{file}: column {name} holds an empty id at row {texts.index('')}")
        return texts
    raise DataError(f"{file}: column {name} is {column.type}, expected integers or strings")


def _parquet_times(file: Path, name: str, column: Any) -> NDArray[np.float64]:
    from pyarrow import types

    if types.is_timestamp(column.type):
        column = column.cast("int64")
    if not (types.is_integer(column.type) or types.is_floating(column.type)):
        raise DataError(f"{file}: column {name} is {column.type}, expected times")
    times: NDArray[np.float64] = column.cast("float64", safe=False).to_numpy()
    if not np.isfinite(times).all():
        row = int(np.argmin(np.isfinite(times)))
        raise DataError(f"{file}: column {name} holds no finite number at row {row}")
    return times
