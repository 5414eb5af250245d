"""Tables for people who look at a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Collection, Sequence

#: Between two columns.
_GAP = "  "

#: Characters that are left of a cell, if it had more.
_SHORTEST = 8


def format_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int],
    shorten: int | None = None,
) -> list[str]:
    """Lines of a table whose columns are aligned.

    Args:
        head: the heading of each column.
        rows: cells [num_rows][num_columns].
        right: columns that are aligned to the right.
        shorten: the column whose cells are cut where lines would be longer than the terminal is wide,
            down to eight characters.
    """
    cells = [[_printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    surplus = sum(widths) + len(_GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
    if shorten is not None and surplus > 0:
        widths[shorten] = min(widths[shorten], max(widths[shorten] - surplus, _SHORTEST))
        for row in cells:
            row[shorten] = _cut(row[shorten], widths[shorten])
    lines = []
    for row in cells:
        for at, width in enumerate(widths):
            padding = " " * (width - _width(row[at]))
            row[at] = padding + row[at] if at in right else row[at] + padding
        lines.append(_GAP.join(row).rstrip())
    return lines


def _printable(text: str) -> str:
    """The text without what would move a terminal's cursor."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )


def _cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis, in so many columns at most."""
    if _width(text) <= width:
        return text
    kept, taken = "", 0
    for each in text:
        taken += _width(each)
        if taken >= width:
            break
        kept += each
    return kept + "…"
