"""Text with a row on each line and a separator between fields: csv, tsv, ``.inter``, ``.dat``.

pyarrow parses it. It knows no separator of two characters, and no lines: those of errors are found by
reading the file once more with the csv module.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from peel_ext.config import ReadingConfig
from peel_ext.data.tables import BLOCK_BYTES, Table, open_bytes
from peel_ext.errors import DataError

#: Stands for a separator of several characters: ASCII's own "unit separator".
_UNIT_SEPARATOR = "\x1f"

#: Names of the columns of MovieLens's ``ratings.dat`` and, where there are three, ``movies.dat``.
_MOVIELENS = ["user_id", "item_id", "rating", "timestamp"]
_MOVIELENS_ITEMS = ["item_id", "title", "genres"]

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
        return self.separator if len(self.separator) == 1 else _UNIT_SEPARATOR

    def rows(self, file: Path, errors: str = "replace") -> Iterator[tuple[int, list[str]]]:
        """The fields of every line that has any, and the number of the line it ends on.

        Raises:
            DataError: a line that cannot be cut, or decoded with errors ``"strict"``; names it.
        """
        lines = self._lines(file, errors)
        reader = csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
        except csv.Error as error:
            raise DataError(f"{file}:{max(reader.line_num, 1)}: {error}") from None

    def _lines(self, file: Path, errors: str) -> Iterator[str]:
        with open_bytes(file) as stream:
            binary = io.BufferedReader(stream)
            for number, line in enumerate(binary, start=1):
                try:
                    text = line.decode(self.encoding, errors)
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{file}:{number}: not {self.encoding.upper()}: {error.reason}; name another "
                        "encoding (--encoding, encoding)"
                    ) from None
                text = text.removeprefix("\ufeff") if number == 1 else text
                yield text.replace(self.separator, self.delimiter)


def open_delimited(file: Path, kind: str, reading: ReadingConfig) -> Table:
    """A table of a text file.

    Args:
        file: the file, maybe compressed.
        kind: ``"csv"``, ``"tsv"``, ``"inter"`` or ``"movielens"``.
        reading: the separator, the encoding and whether there is a header, where they were given.

    Raises:
        DataError: it is empty, or its first line cannot be read.
    """
    dialect = _find_dialect(file, kind, reading)
    first = next(dialect.rows(file), None)
    has_header = reading.header and kind != "movielens"
    if first is None:
        raise DataError(f"{file}: empty, expected a header line" if has_header else
                        f"{file}: no interactions")  # fmt: skip
    number, fields = first
    if any("\0" in field for field in fields):
        raise DataError(f"{file}:{number}: holds a zero byte: expected text, in {reading.encoding}")
    header = [_tidy(field) for field in fields]
    if kind == "inter":
        header = [name.rpartition(":")[0] or name for name in header]
    if kind == "movielens":
        header = _MOVIELENS_ITEMS if len(fields) == 3 else _MOVIELENS
    elif not has_header:
        header = [str(at) for at in range(1, len(fields) + 1)]
    skipped = number if has_header else 0

    def batches(positions: list[int]) -> Iterator[Any]:
        return _parse(file, dialect, len(header), positions, skipped)

    def place(row: int) -> str:
        for at, (line, _) in enumerate(dialect.rows(file), start=-int(has_header)):
            if at == row:
                return f"{file}:{line}"
        return f"{file}: row {row}"

    return Table(str(file), header, batches, place, _strip if dialect.quoted else _tidy)


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


def _most_frequent_separator(file: Path, encoding: str) -> str:
    """The comma, unless the first line has none and one of the others that people use."""
    with open_bytes(file) as stream:
        line = stream.read(1 << 16).decode(encoding, errors="replace").lstrip().split("\n")[0]
    return max(",;\t|", key=lambda each: ("," in line and each == ",", line.count(each)))


def _parse(
    file: Path, dialect: _Dialect, width: int, positions: list[int], skipped: int
) -> Iterator[Any]:
    """Record batches of strings, in the order of the positions."""
    import pyarrow
    import pyarrow.csv

    names = [str(at) for at in range(width)]
    wanted = [names[at] for at in positions]
    with open_bytes(file) as stream:
        source: Any = stream
        if len(dialect.separator) > 1:
            replaced = _OneCharacterSeparators(stream, dialect)
            source = pyarrow.PythonFile(replaced, mode="r")
        try:
            reader = pyarrow.csv.open_csv(
                source,
                pyarrow.csv.ReadOptions(
                    block_size=BLOCK_BYTES, column_names=names, skip_rows=skipped,
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
            yield from reader
        except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
            _explain(file, dialect, width, skipped, error)


def _explain(file: Path, dialect: _Dialect, width: int, skipped: int, error: Exception) -> None:
    """Raises the DataError of the line that pyarrow could not parse; without rows there is none."""
    is_text = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
    for number, fields in dialect.rows(file, "strict" if is_text else "replace"):
        if number > skipped and len(fields) != width:
            raise DataError(
                f"{file}:{number}: expected {width} fields, got {len(fields)}"
            ) from None
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
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


class _OneCharacterSeparators(io.RawIOBase):
    """The bytes of a stream with every separator of several characters replaced by one."""

    def __init__(self, stream: BinaryIO, dialect: _Dialect) -> None:
        self._stream = stream
        self._before = dialect.separator.encode(dialect.encoding)
        self._after = dialect.delimiter.encode(dialect.encoding)
        self._held = b""  # what may be the beginning of a separator

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
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
