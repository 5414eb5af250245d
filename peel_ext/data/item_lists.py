"""Lists of items, one for each user, in CSR form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class ItemLists:
    """Lists of items, one for each user, in CSR form.

    ``lists[u]`` is the list of user u, ``len(lists)`` the number of users.

    Attributes:
        indptr: int64 [num_users + 1], from 0 and not descending.
        items: int64 [indptr[-1]], user u's are ``items[indptr[u] : indptr[u + 1]]``.

    Raises:
        TypeError: arrays that are not int64.
        ValueError: ``indptr`` does not rise from 0 to the number of items.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, array in (("indptr", self.indptr), ("items", self.items)):
            if array.dtype != np.int64:
                raise TypeError(f"{name} must be int64, got {array.dtype}")
            if array.ndim != 1:
                raise ValueError(f"{name} must be a vector, got shape {array.shape}")
        ends = self.indptr
        if len(ends) == 0 or ends[0] != 0 or ends[-1] != len(self.items) or np.any(self.counts < 0):
            raise ValueError(
                f"indptr must rise from 0 to the {len(self.items)} items, got {ends.tolist()[:1]} to "
                f"{ends.tolist()[-1:]}"
            )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, user: int) -> NDArray[np.int64]:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[user] for user in range(len(self)))

    @classmethod
    def empty(cls, num_users: int) -> ItemLists:
        """Lists of so many users, all without items."""
        return cls(np.zeros(num_users + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @classmethod
    def from_lists(cls, lists: Iterable[ArrayLike]) -> ItemLists:
        """Puts lists of integers together, one for each user."""
        parts = [np.asarray(each, dtype=np.int64) for each in lists]
        items = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        return cls.from_counts([len(each) for each in parts], items)

    @classmethod
    def from_counts(cls, counts: ArrayLike, items: NDArray[np.int64]) -> ItemLists:
        """Cuts items [m], which come by user, into lists of so many [num_users]."""
        ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        return cls(np.concatenate([np.zeros(1, dtype=np.int64), ends]), items)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.int64]], name: str) -> ItemLists:
        """Reads what :meth:`to_arrays` made under a name.

        Raises:
            KeyError: nothing of that name.
        """
        return cls(arrays[f"{name}_indptr"], arrays[f"{name}_items"])

    @classmethod
    def merged(cls, parts: Sequence[ItemLists], num_items: int) -> ItemLists:
        """Merges lists of the same users: the distinct items of all parts, ascending for each user.

        Args:
            parts: at least one.
            num_items: items are below.
        """
        num_users, size = len(parts[0]), max(num_items, 1)
        cells = [part.owners() * size + part.items for part in parts]  # one number for each pair
        merged = np.unique(np.concatenate(cells))
        ends = np.searchsorted(merged, np.arange(num_users + 1) * size)
        return cls(ends.astype(np.int64), merged % size)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Lengths of the lists, int64 [num_users]."""
        return np.diff(self.indptr)

    def owners(self) -> NDArray[np.int64]:
        """The user of each item, int64 [m]."""
        return np.repeat(np.arange(len(self)), self.counts)

    def places(self) -> NDArray[np.int64]:
        """The place of each item in its list from 0, int64 [m]."""
        return np.arange(len(self.items)) - np.repeat(self.indptr[:-1], self.counts)

    def take(self, users: NDArray[np.int64]) -> ItemLists:
        """The lists of some users [k], in their order; a user may come more than once."""
        counts = self.counts[users]
        taken = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        at = np.arange(taken[-1]) + np.repeat(self.indptr[users] - taken[:-1], counts)
        return ItemLists(taken, self.items[at])

    def where(self, kept: NDArray[np.bool_]) -> ItemLists:
        """The same lists without the items for which a mask [m] is false."""
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept)])
        return ItemLists(before[self.indptr], self.items[kept])

    def to_arrays(self, name: str) -> dict[str, NDArray[np.int64]]:
        """Both arrays as ``NAME_indptr`` and ``NAME_items``, as run folders keep them."""
        return {f"{name}_indptr": self.indptr, f"{name}_items": self.items}
