"""Tables, which every format of interactions becomes: record batches of named columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peel_ext.errors import DependencyError

#: Bytes of text that are parsed at a time, and so the longest line there may be.
BLOCK_BYTES = 1 << 25

#: What text may be compressed with, by suffix, as pyarrow calls it.
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True, eq=False)
class Table:
    """One file or frame.

    Attributes:
        name: what it is called in errors.
        header: the names of its columns.
        batches: the record batches (pyarrow) of the columns at some positions, in that order. It may
            raise DataError, OSError, or an error of pyarrow.
        place: where a row is, for errors; a line of a text file.
        tidy: makes an id of what stands in a field of text; None where types say what ids are.
    """

    name: str
    header: list[str]
    batches: Callable[[list[int]], Iterator[Any]]
    place: Callable[[int], str]
    tidy: Callable[[str], str] | None = None


def add_columns(table: Table, values: Mapping[str, int | str | None]) -> Table:
    """The table with further columns that hold one value each; those it has win."""
    added = {name: value for name, value in values.items() if name not in table.header}
    if not added:
        return table
    width = len(table.header)
    header = [*table.header, *added]

    def batches(positions: list[int]) -> Iterator[Any]:
        import pyarrow

        own = [at for at in positions if at < width] or [0]  # one at least tells the number of rows
        for batch in table.batches(own):
            columns = [
                batch.column(own.index(at)) if at < width
                else pyarrow.array([added[header[at]]] * len(batch))
                for at in positions
            ]  # fmt: skip
            yield pyarrow.record_batch(columns, names=[str(at) for at in positions])

    return replace(table, header=header, batches=batches)


def require_pyarrow() -> Any:
    """The module pyarrow.

    Raises:
        DependencyError: it is not there; says how to get it.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise DependencyError(
            "reading interactions needs pyarrow: install it with pip install 'peel_ext[train]'"
        ) from error
    return pyarrow


def row_place(name: str, num_before: int = 0) -> Callable[[int], str]:
    """Places of a table whose rows have no lines, after so many rows that are not read."""
    return lambda row: f"{name}: row {num_before + row}"


def open_bytes(file: Path) -> Any:
    """A binary stream of a file, decompressed where its last suffix says so."""
    pyarrow = require_pyarrow()
    return pyarrow.input_stream(file, compression=COMPRESSIONS.get(file.suffix.lower()))


class LineRun(io.RawIOBase):
    """The lines of a file that begin within some of its bytes, as a stream of their own.

    Args:
        file: the file, not compressed.
        extent: the bytes, from a first one to before a last one.
        begin: where the first line begins that may be in any run; what stands before is in the one
            that begins at byte 0.
    """

    def __init__(self, file: Path, extent: tuple[int, int], begin: int = 0) -> None:
        self._stream = file.open("rb")
        first, last = (self._next_line(at) for at in extent)
        #: Where the first line begins.
        self.start = max(first, begin) if extent[0] else 0
        #: Bytes that are yet to be read.
        self.left = max(0, max(last, begin) - self.start)
        self._stream.seek(self.start)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as there are bytes."""
        view = memoryview(buffer)[: self.left]
        count = self._stream.readinto(view)
        self.left -= count
        return count

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()
        super().close()

    def _next_line(self, at: int) -> int:
        """Where the first line begins at some byte or after it."""
        if at == 0:
            return 0
        self._stream.seek(at - 1)
        self._stream.readline()
        return self._stream.tell()
