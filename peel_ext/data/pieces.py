"""What readers of all formats share: pieces of a file, and how columns are found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import DataError

#: Rows read at a time: enough to spread the cost of a piece, few enough not to weigh.
PIECE_ROWS = 1 << 18

_USER_NAMES = ("user_id", "userId", "user", "uid")
_ITEM_NAMES = ("item_id", "itemId", "movieId", "item", "iid")
_TIME_NAMES = ("timestamp", "time")


@dataclass(frozen=True)
class CodedStrings:
    """Strings as codes.

    Attributes:
        codes: integers [m].
        names: what each code stands for.
    """

    codes: NDArray[Any]
    names: list[str]

    def __len__(self) -> int:
        return len(self.codes)


Ids = NDArray[Any] | list[str] | CodedStrings


@dataclass(frozen=True)
class Piece:
    """A run of interactions: ids [m] of users and items, and float64 times [m] or None."""

    users: Ids
    items: Ids
    timestamps: NDArray[np.float64] | None


@dataclass(frozen=True)
class ColumnNames:
    """Names of columns that were asked for; None for the usual ones."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None

    @property
    def asked(self) -> bool:
        """Whether any was."""
        return any(name is not None for name in (self.user, self.item, self.timestamp))


def find_columns(file: Path, header: list[str], names: ColumnNames) -> tuple[int, int, int | None]:
    """Positions of user, item and timestamp in a header.

    Raises:
        DataError: one that is needed or was asked for is missing.
    """
    user = _find(file, header, names.user, _USER_NAMES)
    item = _find(file, header, names.item, _ITEM_NAMES)
    if names.timestamp is None and not set(_TIME_NAMES) & set(header):
        return user, item, None
    return user, item, _find(file, header, names.timestamp, _TIME_NAMES)


def _find(file: Path, header: list[str], asked: str | None, names: tuple[str, ...]) -> int:
    for name in (asked,) if asked is not None else names:
        if header.count(name) > 1:
            raise DataError(f"{file}: {header.count(name)} columns {name}, expected one")
        if name in header:
            return header.index(name)
    expected = asked if asked is not None else " or ".join(names)
    raise DataError(f"{file}: no column {expected}; columns are {', '.join(header) or 'none'}")
