"""Interactions that look like those of a shop: Zipf popularity, latent tastes, drift over time.

The constants here were chosen so that, with the default settings, these statistics lie within the range
of three real data sets. No model of this package took part; ``bench/calibration.py`` measures them.

========================================  =======  =======  =====  ====
statistic                                 Gowalla  ml-100k  Toys   ours
========================================  =======  =======  =====  ====
Gini coefficient of items' interactions   .435     .629     .436   .492
Gini coefficient of users' interactions   .467     .472     .303   .379
Recall@20 of popularity over item-kNN's   .174     .575     .239   .426
Recall@20 of ALS over item-kNN's          .941     1.083    1.255  1.135
held out, in the user's favourite cluster .742     .235     .333   .265
========================================  =======  =======  =====  ====

The recalls are those of a random fifth of each user's interactions, with the items of the rest left out.
The last line is the share of these that lie in the one of 40 item clusters that has most of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.interactions import IdMap, Interactions

#: Moments at which popularity and tastes are drawn anew; between them they stand still.
_MOMENTS = 12

#: Concentration of a user's liking: about so many tastes have most of it.
_LIKED_TASTES = 1.0

#: How much an item counts on each of the shelves it stands on.
_SHELF_SHARES = (1.0, 0.3, 0.1)

#: Zipf's exponent of popularity, and the rank below which it levels off.
_ZIPF_EXPONENT, _ZIPF_OFFSET = 0.9, 10

#: Draws that hit an item the user has already are made again this often, then given up.
_ROUNDS = 12


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and shape of a synthetic data set.

    Attributes:
        num_users: users.
        num_items: items.
        mean_interactions: distinct items of a user, on average, about.
        num_tastes: every item belongs to a few of them; a user likes a few.
        drift: how far popularity and tastes move over the whole time, from 0 (they stand still) to
            1 (an item has its day and is forgotten, a user likes something else at the end).
        seed: seeds all draws.

    Raises:
        ValueError: a number outside its range.
    """

    num_users: int = 2000
    num_items: int = 3000
    mean_interactions: int = 40
    num_tastes: int = 40
    drift: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_users", "num_items", "mean_interactions", "num_tastes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.drift <= 1:
            raise ValueError(f"drift must lie in [0, 1], got {self.drift}")


def make_interactions(config: SyntheticConfig | None = None) -> Interactions:
    """Draws interactions, in the order of time.

    A user's activity is log-normal. Its liking of tastes is a sparse Dirichlet mixture, of which about
    one taste has most, and it moves from one mixture to another over time. To interact the user picks
    a moment, a taste by liking, and an item of the taste by popularity, which follows Zipf's law and
    rises and falls around a day of the item's own.
    Memory and time are in proportion to interactions, and to items times a dozen moments.

    Args:
        config: size and shape.

    Returns:
        Distinct interactions with ids equal to rows and timestamps in [0, 1), ascending.
    """
    config = config or SyntheticConfig()
    rng = np.random.default_rng(config.seed)
    shelves = _Shelves(config, rng)
    wanted = np.clip(
        rng.lognormal(np.log(config.mean_interactions) - 0.25, 0.7, config.num_users),
        min(5, config.num_items), max(config.num_items // 2, 1),
    ).astype(np.int64)  # fmt: skip
    likings = rng.dirichlet(
        np.full(config.num_tastes, _LIKED_TASTES / config.num_tastes), (2, config.num_users)
    )
    pairs, times = np.zeros(0, np.int64), np.zeros(0)
    missing = wanted
    for _ in range(_ROUNDS):
        users = np.repeat(np.arange(config.num_users), missing)
        moments = rng.random(len(users))
        late = rng.random(len(users)) < config.drift * moments
        tastes = _choose_tastes(likings, late * config.num_users + users, rng)
        items = shelves.draw((moments * _MOMENTS).astype(np.int64), tastes, rng)
        drawn = np.concatenate([pairs, users * config.num_items + items])
        pairs, first = np.unique(drawn, return_index=True)
        times = np.concatenate([times, moments])[first]
        held = np.bincount(pairs // config.num_items, minlength=config.num_users)
        missing = wanted - held
        if not missing.any():
            break
    order = np.argsort(times, kind="stable")
    user_rows, item_rows = np.divmod(pairs[order], config.num_items)
    return Interactions(
        user_rows.astype(np.int32),
        item_rows.astype(np.int32),
        times[order],
        IdMap(np.arange(config.num_users)),
        IdMap(np.arange(config.num_items)),
    )


class _Shelves:
    """The items of every taste, with their popularity at every moment."""

    def __init__(self, config: SyntheticConfig, rng: np.random.Generator) -> None:
        rank = rng.permutation(config.num_items)
        popularity = 1 / (rank + _ZIPF_OFFSET) ** _ZIPF_EXPONENT
        day = rng.random(config.num_items)
        middle = (np.arange(_MOMENTS) + 0.5) / _MOMENTS
        # An item stands on several shelves, on the first in full and on the others a little.
        shares = np.array(_SHELF_SHARES)
        tastes = rng.integers(config.num_tastes, size=(config.num_items, len(shares)))
        self._items = np.argsort(tastes, axis=None, kind="stable") // len(shares)  # by taste
        places = np.argsort(tastes, axis=None, kind="stable")
        self._edges = np.searchsorted(tastes.ravel()[places], np.arange(config.num_tastes + 1))
        weight = popularity[self._items] * shares[places % len(shares)]
        bell = np.exp(-(((middle[:, None] - day[self._items]) / 0.15) ** 2))
        current = weight * (1 - config.drift + config.drift * 4 * bell)  # [moments, places]
        self._sums = np.concatenate([np.zeros((_MOMENTS, 1)), current.cumsum(axis=1)], axis=1)

    def draw(
        self, moments: NDArray[np.int64], tastes: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """An item [m] for each moment and taste [m]; of an empty taste, any."""
        places = np.empty(len(moments), dtype=np.int64)
        for moment in range(_MOMENTS):
            which = np.flatnonzero(moments == moment)
            sums = self._sums[moment]
            low = sums[self._edges[tastes[which]]]
            high = sums[self._edges[tastes[which] + 1]]
            empty = high <= low
            low, high = np.where(empty, 0, low), np.where(empty, sums[-1], high)
            points = low + rng.random(len(which)) * (high - low)
            places[which] = np.searchsorted(sums, points, side="right") - 1
        return np.asarray(self._items[np.minimum(places, len(self._items) - 1)])


def _choose_tastes(
    likings: NDArray[np.float64], owners: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """A taste [m] from the liking [..., num_tastes] of each owner [m]."""
    num_tastes = likings.shape[-1]
    # One ascending line of sums over all owners, so that a single search serves every draw.
    sums = likings.reshape(-1, num_tastes).cumsum(axis=1)
    sums /= sums[:, -1:]
    line = (sums + np.arange(len(sums))[:, None]).ravel()
    place = np.searchsorted(line, owners + rng.random(len(owners)), side="right")
    return np.asarray(np.clip(place - owners * num_tastes, 0, num_tastes - 1))
