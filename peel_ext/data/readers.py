"""Reading interactions: from any file, folder or frame to rows and id maps."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peel_ext.config import ReadingConfig
from peel_ext.data.adjacency_files import open_adjacency
from peel_ext.data.delimited_files import open_delimited
from peel_ext.data.folders import FORMATS, find_files, format_of, join_files, partition_of
from peel_ext.data.frames import is_frame, open_frame
from peel_ext.data.interactions import Interactions
from peel_ext.data.json_files import open_json_lines
from peel_ext.data.overlap import check_overlap
from peel_ext.data.parquet_files import open_parquet
from peel_ext.data.parts import PartReader
from peel_ext.data.remarks import once
from peel_ext.data.tables import Table, add_columns
from peel_ext.errors import DataError, DataWarning

#: Told what of the data is not used, a line at a time.
Remark = Callable[[str], None]

#: In the place of a path.
STANDARD_INPUT = "-"


def warn(remark: str) -> None:
    """Tells a remark as a :class:`peel_ext.errors.DataWarning`."""
    warnings.warn(remark, DataWarning, stacklevel=2)


@dataclass(frozen=True, eq=False)
class GivenParts:
    """Interactions by what they are for, all with the same maps.

    Attributes:
        train: what is trained on, or everything there is.
        validation: what settings are chosen on, or None.
        test: what is measured on, or None.
        below: rated below the least rating that counts, or None.
        columns: which columns were read, by name; empty where there are none.
    """

    train: Interactions
    validation: Interactions | None = None
    test: Interactions | None = None
    below: Interactions | None = None
    columns: str = ""


def read_interactions(data: Any, *, on_remark: Remark = warn, **options: Any) -> Interactions:
    """Reads interactions from files or a frame, a piece at a time.

    - Files: Parquet, csv and tsv with a header line, RecBole's ``.inter``, JSON lines, LightGCN's
      ``.txt``, MovieLens's ``.dat``. The suffix tells, or ``format``. Text may be compressed: ``.gz``,
      ``.zst``, ``.bz2``.
    - Folders with one such file, or with the parts of one table.
    - Frames: pandas, polars, Arrow, and whatever else has ``__arrow_c_stream__``.

    Ids may be integers or strings. Those of a text file that are all integers ("7", not "007") or
    whole floats ("7.0") become integers, and what has the type of strings stays strings. Repeated
    interactions are kept (:meth:`Interactions.deduplicated` drops them).

    Args:
        data: a path, several in a list, ``"-"`` for standard input, a frame, or interactions, which
            come back as they are.
        on_remark: told what is not used, in a line each; the default warns.
        options: settings of :class:`peel_ext.config.ReadingConfig`, such as ``user_column``.

    Raises:
        DataError: the data cannot be read or used; names the file, and the line or row.
        DependencyError: pyarrow is missing.
        TypeError: data of another kind, or an unknown option.
        ValueError: an option outside its range.
    """
    parts = read_split(data, ReadingConfig(**options), on_remark)
    if parts.test is not None or parts.validation is not None:
        raise DataError(f"{data}: holds train and test parts, expected one table: name a file")
    return parts.train


def read_split(
    data: Any, reading: ReadingConfig | None = None, on_remark: Remark = warn
) -> GivenParts:
    """Reads what :func:`read_interactions` takes, or a folder with train and test parts.

    Raises:
        DataError: as there; a folder without a clear choice of files; or hardly a user or item of the
            test or validation part is one of the training part.
    """
    reading = reading or ReadingConfig()
    if isinstance(data, Interactions):
        if reading != ReadingConfig():
            raise ValueError("settings of reading are for data that is yet to be read")
        return GivenParts(data)
    if isinstance(data, str) and data == STANDARD_INPUT:
        return _read_standard_input(reading, on_remark)
    reader = PartReader(reading, once(on_remark))
    if is_frame(data):
        if reading.separator is not None or not reading.header or reading.format is not None:
            raise ValueError("separator, header and format are of files, not of a frame")
        reader.read("train", [open_frame(data)])
    else:
        places = data_places(data)
        for name, files in find_parts(places, reading, on_remark).items():
            if files:
                reader.read(name, _open_all(files, places, reading))
    parts = reader.finish()
    for name in ("test", "validation"):
        if name in parts:
            check_overlap(parts["train"], parts[name], name, on_remark)
    return GivenParts(**parts, columns="; ".join(dict.fromkeys(reader.columns)))


def _read_standard_input(reading: ReadingConfig, on_remark: Remark) -> GivenParts:
    """What :func:`read_split` reads of standard input, which lies in a temporary file meanwhile."""
    if not hasattr(sys.stdin, "buffer"):
        raise DataError("standard input cannot be read here: it has no bytes")
    reading = dataclasses.replace(reading, format=reading.format or "csv")
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "standard input"
        with kept.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        place = f"{folder}{os.sep}"
        try:
            return read_split(kept, reading, lambda told: on_remark(told.replace(place, "")))
        except DataError as error:
            raise DataError(str(error).replace(place, "")) from None


def data_places(data: Any) -> list[Path]:
    """The paths of data: one, or several in a list.

    Raises:
        TypeError: data of another kind.
    """
    several = isinstance(data, Sequence) and not isinstance(data, str | bytes)
    paths = list(data) if several else [data]
    if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise TypeError(
            "data must be a path, several paths, a frame (pandas, polars, Arrow) or Interactions, "
            f"got {type(data).__name__}"
        )
    return [Path(path) for path in paths]


def find_parts(
    places: list[Path], reading: ReadingConfig, on_remark: Remark
) -> dict[str, list[Path]]:
    """The files of every part, by its name; there may be none.

    Raises:
        DataError: a place cannot be read, or there is no clear choice of files.
    """
    try:
        found = [find_files(place, reading) for place in places]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if len(found) > 1:
        found = [join_files(places, found)]
    for each in found:
        if each.left_out:
            names = ", ".join(file.name for file in each.left_out)
            on_remark(f"not read, beside what is: {names}")
    only = found[0]
    return {"train": only.train, "validation": only.validation, "test": only.test}


def _open_all(files: list[Path], places: list[Path], reading: ReadingConfig) -> Iterator[Table]:
    for file in files:
        yield open_table(file, places, reading)


def open_table(
    file: Path,
    places: list[Path],
    reading: ReadingConfig,
    extent: tuple[int, int] | None = None,
) -> Table:
    """The table of a file, beneath one of some folders that may name columns.

    Args:
        file: the file.
        places: folders, or the file itself.
        reading: how it is read.
        extent: only some of it (:class:`peel_ext.data.table_shares.Share`), or None for all.

    Raises:
        DataError: of no format known, or not of its format.
    """
    kind = format_of(file, reading)
    unused = [name for name, given in (
        ("separator", reading.separator is not None), ("header", not reading.header),
    ) if given]  # fmt: skip
    if unused and kind in ("parquet", "jsonl", "lightgcn"):
        raise DataError(f"{file}: {unused[0]} is of text in columns, not of {kind}")
    if kind is None:
        raise DataError(
            f"{file}: expected a file ending in {', '.join(FORMATS)}, or to be told of the format "
            "(--format, format) or the separator (--separator, separator)"
        )
    try:
        if kind == "parquet":
            table = open_parquet(file, None if extent is None else range(*extent))
        elif kind == "jsonl":
            table = open_json_lines(file, extent)
        elif kind == "lightgcn":
            table = open_adjacency(file, reading.encoding)
        else:
            table = open_delimited(file, kind, reading, extent)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    return add_columns(table, partition_of(file, places))
