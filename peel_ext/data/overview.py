"""The facts that a split must know of all interactions; processes that share them ask each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.interactions import Interactions


class Overview:
    """Answers where one process has all interactions."""

    def total(self, count: int) -> int:
        """The sum of a count over all processes."""
        return count

    def draw(self, interactions: Interactions, seed: int, dtype: Any) -> NDArray[np.floating[Any]]:
        """A random number [m] of [0, 1) for each interaction, drawn in the order of all of them.

        Args:
            interactions: all, or those this process has of all.
            seed: seeds the draw.
            dtype: float32 or float64.
        """
        return np.random.default_rng(seed).random(len(interactions), dtype=dtype)

    def value_at_rank(self, values: NDArray[np.float64], share: float) -> float:
        """The least value that at least a share of all, in (0, 1), do not exceed, counted from 0."""
        return float(np.quantile(values, share, method="higher"))

    def choose_users(self, users: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
        """Some of users [n], of whom all processes together choose so many at random.

        Args:
            users: ascending rows, those of this process.
            count: how many of all are chosen.
            seed: seeds the draw.
        """
        return np.random.default_rng(seed).choice(users, count, replace=False)

    def count_items(self, interactions: Interactions) -> NDArray[np.int64]:
        """For each interaction [m] how many there are in all with its item."""
        return np.bincount(interactions.item_rows, minlength=1)[interactions.item_rows]

    def restrict(
        self, parts: Sequence[Interactions], left: Sequence[Interactions]
    ) -> list[Interactions]:
        """Parts with the same maps without the users and items that have none of what is left.

        Args:
            parts: what to restrict.
            left: interactions with the same maps.
        """
        users, items = (
            np.unique(np.concatenate([each(part) for part in left]))
            for each in (Interactions.users_with_any, Interactions.items_with_any)
        )
        return [part.restrict(users, items) for part in parts]


#: Where there is one process.
WHOLE = Overview()
