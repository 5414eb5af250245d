"""Parquet, read a run of rows at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from peel_ext.data.tables import Table, require_pyarrow, row_place
from peel_ext.errors import DataError

#: Rows read at a time: enough to spread the cost of a batch, few enough not to weigh.
_BATCH_ROWS = 1 << 18


def open_parquet(file: Path, partition: Mapping[str, str] | None = None) -> Table:
    """A table of a Parquet file.

    Args:
        file: the file.
        partition: columns that its folders name, with one value each.

    Raises:
        DataError: it is none.
        DependencyError: pyarrow is missing.
    """
    require_pyarrow()
    import pyarrow.parquet

    of_folders = {name: _read_partition(value) for name, value in (partition or {}).items()}
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            own = opened.schema_arrow.names
    except pyarrow.ArrowException as error:
        raise _unreadable(file, error) from None
    header = [*own, *(name for name in of_folders if name not in own)]

    def batches(positions: list[int]) -> Iterator[Any]:
        names = [header[at] for at in positions]
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                read = [name for name in names if name in own]
                for batch in opened.iter_batches(_BATCH_ROWS, columns=read):
                    columns = [
                        batch.column(batch.schema.get_field_index(name)) if name in own
                        else pyarrow.array([of_folders[name]] * len(batch))
                        for name in names
                    ]  # fmt: skip
                    yield pyarrow.record_batch(columns, names=[str(at) for at in positions])
        except pyarrow.ArrowException as error:
            raise _unreadable(file, error) from None

    return Table(str(file), header, batches, row_place(str(file)))


def _read_partition(value: str) -> int | str | None:
    """What ``value`` in the name of a folder ``column=value`` stands for."""
    if value == "__HIVE_DEFAULT_PARTITION__":
        return None
    return int(value) if re.fullmatch("0|-?[1-9][0-9]{0,17}", value) else unquote(value)


def _unreadable(file: Path, error: Exception) -> DataError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{file}: not a readable Parquet file: {first}")
