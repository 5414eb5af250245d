"""What a column of a table holds: ids, times, numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.tables import require_pyarrow

#: Words that programs write where a value is missing.
_MISSING_WORDS = {
    "", "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "Null", "none", "None", "NONE",
    "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "\\N",
}  # fmt: skip


class ValueReadingError(Exception):
    """A value that cannot be read.

    Attributes:
        row: of the batch.
        message: what is wrong with it.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row
        self.message = message


@dataclass(frozen=True, eq=False)
class CodedStrings:
    """Strings as codes.

    Attributes:
        codes: integers [m].
        names: what each code stands for; not every one need occur.
        typed: whether they are strings by their type, and never integers.
    """

    codes: NDArray[Any]
    names: list[str]
    typed: bool

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, which: NDArray[np.bool_]) -> CodedStrings:
        """Those where the mask is true."""
        return CodedStrings(self.codes[which], self.names, self.typed)


Ids = NDArray[Any] | CodedStrings


def read_ids(
    column: Any, tidy: Callable[[str], str] | None, keep_words: bool
) -> tuple[Ids, NDArray[np.bool_]]:
    """Ids [m] of a pyarrow array, and a mask [m] of those that are missing.

    Args:
        column: integers, whole floats or decimals, or strings.
        tidy: makes an id of a field of text; None: the type says what ids are.
        keep_words: whether words that mean "missing" are ids as any other; the empty one is not.

    Raises:
        ValueReadingError: no ids, or a number that is not whole.
    """
    types = require_pyarrow().types
    missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_null(kind):
        return np.zeros(len(column), np.int64), missing
    if types.is_string(kind) or types.is_large_string(kind):
        integers = _canonical_integers(column) if tidy is not None else None
        if integers is not None:
            return integers, missing
        return _read_strings(column, tidy, keep_words, missing)
    values = column.cast(kind) if types.is_dictionary(column.type) else column
    if types.is_integer(kind):
        whole = values.fill_null(0) if missing.any() else values
        # A copy, so that no piece keeps the memory of the whole batch.
        return np.array(whole.to_numpy(zero_copy_only=False)), missing
    if types.is_floating(kind) or types.is_decimal(kind):
        return _whole_numbers(values, missing)
    raise ValueReadingError(0, f"holds {column.type}, expected integers or strings")


def _canonical_integers(column: Any) -> NDArray[np.int64] | None:
    """Text as integers where each is written as an integer is ("7", not "007"), else None."""
    import pyarrow
    import pyarrow.compute as compute

    if column.null_count:
        return None
    if compute.all(compute.ascii_is_decimal(column)).as_py():
        bad = compute.and_(
            compute.starts_with(column, "0"), compute.greater(compute.binary_length(column), 1)
        )
    else:  # slower, and rarely needed
        bad = compute.invert(compute.match_substring_regex(column, "^(0|-?[1-9][0-9]*)$"))
    if compute.any(bad).as_py():
        return None
    try:
        return np.array(column.cast(pyarrow.int64()).to_numpy(zero_copy_only=False))
    except pyarrow.ArrowInvalid:  # beyond 64 bits
        return None


def _whole_numbers(
    column: Any, missing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Integers of floats, as pandas makes of integers where one was missing."""
    import pyarrow

    if pyarrow.types.is_decimal(column.type):
        filled = column.fill_null(0)
        try:
            whole = filled.cast(pyarrow.int64())
        except pyarrow.ArrowInvalid:
            row = _first_failing(filled, lambda part: part.cast(pyarrow.int64()))
            raise ValueReadingError(row, f"{filled[row]} is no whole number") from None
        return np.array(whole.to_numpy(zero_copy_only=False)), missing
    numbers = column.cast(pyarrow.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    missing = missing | np.isnan(numbers)
    bad = ~missing & ((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2.0**53))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueReadingError(
            row, f"{numbers[row]} is no whole number that a float holds exactly"
        )
    return np.where(missing, 0, numbers).astype(np.int64), missing


def _read_strings(
    column: Any,
    tidy: Callable[[str], str] | None,
    keep_words: bool,
    missing: NDArray[np.bool_],
) -> tuple[CodedStrings, NDArray[np.bool_]]:
    import pyarrow

    is_coded = pyarrow.types.is_dictionary(column.type)
    coded = column if is_coded else column.dictionary_encode()
    codes = np.array(coded.indices.fill_null(0).to_numpy(zero_copy_only=False))
    dictionary = coded.dictionary
    if len(dictionary) == 0:  # all are null
        return CodedStrings(np.zeros(len(column), np.int32), [""], tidy is None), missing
    if len(dictionary) > len(codes):  # one for all batches, of which this one has a few
        used, codes = np.unique(codes, return_inverse=True)
        dictionary = dictionary.take(pyarrow.array(used))
    names = _names(dictionary, codes, tidy)
    words = {""} if keep_words else _MISSING_WORDS
    lacking = np.fromiter((name in words for name in names), dtype=bool, count=len(names))
    return CodedStrings(codes, names, tidy is None), missing | lacking[codes]


#: In the place of a string that is not UTF-8.
_UNDECODABLE = "\0"


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _UNDECODABLE


def _names(dictionary: Any, codes: NDArray[Any], tidy: Callable[[str], str] | None) -> list[str]:
    """The distinct strings of a column, tidied where they are text; null is empty."""
    try:
        names = [name or "" for name in dictionary.to_pylist()]
    except UnicodeDecodeError:
        names = [_decode(raw or b"") for raw in dictionary.cast("large_binary").to_pylist()]
    if tidy is None:
        bad = [code for code, name in enumerate(names) if name == _UNDECODABLE]
    elif "\0" in "".join(names):
        bad = [code for code, name in enumerate(names) if "\0" in name]
    else:
        bad = []
    if bad:
        row = int(np.argmax(codes == bad[0]))
        raise ValueReadingError(row, "holds text that is not UTF-8, or a zero byte")
    return names if tidy is None else [tidy(name) for name in names]


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
            row = error.row or _first_failing(column, _parse_dates)
            text = column[row].as_py()
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
            row = _first_failing(column, _parse_numbers)
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


def _first_failing(column: Any, parse: Callable[[Any], Any]) -> int:
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
