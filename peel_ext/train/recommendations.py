"""Recommendations of a run to many users, and the same as a data frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peel_ext.data import IdMap, ItemLists
from peel_ext.errors import DataError
from peel_ext.train.frames import require_pandas

#: Items that users at some positions [m] are not to be shown.
ExcludeItems = Callable[[NDArray[np.int64]], ItemLists]


class Ranked(NamedTuple):
    """The best items of some users.

    Attributes:
        rows: int64 [m, n], rows of the items, best first; -1 where there are fewer.
        scores: float32 [m, n]; -inf where there are fewer.
        nbytes: int64 [m], of the table each user was ranked with.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    nbytes: NDArray[np.int64]

    @classmethod
    def empty(cls, num_users: int, n: int) -> Ranked:
        """Nothing found for anybody yet."""
        return cls(
            np.full((num_users, n), -1, dtype=np.int64),
            np.full((num_users, n), -np.inf, dtype=np.float32),
            np.zeros(num_users, dtype=np.int64),
        )

    def put(
        self,
        users: NDArray[np.int64],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        nbytes: int | NDArray[np.int64],
    ) -> None:
        """Notes what was found for some of the users."""
        self.rows[users] = rows
        self.scores[users] = scores
        self.nbytes[users] = nbytes


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The best items of some users by their ids.

    Attributes:
        users: ids [m], int64 or objects of type str.
        items: ids [m, n], best first, int64 or objects of type str. Where there are fewer: -1 among
            integers, of which the score tells that it is no id, None among strings.
        scores: float32 [m, n]; -inf where there are fewer.
    """

    users: NDArray[Any]
    items: NDArray[Any]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a line for every item: user_id, item_id, rank from 1, score.

        Raises:
            DependencyError: pandas is not installed.
        """
        pandas = require_pandas("Recommendations.to_frame")
        there = self.scores > -np.inf
        return pandas.DataFrame(
            {
                "user_id": np.repeat(self.users, there.sum(axis=1)),
                "item_id": self.items[there],
                "rank": np.nonzero(there)[1] + 1,
                "score": self.scores[there],
            }
        )


def ids_or_none(ids: IdMap, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Ids of rows of any shape; of row -1, -1 among integers and None among strings."""
    found = ids.ids[rows]
    found[rows < 0] = -1 if ids.holds_integers else None
    return found


def rows_of(known: IdMap, ids: Sequence[int | str] | NDArray[Any], what: str) -> NDArray[np.int64]:
    """Rows int64 [m] of ids of any sequence.

    Raises:
        DataError: an unknown id; names it.
        TypeError: no sequence of ids.
    """
    if isinstance(ids, str | bytes) or not hasattr(ids, "__len__"):
        raise TypeError(f"{what}s must be a sequence of ids, got {ids!r}")
    try:  # as Python's own, whose types are looked at one by one
        return known.to_rows(ids.tolist() if isinstance(ids, np.ndarray) else list(ids))
    except DataError as error:
        raise DataError(f"{what} {error}") from None


def exclusions_of(
    known: IdMap, exclude: str | Sequence[Sequence[int | str]] | None, num_users: int
) -> ExcludeItems | None:
    """The items that :meth:`TrainedRun.rank_users` leaves out, from what ``recommend`` was given.

    Raises:
        DataError: an unknown item; names it.
        TypeError: lists that are none.
        ValueError: another text, or not a list for each user.
    """
    if isinstance(exclude, str):
        if exclude != "seen":
            raise ValueError(f'exclude must be "seen", None or lists of items, got {exclude!r}')
        return None
    if exclude is None:
        return lambda positions: ItemLists.empty(len(positions))
    if not hasattr(exclude, "__len__") or len(exclude) != num_users:
        raise ValueError(
            f"exclude must have a list of items for each of {num_users} users, "
            f"got {len(exclude) if hasattr(exclude, '__len__') else exclude!r}"
        )
    return ItemLists.from_lists(rows_of(known, items, "exclude item") for items in exclude).take
