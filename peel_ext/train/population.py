"""Users, their interactions and vectors: what refinement and block control learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.device import fold_in_users
from peel_ext.train.held_out import draw_users, hold_out

#: Gradient steps of the fold-in that stands in for training without the held-out interactions.
FOLD_IN_STEPS = 5


class Members(Protocol):
    """Users and what they interacted with: all that a user group's own problem is made of."""

    @property
    def user_vectors(self) -> NDArray[np.float32]:
        """[num_users, dim]."""

    @property
    def user_group(self) -> NDArray[np.int64]:
        """[num_users]."""

    @property
    def lists(self) -> ItemLists:
        """Items of each user."""

    @property
    def temperature(self) -> float:
        """The temperature of pretraining."""

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""


@dataclass(frozen=True)
class Population:
    """Users, what they interacted with, and the model's vectors.

    Attributes:
        user_vectors: float32 [num_users, dim], of length 1 but for the prior.
        item_vectors: float32 [num_items, dim].
        user_group: int64 [num_users].
        centroids: float32 [num_groups, dim], the same.
        lists: training items of each user.
        temperature: temperature of pretraining.
        prior: the component of user vectors along the axis of the prior; 0: rows have none.
    """

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    user_group: NDArray[np.int64]
    centroids: NDArray[np.float32]
    lists: ItemLists
    temperature: float
    prior: float = 0.0

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.item_vectors)

    @property
    def group_sizes(self) -> NDArray[np.int64]:
        """Users of each group, int64 [num_groups]."""
        return np.bincount(self.user_group, minlength=len(self.centroids))

    def without_some(self, share: float, max_users: int, seed: int) -> tuple[Population, ItemLists]:
        """Some users as if a share of their items had not happened yet, and those items.

        Their vectors are folded in anew from what is left, as a new user's would be. The items'
        vectors have seen everything, so these users find the items held out too easily: what learns
        from them may not judge how good a list is. Item vectors without that knowledge would take a
        second pretraining. The regression of row values gains nothing from them (``docs/log.md``).
        """
        left, held_out = hold_out(self.lists, len(self.item_vectors), share, seed)
        users = draw_users(np.flatnonzero(held_out.counts), max_users, seed)
        left = left.take(users)
        vectors = fold_in_users(
            self.item_vectors, left.indptr, left.items, steps=FOLD_IN_STEPS, temperature=self.temperature,
            prior=self.prior,
        )  # fmt: skip
        return (
            Population(
                vectors, self.item_vectors, self.user_group[users], self.centroids, left,
                self.temperature, self.prior,
            ),
            held_out.take(users),
        )  # fmt: skip
