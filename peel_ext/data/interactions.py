"""Interactions in memory: rows instead of ids, and the maps between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.item_lists import ItemLists
from peel_ext.errors import DataError

_Value = TypeVar("_Value", bound=np.generic)

#: Duplicates are looked for among this share of the users at a time.
_SHARES = 16


@dataclass(frozen=True, eq=False)
class IdMap:
    """Ids of users or items and their rows 0, 1, ...

    Attributes:
        ids: int64, or objects of type str, distinct and ascending; the position is the row.
    """

    ids: NDArray[Any]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def holds_integers(self) -> bool:
        """True if ids are integers, not strings."""
        return self.ids.dtype.kind == "i"

    @classmethod
    def from_values(
        cls, values: Sequence[int | str] | NDArray[Any]
    ) -> tuple[IdMap, NDArray[np.int64]]:
        """The map of the distinct values, and the row of each.

        Args:
            values: integers, or strings.

        Raises:
            DataError: values of another or of mixed type.
        """
        array = np.asarray(values) if isinstance(values, np.ndarray) else _as_array(values)
        if array.dtype.kind in "iu":
            if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
                raise DataError(f"ids must be below 2^63, got {int(array.max())}")
            ids, rows = np.unique(array.astype(np.int64), return_inverse=True)
            return cls(ids), rows.astype(np.int64)
        if array.dtype.kind not in "UO":
            raise DataError(f"ids must be all integers or all strings, got {array.dtype}")
        if array.dtype.kind == "O":
            array = _as_array(array.tolist())
            if array.dtype.kind == "i":
                return cls.from_values(array)
        # A fixed-width array would give every id the bytes of the longest; objects are shared.
        names = array.tolist()
        distinct = sorted(set(names))
        row_of = {name: row for row, name in enumerate(distinct)}
        rows = np.fromiter((row_of[name] for name in names), np.int64, count=len(names))
        return cls(_objects(distinct)), rows

    def to_rows(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        """Rows int64 of ids.

        Raises:
            DataError: an id that is not in the map.
        """
        wanted = ids if isinstance(ids, np.ndarray) else _as_array(ids)
        if wanted.dtype == np.uint64:  # which NumPy compares with others as floats
            wanted = _as_array(wanted.tolist())
        if wanted.size == 0:
            return np.zeros(0, dtype=np.int64)
        if (wanted.dtype.kind in "iu") != self.holds_integers:
            kind = "integers" if self.holds_integers else "strings"
            raise DataError(f"id {wanted.tolist()[0]!r} is not known: ids are {kind}")
        at = np.searchsorted(self.ids, wanted)
        known = at < len(self.ids)
        known[known] = self.ids[at[known]] == wanted[known]
        if not known.all():
            raise DataError(f"id {wanted.tolist()[int(np.argmin(known))]!r} is not known")
        return at.astype(np.int64)

    def to_ids(self, rows: Sequence[int] | NDArray[np.int64]) -> list[int | str]:
        """Ids of rows, as Python integers or strings."""
        ids: list[int | str] = self.ids[np.asarray(rows, dtype=np.int64)].tolist()
        return ids

    def select(self, rows: NDArray[np.int64]) -> IdMap:
        """The map of some ascending rows alone."""
        return IdMap(self.ids[rows])


class RowsElsewhere(IdMap):
    """Rows of which other processes have the ids; here only their number is known."""

    def __init__(self, count: int) -> None:
        super().__init__(np.zeros(0, dtype=np.int64))
        object.__setattr__(self, "_count", count)

    def __len__(self) -> int:
        count: int = self.__dict__["_count"]
        return count

    def select(self, rows: NDArray[np.int64]) -> IdMap:
        """The same of some rows alone."""
        return RowsElsewhere(len(rows))


def _objects(values: list[str]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _as_array(values: Sequence[int | str]) -> NDArray[Any]:
    """int64 from integers, objects from strings."""
    kinds = {type(value) for value in values}
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        try:
            return np.array([int(value) for value in values], dtype=np.int64)
        except OverflowError:
            raise DataError("ids must fit in 64 bits") from None
    if kinds != {str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"ids must be all integers or all strings, got {names}")
    return _objects([str(value) for value in values])


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions of users with items.

    Attributes:
        user_rows: int32 or int64 [m].
        item_rows: int32 or int64 [m].
        timestamps: float64 [m] or None, in the unit of the data.
        users: ids of the users.
        items: ids of the items.
        weights: float64 [m], how much each counts in training, or None where all count alike.
        positions: int64 [m], ascending: the place of each among all there are, where other processes
            have the rest; None where this is all.

    Raises:
        ValueError: arrays of different length, rows outside their map, or weights that are not finite
            and above 0.
    """

    user_rows: NDArray[np.integer]
    item_rows: NDArray[np.integer]
    timestamps: NDArray[np.float64] | None
    users: IdMap
    items: IdMap
    weights: NDArray[np.float64] | None = None
    positions: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.user_rows), len(self.item_rows)}
        others = (self.timestamps, self.weights, self.positions)
        lengths |= {len(each) for each in others if each is not None}
        if len(lengths) > 1:
            raise ValueError(f"arrays must have the same length, got {sorted(lengths)}")
        for name, rows, size in (
            ("user_rows", self.user_rows, len(self.users)),
            ("item_rows", self.item_rows, len(self.items)),
        ):
            if rows.size and not 0 <= rows.min() <= rows.max() < size:
                raise ValueError(
                    f"{name} must lie in [0, {size}), got {rows.min()} to {rows.max()}"
                )

        if self.weights is not None and not np.all((self.weights > 0) & (self.weights < np.inf)):
            bad = int(np.argmin((self.weights > 0) & (self.weights < np.inf)))
            raise ValueError(f"weights must be finite and above 0, [{bad}] is {self.weights[bad]}")

    def __len__(self) -> int:
        return len(self.user_rows)

    @classmethod
    def joined(cls, parts: Sequence[Interactions]) -> Interactions:
        """All of some with the same maps, in order; times and the like where all have them."""

        def together(arrays: list[NDArray[Any] | None]) -> NDArray[Any] | None:
            held = [each for each in arrays if each is not None]
            return np.concatenate(held) if len(held) == len(arrays) else None

        return cls(
            np.concatenate([part.user_rows for part in parts]),
            np.concatenate([part.item_rows for part in parts]),
            together([part.timestamps for part in parts]),
            parts[0].users,
            parts[0].items,
            together([part.weights for part in parts]),
            together([part.positions for part in parts]),
        )

    @property
    def num_users(self) -> int:
        """Users in the map, with interactions or without."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        """Items in the map."""
        return len(self.items)

    def csr(self) -> ItemLists:
        """Each user's distinct items, ascending."""
        pairs = self._pairs()
        pairs.sort()  # in place, as all that follows: there may be a hundred million
        if np.any(pairs[1:] == pairs[:-1]):
            pairs = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])]
        size = max(self.num_items, 1)
        indptr = np.searchsorted(pairs, np.arange(self.num_users + 1, dtype=np.int64) * size)
        return ItemLists(indptr.astype(np.int64), np.remainder(pairs, size, out=pairs))

    def csr_weights(self) -> NDArray[np.float64] | None:
        """The weights float64 of the distinct items of :meth:`csr`, those of repeats added up."""
        if self.weights is None:
            return None
        distinct, places = np.unique(self._pairs(), return_inverse=True)
        return np.bincount(places, self.weights, minlength=len(distinct)).astype(np.float64)

    def csr_timestamps(self) -> NDArray[np.float64] | None:
        """The timestamps float64 of the distinct items of :meth:`csr`, the first of repeats."""
        if self.timestamps is None:
            return None
        return np.asarray(self.timestamps[np.unique(self._pairs(), return_index=True)[1]])

    def users_with_any(self) -> NDArray[np.int64]:
        """Rows of the users with interactions, ascending."""
        return np.flatnonzero(np.bincount(self.user_rows, minlength=self.num_users))

    def items_with_any(self) -> NDArray[np.int64]:
        """Rows of the items with interactions, ascending."""
        return np.flatnonzero(np.bincount(self.item_rows, minlength=self.num_items))

    def select(self, which: NDArray[Any]) -> Interactions:
        """Those at the positions, or where the mask is true, with the same maps."""
        return Interactions(
            self.user_rows[which], self.item_rows[which], _take(self.timestamps, which),
            self.users, self.items, _take(self.weights, which), _take(self.positions, which),
        )  # fmt: skip

    def deduplicated(self) -> Interactions:
        """The first interaction of every (user, item) pair, in the order they came.

        It gets the weights of all of them, added up.
        """
        pairs = self._pairs()
        pairs.sort()
        if not np.any(pairs[1:] == pairs[:-1]):
            return self
        # Some users at a time, so that no index of everything is ever needed.
        keep = np.zeros(len(self), dtype=bool)
        weights = None if self.weights is None else np.zeros(len(self))
        for users in np.array_split(np.arange(self.num_users), _SHARES):
            if len(users) == 0:
                continue
            own = np.flatnonzero((self.user_rows >= users[0]) & (self.user_rows <= users[-1]))
            numbers = self.user_rows[own].astype(np.int64) * self.num_items
            numbers += self.item_rows[own]
            if weights is None or self.weights is None:
                keep[own[np.unique(numbers, return_index=True)[1]]] = True
            else:
                _, first, place = np.unique(numbers, return_index=True, return_inverse=True)
                keep[own[first]] = True
                weights[own[first]] = np.bincount(place, self.weights[own], minlength=len(first))
        left = self.select(keep)
        return left if weights is None else replace(left, weights=weights[keep])

    def without(self, others: Interactions) -> Interactions:
        """Those whose (user, item) pair is not among others with the same maps."""
        pairs, unwanted = self._pairs(), others._pairs()
        unwanted.sort()
        if len(unwanted) == 0:
            return self
        places = np.minimum(np.searchsorted(unwanted, pairs), len(unwanted) - 1)
        return self.select(unwanted[places] != pairs)

    def restrict(
        self, users: NDArray[np.int64] | None = None, items: NDArray[np.int64] | None = None
    ) -> Interactions:
        """The interactions between some users and items, whose maps become theirs alone.

        Args:
            users: ascending rows, or None for all.
            items: the same of items.
        """
        which = np.ones(len(self), dtype=bool)
        user_rows, user_map, kept = _renumber(self.user_rows, self.users, users)
        which &= kept
        item_rows, item_map, kept = _renumber(self.item_rows, self.items, items)
        which &= kept
        if which.all():
            return Interactions(
                user_rows, item_rows, self.timestamps, user_map, item_map, self.weights,
                self.positions,
            )  # fmt: skip
        return Interactions(
            user_rows[which], item_rows[which], _take(self.timestamps, which),
            user_map, item_map, _take(self.weights, which), _take(self.positions, which),
        )  # fmt: skip

    def _pairs(self) -> NDArray[np.int64]:
        """One number for each (user, item) pair, int64 [m]."""
        pairs = self.user_rows.astype(np.int64)
        pairs *= max(self.num_items, 1)
        pairs += self.item_rows
        return pairs


def _take(values: NDArray[_Value] | None, which: NDArray[Any]) -> NDArray[_Value] | None:
    return None if values is None else values[which]


def _renumber(
    rows: NDArray[np.integer], ids: IdMap, wanted: NDArray[np.int64] | None
) -> tuple[NDArray[np.integer], IdMap, NDArray[np.bool_]]:
    """Rows in the map of the wanted ones alone, that map, and a mask of those that are in it."""
    if wanted is None or len(wanted) == len(ids):
        return rows, ids, np.ones(len(rows), dtype=bool)
    row_of = np.full(len(ids), -1, dtype=rows.dtype)
    row_of[wanted] = np.arange(len(wanted))
    renumbered = row_of[rows]
    return renumbered, ids.select(wanted), renumbered >= 0
