"""Tables in memory: pandas, polars, Arrow, and whatever else exports an Arrow stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peel_ext.data.tables import Table, require_pyarrow, row_place
from peel_ext.errors import DataError


def is_frame(data: object) -> bool:
    """True if something exports an Arrow stream."""
    return hasattr(data, "__arrow_c_stream__")


def open_frame(frame: Any) -> Table:
    """A table of a frame.

    Raises:
        DataError: it cannot be made to Arrow, for example columns of mixed types.
    """
    pyarrow = require_pyarrow()
    name = type(frame).__name__
    try:
        reader = pyarrow.RecordBatchReader.from_stream(frame)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        if hasattr(frame, "iloc"):  # of pandas, where a column nobody reads may be of mixed types
            return _open_pandas(frame, name)
        raise _unreadable(name, error) from None

    def batches(positions: list[int]) -> Iterator[Any]:
        names = [str(at) for at in positions]
        for batch in reader:
            columns = [batch.column(at) for at in positions]
            yield pyarrow.record_batch(columns, names=names)

    # The index of a pandas frame comes along as a column.
    header = ["" if each.startswith("__index_level_") else each for each in reader.schema.names]
    return Table(name, header, batches, row_place(name))


def _open_pandas(frame: Any, name: str) -> Table:
    """A table of a pandas frame of which only the columns read can be made to Arrow."""

    def batches(positions: list[int]) -> Iterator[Any]:
        import pyarrow

        try:
            table = pyarrow.Table.from_pandas(frame.iloc[:, positions], preserve_index=False)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _unreadable(name, error) from None
        yield from table.rename_columns([str(at) for at in positions]).to_batches()

    return Table(name, [str(each) for each in frame.columns], batches, row_place(name))


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"{name}: {' '.join(str(error).split())}")
