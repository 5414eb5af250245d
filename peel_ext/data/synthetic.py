"""Interactions that look like those of a small shop: Zipf popularity times tastes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peel_ext.data.interactions import IdMap, Interactions


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and shape of a synthetic data set.

    Attributes:
        num_users: users.
        num_items: items.
        mean_interactions: distinct items of a user, on average, about.
        num_tastes: every item belongs to one; a user mixes a few.
        seed: of everything.
    """

    num_users: int = 2000
    num_items: int = 3000
    mean_interactions: int = 40
    num_tastes: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_users", "num_items", "mean_interactions", "num_tastes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def make_interactions(config: SyntheticConfig | None = None) -> Interactions:
    """Draws interactions: how often an item is chosen is its popularity times how the user likes it.

    Args:
        config: size and shape.

    Returns:
        Interactions with ids equal to rows and timestamps that rise for each user.
    """
    config = config or SyntheticConfig()
    rng = np.random.default_rng(config.seed)
    popularity = 1 / (np.arange(config.num_items) + 10) ** 0.8
    popularity = rng.permutation(popularity)
    taste = rng.integers(config.num_tastes, size=config.num_items)
    liking = rng.dirichlet(np.full(config.num_tastes, 0.15), size=config.num_users)
    length = np.clip(
        rng.lognormal(np.log(config.mean_interactions) - 0.25, 0.7, config.num_users),
        min(5, config.num_items), max(config.num_items // 2, 1),
    ).astype(np.int64)  # fmt: skip
    users, items = [], []
    for user in range(config.num_users):
        # The largest of log weight plus Gumbel noise: a weighted draw without repetition.
        weight = np.log(popularity) + np.log(liking[user, taste] + 0.003)
        keys = weight + rng.gumbel(size=config.num_items)
        chosen = np.argsort(-keys)[: length[user]]
        users.append(np.full(len(chosen), user))
        items.append(rng.permutation(chosen))
    user_rows = np.concatenate(users)
    item_rows = np.concatenate(items)
    return Interactions(
        user_rows.astype(np.int64),
        item_rows.astype(np.int64),
        np.arange(len(user_rows), dtype=np.float64),
        IdMap(np.arange(config.num_users)),
        IdMap(np.arange(config.num_items)),
    )
