"""Parquet, read a run of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peel_ext.data.tables import Table, require_pyarrow, row_place
from peel_ext.errors import DataError

#: Rows read at a time: enough to spread the cost of a batch, few enough not to weigh.
_BATCH_ROWS = 1 << 18


def open_parquet(file: Path) -> Table:
    """A table of a Parquet file.

    Raises:
        DataError: it is none.
        DependencyError: pyarrow is missing.
    """
    require_pyarrow()
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            header = opened.schema_arrow.names
    except pyarrow.ArrowException as error:
        raise _unreadable(file, error) from None

    def batches(positions: list[int]) -> Iterator[Any]:
        names = [header[at] for at in positions]
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(_BATCH_ROWS, columns=names):
                    columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
                    yield pyarrow.record_batch(columns, names=[str(at) for at in positions])
        except pyarrow.ArrowException as error:
            raise _unreadable(file, error) from None

    return Table(str(file), header, batches, row_place(str(file)))


def _unreadable(file: Path, error: Exception) -> DataError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{file}: not a readable Parquet file: {first}")
