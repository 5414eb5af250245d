"""Interactions in Parquet, read a run of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.pieces import PIECE_ROWS, CodedStrings, ColumnNames, Ids, Piece, find_columns
from peel_ext.errors import DataError, DependencyError


def read_parquet(file: Path, names: ColumnNames) -> Iterator[Piece]:
    """Pieces of a ``.parquet`` file.

    Raises:
        DataError: it cannot be used; names the column, and the row where there is one.
        DependencyError: pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            "Parquet needs pyarrow: install it with pip install 'peel_ext[train]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            header = table.schema_arrow.names
            places = [at for at in find_columns(file, header, names) if at is not None]
            wanted = [header[at] for at in places]
            start = 0
            for batch in table.iter_batches(PIECE_ROWS, columns=wanted):
                columns = [batch.column(batch.schema.get_field_index(name)) for name in wanted]
                users, items = (
                    _ids(file, name, column, start)
                    for name, column in zip(wanted[:2], columns[:2], strict=True)
                )
                times = _times(file, wanted[2], columns[2], start) if len(wanted) == 3 else None
                yield Piece(users, items, times)
                start += len(batch)
    except pyarrow.ArrowException as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: not a readable Parquet file: {first}") from None


def _ids(file: Path, name: str, column: Any, start: int) -> Ids:
    from pyarrow import types

    if column.null_count:
        row = start + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{file}: column {name} holds a null at row {row}, expected ids")
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_integer(kind):
        integers = column if column.type == kind else column.cast(kind)
        # A copy, so that no piece keeps the memory of the whole run of rows.
        return np.array(integers.to_numpy(zero_copy_only=False))
    if types.is_string(kind) or types.is_large_string(kind):
        coded = column if types.is_dictionary(column.type) else column.dictionary_encode()
        codes = np.array(coded.indices.to_numpy(zero_copy_only=False))
        try:
            names: list[str] = coded.dictionary.to_pylist()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: column {name} holds text that is not UTF-8 in the rows from {start}: "
                f"{error.reason}"
            ) from None
        if "" in names and (codes == names.index("")).any():
            row = start + int(np.argmax(codes == names.index("")))
            raise DataError(f"{file}: column {name} holds an empty id at row {row}")
        return CodedStrings(codes, names)
    raise DataError(f"{file}: column {name} is {column.type}, expected integers or strings")


def _times(file: Path, name: str, column: Any, start: int) -> NDArray[np.float64]:
    from pyarrow import types

    if types.is_timestamp(column.type):
        column = column.cast("int64")
    if not (types.is_integer(column.type) or types.is_floating(column.type)):
        raise DataError(f"{file}: column {name} is {column.type}, expected times")
    times = np.array(column.cast("float64", safe=False).to_numpy(zero_copy_only=False))
    if not np.isfinite(times).all():
        row = start + int(np.argmin(np.isfinite(times)))
        raise DataError(f"{file}: column {name} holds no finite number at row {row}")
    return times
