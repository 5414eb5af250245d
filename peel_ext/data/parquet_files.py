"""Parquet, read a run of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peel_ext.data.tables import Table, require_pyarrow, row_place
from peel_ext.errors import DataError

#: Rows read at a time: enough to spread the cost of a batch, few enough not to weigh.
_BATCH_ROWS = 1 << 18


def open_parquet(file: Path, groups: range | None = None) -> Table:
    """A table of a Parquet file.

    Args:
        file: the file.
        groups: row groups to read, or None for all.

    Raises:
        DataError: it is none.
        DependencyError: pyarrow is missing.
    """
    require_pyarrow()
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            header = opened.schema_arrow.names
            first = 0 if groups is None else groups.start
            num_before = sum(opened.metadata.row_group(at).num_rows for at in range(first))
    except pyarrow.ArrowException as error:
        raise _unreadable(file, error) from None

    def batches(positions: list[int]) -> Iterator[Any]:
        names = [header[at] for at in positions]
        chosen = None if groups is None else list(groups)
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(_BATCH_ROWS, chosen, columns=names):
                    columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
                    yield pyarrow.record_batch(columns, names=[str(at) for at in positions])
        except pyarrow.ArrowException as error:
            raise _unreadable(file, error) from None

    return Table(str(file), header, batches, row_place(str(file), num_before))


def row_group_sizes(file: Path) -> list[int]:
    """The rows of each row group of a Parquet file.

    Raises:
        DataError: it is none.
        OSError: it cannot be read.
    """
    require_pyarrow()
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_metadata(file)
    except pyarrow.ArrowException as error:
        raise _unreadable(file, error) from None
    return [found.row_group(at).num_rows for at in range(found.num_row_groups)]


def _unreadable(file: Path, error: Exception) -> DataError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{file}: not a readable Parquet file: {first}")
