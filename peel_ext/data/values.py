"""Values of a column beside ids: times and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ValueReadingError(Exception):
    """A value that cannot be read.

    Attributes:
        row: the row of the batch.
        message: what is wrong with it.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row
        self.message = message


def unify_text(column: Any) -> Any:
    """A column whose strings, if it has any, are of a type that all of pyarrow knows."""
    import pyarrow

    types = pyarrow.types
    if types.is_string_view(column.type):
        return column.cast(pyarrow.large_string())
    if types.is_dictionary(column.type) and types.is_string_view(column.type.value_type):
        dictionary = column.dictionary.cast(pyarrow.large_string())
        return pyarrow.DictionaryArray.from_arrays(column.indices, dictionary)
    return column


def read_times(column: Any) -> tuple[NDArray[np.float64], bool]:
    """Times float64 [m]: seconds since 1970 of dates and timestamps, numbers as they are.

    Text is a number, or a date as of ISO 8601 with or without time and zone; without one it is UTC.

    Returns:
        The times, and whether they are of dates.

    Raises:
        ValueReadingError: no such column, or a value that is missing or is none.
    """
    import pyarrow

    types = pyarrow.types
    column = _plain(column)
    if types.is_date(column.type):
        column = column.cast(pyarrow.timestamp("ms"))
    if types.is_timestamp(column.type):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
        _check_no_null(column)
        ticks = column.cast(pyarrow.int64()).to_numpy(zero_copy_only=False)
        return np.asarray(ticks / per_second, dtype=np.float64), True
    try:
        return read_numbers(column, "times"), False
    except ValueReadingError as error:
        if not _is_text(column):
            raise
        try:
            return read_times(_parse_dates(column))
        except pyarrow.ArrowInvalid:
            row = error.row or first_failing(column, _parse_dates)
            text = column[row].as_py()
            if _is_date(column.slice(row, 1)):
                raise ValueReadingError(row, f"{text!r} is a date, and others are not") from None
            raise ValueReadingError(
                row, f"{text!r} is not a finite number and no date of ISO 8601"
            ) from None


def read_numbers(column: Any, what: str) -> NDArray[np.float64]:
    """Finite numbers float64 [m].

    Raises:
        ValueReadingError: no numbers, or one that is missing or not finite.
    """
    import pyarrow

    types = pyarrow.types
    column = given = _plain(column)
    if _is_text(column):
        try:
            column = _parse_numbers(column)
        except pyarrow.ArrowInvalid:
            row = first_failing(column, _parse_numbers)
            raise ValueReadingError(
                row, f"{column[row].as_py()!r} is not a finite number"
            ) from None
    elif not any(
        test(column.type)
        for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    ):
        raise ValueReadingError(0, f"holds {column.type}, expected {what}")
    _check_no_null(column)
    numbers = column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueReadingError(row, f"{given[row].as_py()!r} is not a finite number")
    return np.array(numbers)


def _plain(column: Any) -> Any:
    """The column without a dictionary."""
    import pyarrow

    is_coded = pyarrow.types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if is_coded else column


def _is_text(column: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type))


def _check_no_null(column: Any) -> None:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueReadingError(row, "is missing")


def _parse_numbers(column: Any) -> Any:
    """Numbers of text; ArrowInvalid where one is none, blanks and quotes around it left out."""
    import pyarrow
    import pyarrow.compute as compute

    try:
        return column.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        return compute.utf8_trim(column, ' \t"').cast(pyarrow.float64())


def _parse_dates(column: Any) -> Any:
    """Timestamps of text; ArrowInvalid where one is none."""
    import pyarrow
    import pyarrow.compute as compute

    text = compute.utf8_trim(column, ' \t"')
    text = compute.replace_substring_regex(text, r"^(\d{4})/(\d{2})/(\d{2})", r"\1-\2-\3")
    plain = compute.replace_substring_regex(text, r"\s*(Z|UTC|GMT|[+-]00:?00)$", "")
    for kind in (pyarrow.timestamp("us"), pyarrow.timestamp("ns")):
        try:
            return plain.cast(kind)
        except pyarrow.ArrowInvalid:
            continue
    return text.cast(pyarrow.timestamp("us", "UTC"))


def _is_date(value: Any) -> bool:
    import pyarrow

    try:
        _parse_dates(value)
    except pyarrow.ArrowInvalid:
        return False
    return True


def first_failing(column: Any, parse: Callable[[Any], Any]) -> int:
    """The first value that a parser refuses, by halves."""
    import pyarrow

    low, high = 0, len(column)  # the first `low` are fine, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        try:
            parse(column.slice(0, middle))
        except pyarrow.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
