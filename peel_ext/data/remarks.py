"""Remarks on what of the data is not used."""

from __future__ import annotations

from collections.abc import Callable

#: Told where some tables of a part have times and some have none.
SOME_HAVE_TIMES = "times are not used: only some of the files have them"


def once(on_remark: Callable[[str], None]) -> Callable[[str], None]:
    """The same, for remarks that have not been told yet: parts of a table have much in common."""
    told: set[str] = set()

    def tell(remark: str) -> None:
        if remark not in told:
            told.add(remark)
            on_remark(remark)

    return tell


def mixed_times(column: str) -> str:
    """The fault of a column of dates where others are of numbers, or the reverse."""
    return f"column {column}: some times are dates and some are numbers"


def failure_remark(failure: str) -> str:
    """The remark on times that cannot be read."""
    return f"{failure}; times are not used"


def dropped_remark(count: int) -> str:
    """The remark on rows without an id."""
    return f"{count:,} rows with a missing id are left out"


def text_remark(what: str, odd: str) -> str:
    """The remark on ids of users or items of which one is no integer."""
    return f"ids of {what} are text: {odd!r} is, most are integers"
