"""Ids of users and items in a column of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.tables import require_pyarrow
from peel_ext.data.values import ValueReadingError, first_failing

#: Words that programs write where a value is missing.
_MISSING_WORDS = {
    "", "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "Null", "none", "None", "NONE",
    "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "\\N",
}  # fmt: skip


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
            row = first_failing(filled, lambda part: part.cast(pyarrow.int64()))
            raise ValueReadingError(row, f"{filled[row]} is no whole number") from None
        return np.array(whole.to_numpy(zero_copy_only=False)), missing
    given = column.to_numpy(zero_copy_only=False).dtype
    limit = 2.0 ** (np.finfo(given).nmant + 1)  # from where on not all integers are told apart
    numbers = column.cast(pyarrow.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    missing = missing | np.isnan(numbers)
    bad = ~missing & ((numbers != np.floor(numbers)) | (np.abs(numbers) >= limit))
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
