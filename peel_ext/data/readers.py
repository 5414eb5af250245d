"""Reading interactions of every common format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.collector import IdCollector
from peel_ext.data.interactions import Interactions
from peel_ext.data.parquet_files import read_parquet
from peel_ext.data.pieces import CodedStrings, ColumnNames, Ids, Piece
from peel_ext.data.text_files import read_adjacency, read_movielens, read_table
from peel_ext.errors import DataError

_WITH_HEADER: dict[str, Callable[[Path, ColumnNames], Iterator[Piece]]] = {
    ".parquet": read_parquet,
    ".csv": read_table,
    ".tsv": read_table,
    ".inter": read_table,
}
_WITHOUT_HEADER: dict[str, Callable[[Path], Iterator[Piece]]] = {
    ".txt": read_adjacency,
    ".dat": read_movielens,
}
_SUFFIXES = (*_WITH_HEADER, *_WITHOUT_HEADER)


def read_interactions(
    path: str | os.PathLike[str],
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    timestamp_column: str | None = None,
) -> Interactions:
    """Reads one file of interactions, a piece at a time.

    The suffix tells the format:

    - ``.parquet``;
    - ``.csv`` and ``.tsv`` with a header line, MovieLens's ``ratings.csv`` among them;
    - ``.inter``, RecBole's atomic format, tab-separated with a typed header such as
      ``user_id:token``;
    - ``.txt``, LightGCN's, a user and its items on each line;
    - ``.dat``, MovieLens's, ``user::item::rating::timestamp``.

    Ids may be integers or strings; ids of a text file that are all plain integers ("7", not "007")
    become integers, and what Parquet has as strings stays strings. Repeated interactions are kept
    (:meth:`Interactions.deduplicated` drops them).

    Args:
        path: the file.
        user_column: its name (default: user_id, userId, user or uid).
        item_column: its name (default: item_id, itemId, movieId, item or iid).
        timestamp_column: its name (default: timestamp or time, if there).

    Raises:
        DataError: the file cannot be read or used; names it, and the line or row where there is one.
        DependencyError: Parquet without pyarrow.
    """
    names = ColumnNames(user_column, item_column, timestamp_column)
    return _read_files([Path(path)], names)[0]


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
        parts = _read_files([train[0], test[0]], ColumnNames())
        return parts[0], parts[1]
    if len(files) == 1 and not test:
        return read_interactions(files[0]), None
    found = ", ".join(file.name for file in files) or "none"
    raise DataError(
        f"{place}: expected one data file ({', '.join(_SUFFIXES)}), or one train and one test file, "
        f"found {found}"
    )


def _read_files(files: list[Path], names: ColumnNames) -> list[Interactions]:
    """Interactions of several files with common id maps."""
    users, items = IdCollector(), IdCollector()
    lengths: list[int] = []
    times: list[list[NDArray[np.float64]]] = []
    for file in files:
        length = 0
        stamps: list[NDArray[np.float64]] = []
        try:
            for piece in _pieces(file, names):
                _collect(users, piece.users)
                _collect(items, piece.items)
                length += len(piece.users)
                if piece.timestamps is not None:
                    stamps.append(piece.timestamps)
        except FileNotFoundError:
            raise DataError(f"{file}: no such file") from None
        except DataError as error:
            if str(error).startswith(str(file)):
                raise
            raise DataError(f"{file}: {error}") from None
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
        if length == 0:
            raise DataError(f"{file}: no interactions")
        times.append(stamps)
        lengths.append(length)
    user_map, user_rows = users.finish()
    item_map, item_rows = items.finish()
    parts = []
    for end, length, stamps in zip(np.cumsum(lengths), lengths, times, strict=True):
        own = slice(end - length, end)
        joined = np.concatenate(stamps) if stamps else None
        parts.append(Interactions(user_rows[own], item_rows[own], joined, user_map, item_map))
    return parts


def _pieces(file: Path, names: ColumnNames) -> Iterator[Piece]:
    if file.suffix in _WITH_HEADER:
        return _WITH_HEADER[file.suffix](file, names)
    if file.suffix not in _WITHOUT_HEADER:
        raise DataError(f"{file}: expected a file ending in {', '.join(_SUFFIXES)}")
    if names.asked:
        raise DataError(f"{file}: columns of a {file.suffix} file have no names")
    return _WITHOUT_HEADER[file.suffix](file)


def _collect(collector: IdCollector, ids: Ids) -> None:
    if isinstance(ids, CodedStrings):
        collector.add_coded_strings(ids.codes, ids.names)
    elif isinstance(ids, list):
        collector.add_strings(ids)
    else:
        collector.add_integers(ids)
