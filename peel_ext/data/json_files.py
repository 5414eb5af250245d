"""JSON lines: an object on each line. pyarrow parses them, and json finds the line of an error."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peel_ext.data.tables import BLOCK_BYTES, LineRun, Table, open_bytes
from peel_ext.errors import DataError

#: Lines whose keys and values say what columns there are, and of which types.
_SAMPLE = 1000


def open_json_lines(file: Path, extent: tuple[int, int] | None = None) -> Table:
    """A table of a file of JSON lines, whose columns are the keys of its first objects.

    Args:
        file: the file.
        extent: only the lines that begin within these bytes (:class:`LineRun`); None for all.

    Raises:
        DataError: one of them is no object.
    """
    sample = [values for _, values in itertools.islice(_objects(file), _SAMPLE)]
    header = list(dict.fromkeys(key for values in sample for key in values))

    def batches(positions: list[int]) -> Iterator[Any]:
        import pyarrow

        kinds: dict[str, Any] = {}
        for order, at in enumerate(positions):
            values = [each.get(header[at]) for each in sample]
            # The first two are ids; of others there may be fractions later.
            kinds[header[at]] = _kind(file, header[at], values, is_id=order < 2)
        readable = {name: kind for name, kind in kinds.items() if kind is not None}
        for batch in _parse(file, readable, extent):
            # What has no type that could be read is missing throughout.
            columns = [
                pyarrow.nulls(len(batch)) if kind is None else batch.column(name)
                for name, kind in kinds.items()
            ]
            yield pyarrow.record_batch(columns, names=list(kinds))

    def place(row: int) -> str:
        if extent is not None:
            row += sum(1 for _ in _objects(file, LineRun(file, extent).start))
        number = next(itertools.islice(_objects(file), row, None), (0, None))[0]
        return f"{file}:{number}" if number else f"{file}: row {row}"

    return Table(str(file), header, batches, place)


def _kind(file: Path, name: str, values: list[Any], is_id: bool) -> Any:
    """The type of a column that begins with these values; None for what is no id and none of it."""
    import pyarrow

    found = {type(value) for value in values if value is not None}
    if not found:
        later = (each.get(name) for _, each in _objects(file))
        found = {type(value) for value in later if value is not None}
    for kinds, kind in (
        ({str}, pyarrow.string()),
        ({int}, pyarrow.int64() if is_id else pyarrow.float64()),
        ({int, float}, pyarrow.float64()),
        ({bool}, pyarrow.bool_()),
    ):
        if found <= kinds:
            return kind
    if not is_id:
        return None
    names = ", ".join(sorted(each.__name__ for each in found))
    raise DataError(f"{file}: {name} holds values of several or other types: {names}")


def _parse(file: Path, kinds: dict[str, Any], extent: tuple[int, int] | None) -> Iterator[Any]:
    import pyarrow
    import pyarrow.json

    try:
        with open_bytes(file) if extent is None else LineRun(file, extent) as stream:
            if isinstance(stream, LineRun) and stream.left == 0:
                return
            yield from pyarrow.json.open_json(
                stream,
                pyarrow.json.ReadOptions(block_size=BLOCK_BYTES),
                pyarrow.json.ParseOptions(
                    explicit_schema=pyarrow.schema(kinds), unexpected_field_behavior="ignore"
                ),
            )
    except pyarrow.ArrowInvalid as error:
        _explain(file, kinds)
        reason = str(error).splitlines()[0]
        if "straddling" in reason:
            reason = f"a line is longer than {BLOCK_BYTES:,} bytes"
        raise DataError(f"{file}: cannot be parsed: {reason}") from None


def _explain(file: Path, kinds: dict[str, Any]) -> None:
    """Raises the DataError of the first line that is no object or holds another type, if any."""
    import pyarrow

    for number, values in _objects(file):
        for name, kind in kinds.items():
            value = values.get(name)
            try:
                if isinstance(value, float) and pyarrow.types.is_integer(kind):
                    raise TypeError
                pyarrow.scalar(value, kind)
            except (pyarrow.ArrowException, TypeError, OverflowError):
                raise DataError(
                    f"{file}:{number}: {name} is {values[name]!r}, expected {kind} as in the lines "
                    "before"
                ) from None


def _objects(file: Path, stop: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object of every line that is not blank, and the number of the line.

    Args:
        file: the file.
        stop: a byte; only lines that begin before it, or None for all.
    """
    with open_bytes(file) if stop is None else LineRun(file, (0, stop)) as stream:
        for number, line in enumerate(io.BufferedReader(stream), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}:{number}: no JSON: {error}") from None
            if not isinstance(values, dict):
                raise DataError(
                    f"{file}:{number}: expected an object on each line, as in "
                    f'{{"user_id": 1, "item_id": 2}}, got {type(values).__name__}'
                )
            yield number, values
