"""Text with a row on each line and a separator between fields: csv, tsv, ``.inter``, ``.dat``.

pyarrow parses it. It knows no separator of two characters, and no lines: those of errors are found by
reading the file once more with the csv module.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from peel_ext.config import ReadingConfig
from peel_ext.data.columns import ITEM_NAMES, USER_NAMES, find_usual
from peel_ext.data.tables import BLOCK_BYTES, LineRun, Table, open_bytes
from peel_ext.errors import DataError

#: Stands for a separator of several characters: ASCII's own "unit separator".
_UNIT_SEPARATOR = "\x1f"

#: Names of the columns of MovieLens's ``ratings.dat``.
_MOVIELENS = ["user_id", "item_id", "rating", "timestamp"]

_SPELT = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}


@dataclass(frozen=True)
class _Dialect:
    """How the lines of a file are cut.

    Attributes:
        separator: one character or more.
        quoted: whether a field may stand between quotes, and then hold separators and line breaks.
        encoding: of the text.
    """

    separator: str
    quoted: bool
    encoding: str

    @property
    def delimiter(self) -> str:
        """The separator as one character."""
        plain = len(self.separator) == 1 and self.separator.isascii()
        return self.separator if plain else _UNIT_SEPARATOR

    def rows(
        self, file: Path, *, strict: bool = False, stop: int | None = None
    ) -> Iterator[tuple[int, list[str]]]:
        """The fields of every line that has any, and the number of the line it ends on.

        What is not in the encoding comes as surrogates.

        Args:
            file: the file.
            strict: whether to refuse a quote in the wrong place that takes further lines with it, which
                pyarrow does not.
            stop: a byte; only lines that begin before it, or None for all.

        Raises:
            DataError: such a quote; names the line.
        """
        reader = csv.reader(
            self._lines(file, stop),
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=strict,
        )
        limit = csv.field_size_limit(sys.maxsize)
        try:
            while True:
                before = reader.line_num
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    if reader.line_num - before > 1:
                        raise DataError(
                            f"{file}:{before + 1}: a quote is out of place: {error}"
                        ) from None
                    continue
                if fields is None:
                    return
                if fields:
                    yield reader.line_num, fields
        finally:
            csv.field_size_limit(limit)

    def _lines(self, file: Path, stop: int | None) -> Iterator[str]:
        with open_bytes(file) if stop is None else LineRun(file, (0, stop)) as stream:
            for number, line in enumerate(io.BufferedReader(stream)):
                text = line.decode(self.encoding, "surrogateescape")
                text = text.removeprefix("\ufeff") if number == 0 else text
                # A carriage return alone ends a line, too.
                yield from re.split(r"(?<=\r)(?!\n)", text.replace(self.separator, self.delimiter))


def open_delimited(
    file: Path, kind: str, reading: ReadingConfig, extent: tuple[int, int] | None = None
) -> Table:
    """A table of a text file.

    Args:
        file: the file, maybe compressed.
        kind: ``"csv"``, ``"tsv"``, ``"inter"`` or ``"movielens"``.
        reading: the separator, the encoding and whether there is a header, where they were given.
        extent: only the lines that begin within these bytes (:class:`LineRun`), which must not cut a
            quoted field; None for all.

    Raises:
        DataError: it is empty, or its first line cannot be read.
    """
    kind = _kind(file, kind)
    dialect = _find_dialect(file, kind, reading)
    first = next(dialect.rows(file), None)
    has_header = reading.header and kind != "movielens"
    if first is None:
        raise DataError(f"{file}: empty, expected a header line" if has_header else
                        f"{file}: no interactions")  # fmt: skip
    number, fields = first
    if any("\0" in field for field in fields):
        raise DataError(
            f"{file}:{number}: holds a zero byte: expected text in {reading.encoding}, not UTF-16"
        )
    header = [_tidy(field) for field in fields]
    if kind == "inter":
        header = [name.rpartition(":")[0] or name for name in header]
    if not has_header and _looks_like_header(header):
        if not reading.header:
            raise DataError(
                f"{file}:{number}: looks like a header, {', '.join(header)}: leave --no-header "
                "(header=False) out"
            )
        has_header = True
    elif kind == "movielens":
        header = _MOVIELENS[:3] if len(fields) == 3 else _MOVIELENS
    elif not has_header:
        header = [str(at) for at in range(1, len(fields) + 1)]
    skipped = number if has_header else 0

    run = None if extent is None else (extent, _end_of_line(file, skipped))

    def batches(positions: list[int]) -> Iterator[Any]:
        return _parse(file, dialect, len(header), positions, skipped, run)

    def place(row: int) -> str:
        if run is not None and run[0][0] > 0:
            row += sum(1 for _ in dialect.rows(file, stop=LineRun(file, *run).start))
            row -= int(has_header)
        for at, (line, _) in enumerate(dialect.rows(file), start=-int(has_header)):
            if at == row:
                return f"{file}:{line}"
        return f"{file}: row {row}"

    return Table(str(file), header, batches, place, _strip if dialect.quoted else _tidy)


def has_quoted_fields(
    file: Path, kind: str, reading: ReadingConfig, extent: tuple[int, int]
) -> bool:
    """True if a field may stand between quotes, where there is a quote within some bytes."""
    if not _find_dialect(file, _kind(file, kind), reading).quoted:
        return False
    with file.open("rb") as stream:
        stream.seek(extent[0])
        left = extent[1] - extent[0]
        while left > 0:
            data = stream.read(min(left, 1 << 22))
            if b'"' in data or not data:
                return bool(data)
            left -= len(data)
    return False


def _end_of_line(file: Path, number: int) -> int:
    """The byte after so many lines of a file that is not compressed."""
    with file.open("rb") as stream:
        for _ in range(number):
            stream.readline()
        return stream.tell()


def _looks_like_header(fields: list[str]) -> bool:
    return find_usual(fields, USER_NAMES) is not None and find_usual(fields, ITEM_NAMES) is not None


def _find_dialect(file: Path, kind: str, reading: ReadingConfig) -> _Dialect:
    given = reading.separator
    if given is not None:
        separator = _SPELT.get(given, given)
    elif kind == "movielens":
        separator = "::"
    elif kind in ("tsv", "inter"):
        separator = "\t"
    else:
        separator = _most_frequent_separator(file, reading.encoding)
    # Titles with tabs between them have quotes of their own; what is quoted all the same is undone.
    quoted = separator != "\t" and kind != "movielens"
    return _Dialect(separator, quoted, reading.encoding)


def _kind(file: Path, kind: str) -> str:
    """The format of a file, for other data sets than MovieLens have tables of its suffix."""
    return "csv" if kind == "movielens" and not _begins_with_colons(file) else kind


def _begins_with_colons(file: Path) -> bool:
    """Whether the first line has MovieLens's separator, or there is none."""
    with open_bytes(file) as stream:
        line = stream.read(1 << 16).lstrip().split(b"\n")[0]
    return b"::" in line or not line


def _most_frequent_separator(file: Path, encoding: str) -> str:
    """The comma, unless the first line has none and one of the others that people use."""
    with open_bytes(file) as stream:
        line = stream.read(1 << 16).decode(encoding, errors="replace").lstrip().split("\n")[0]
    return max(",;\t|", key=lambda each: ("," in line and each == ",", line.count(each)))


def _parse(
    file: Path,
    dialect: _Dialect,
    width: int,
    positions: list[int],
    skipped: int,
    run: tuple[tuple[int, int], int] | None,
) -> Iterator[Any]:
    """Record batches of strings, in the order of the positions, of all lines or a run of them."""
    import pyarrow
    import pyarrow.csv

    names = [str(at) for at in range(width)]
    wanted = [names[at] for at in positions]
    num_rows = 0
    with open_bytes(file) if run is None else LineRun(file, *run) as stream:
        if isinstance(stream, LineRun) and stream.left == 0:
            return
        is_first = not isinstance(stream, LineRun) or stream.start == 0
        watched = _Watched(stream, dialect)
        try:
            reader = pyarrow.csv.open_csv(
                pyarrow.PythonFile(watched, mode="r"),
                pyarrow.csv.ReadOptions(
                    block_size=BLOCK_BYTES, column_names=names,
                    skip_rows=skipped if is_first else 0,
                    encoding=dialect.encoding,
                ),
                pyarrow.csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char='"' if dialect.quoted else False,
                    newlines_in_values=dialect.quoted,
                ),
                pyarrow.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types={name: pyarrow.string() for name in wanted},
                ),
            )  # fmt: skip
            for batch in reader:
                num_rows += len(batch)
                yield batch
        except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
            _explain(file, dialect, width, positions, skipped, error)
    if dialect.quoted and watched.has_quotes and watched.num_breaks > num_rows + skipped:
        # A quote that is out of place takes the lines up to the next one into its field.
        for _ in dialect.rows(file, strict=True):
            pass


def _explain(
    file: Path,
    dialect: _Dialect,
    width: int,
    positions: list[int],
    skipped: int,
    error: Exception,
) -> None:
    """Raises the DataError of the line that pyarrow could not parse; without rows there is none."""
    for number, fields in dialect.rows(file):
        if number <= skipped:
            continue
        if len(fields) != width:
            hint = "; a quote is not closed" if any("\n" in field for field in fields) else ""
            raise DataError(
                f"{file}:{number}: expected {width} fields, got {len(fields)}{hint}"
            ) from None
        if any("\udc80" <= char <= "\udcff" for at in positions for char in fields[at]):
            raise DataError(
                f"{file}:{number}: not {dialect.encoding.upper()}: name another encoding (--encoding, "
                "encoding)"
            ) from None
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "straddling" in reason:
        reason = f"a line is longer than {BLOCK_BYTES:,} bytes"
    if "Could not skip initial" not in reason and "Empty CSV file" not in reason:
        raise DataError(f"{file}: cannot be parsed: {reason}") from None


def _strip(field: str) -> str:
    """A field without blanks around it; what else Unicode takes for a space may be part of an id."""
    return field.strip(" \t\r\n")


def _tidy(field: str) -> str:
    """The same of a field between tabs, and its quotes undone if it is quoted whole."""
    field = _strip(field)
    inner = field[1:-1]
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


class _Watched(io.RawIOBase):
    """The bytes of a file for pyarrow, with separators of several characters replaced by one.

    Attributes:
        num_breaks: line breaks so far.
        has_quotes: whether there was a quote.
    """

    def __init__(self, stream: BinaryIO | LineRun, dialect: _Dialect) -> None:
        self.num_breaks = 0
        self.has_quotes = False
        self._stream = stream
        self._before = dialect.separator.encode(dialect.encoding)
        self._after = dialect.delimiter.encode(dialect.encoding)
        self._held = b""  # what may be the beginning of a separator

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; none at the end."""
        data = self._stream.read(size) or b""
        self.num_breaks += data.count(b"\n")
        self.has_quotes = self.has_quotes or b'"' in data
        if self._before == self._after:
            return data
        if self._after in data:
            raise DataError("holds the byte 0x1f, which cannot be told from a separator")
        made = (self._held + data).replace(self._before, self._after)
        self._held = b""
        if data:
            for length in range(len(self._before) - 1, 0, -1):
                if made.endswith(self._before[:length]):
                    made, self._held = made[:-length], made[-length:]
                    break
            return made or self.read(size)
        return made
