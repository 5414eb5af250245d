"""Topics of user groups: items that are had more often in a group than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peel_ext.data import ItemLists


@dataclass(frozen=True)
class ItemShare:
    """An item and who has it.

    Attributes:
        row: row of the item.
        in_group: share of the group's users who have it in the training part.
        overall: the same of all users.
    """

    row: int
    in_group: float
    overall: float


@dataclass(frozen=True)
class Topic:
    """The topic of a user group.

    Attributes:
        group: user group.
        num_users: users of the group.
        distinctive: items whose share in the group is most above that of all users, the farthest first.
        popular: items of the largest share in the group.
    """

    group: int
    num_users: int
    distinctive: list[ItemShare]
    popular: list[ItemShare]


def most_popular(train: ItemLists, num_items: int, count: int) -> list[ItemShare]:
    """The items that most users have."""
    overall = _shares(train, num_items)
    return [_share(int(row), overall, overall) for row in _largest(overall, count)]


def describe_group(
    group: int, user_group: NDArray[np.int64], train: ItemLists, num_items: int, count: int
) -> Topic:
    """Describes the topic of a user group.

    Args:
        group: user group, of at least one user.
        user_group: int64 [num_users], the group of each user.
        train: training items of all users.
        num_items: items.
        count: items listed.
    """
    members = np.flatnonzero(user_group == group)
    own, overall = _shares(train.take(members), num_items), _shares(train, num_items)
    distinctive = [row for row in _largest(own - overall, count) if own[row] > overall[row]]
    return Topic(
        group,
        len(members),
        [_share(int(row), own, overall) for row in distinctive],
        [_share(int(row), own, overall) for row in _largest(own, count)],
    )


def _shares(lists: ItemLists, num_items: int) -> NDArray[np.float64]:
    return np.bincount(lists.items, minlength=num_items) / max(1, len(lists))


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    return np.argsort(-values, kind="stable")[:count]


def _share(row: int, own: NDArray[np.float64], overall: NDArray[np.float64]) -> ItemShare:
    return ItemShare(row, float(own[row]), float(overall[row]))
