"""The choice of a mixture, by the lists that budgets leave to users.

No held-out interaction judges it: item vectors have seen all there are, and foretell those far too
well. Instead a list is worth the share of the model's own softmax that it keeps, which is what it can be
expected to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.device import fold_in_users
from peel_ext.format import PlanesLayout
from peel_ext.nn.rotation import fit_rotation
from peel_ext.nn.selection import minimum_bytes, select_blocks
from peel_ext.train.block_weights.exposure import draw_members, measure_exposure
from peel_ext.train.block_weights.mixture import Mixture, mix, share_neighbours
from peel_ext.train.clustering import nearest_group
from peel_ext.train.held_out import hold_out, rank_unseen
from peel_ext.train.population import Population

#: Users whose lists are looked at: differences between mixtures are paired, and small.
_NUM_USERS = 1000

#: Items of a list that small budgets may reach, and those that are shown.
_DEPTH = 500
_SHOWN = 20

#: Budgets as shares of the bytes of the float32 table.
_BUDGET_SHARES = (0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)

#: Tried for :class:`Mixture`.
_SHARES = (0.25, 0.5, 1.0)
_TEMPERATURES = (0.05, 0.1, 0.2)

#: Standard errors by which a mixture must win to be taken.
_CLEARLY = 2.0


def choose_mixture(
    population: Population,
    exposure: ExposureConfig,
    config: ControlConfig,
    layout: PlanesLayout,
    device: str = "cpu",
) -> tuple[NDArray[np.float64], Mixture]:
    """Row values [num_groups, num_items] of the mixture that serves users best, and that mixture.

    Another one than exposure as it is must win by two standard errors of the paired difference.

    Args:
        population: users, interactions and vectors.
        exposure: constants of what rows are worth to a group by itself.
        config: its seed, and the most users whose lists are looked at.
        layout: the blocks that budgets take.
        device: the device that ranks (:func:`peel_ext.train.held_out.rank_unseen`).
    """
    own = measure_exposure(population, exposure, device)
    trial = Trial(population, own, exposure, config, layout, device)
    best = Mixture()
    kept = start = trial.keep(best)
    for temperature in _TEMPERATURES:
        for share in _SHARES:
            other = Mixture(share, temperature)
            found = trial.keep(other)
            noise = (found - start).std() / np.sqrt(max(len(found), 1))
            if found.mean() > kept.mean() and (found - start).mean() > _CLEARLY * noise:
                best, kept = other, found
    return mix(own, share_neighbours(population, best), best), best


class Trial:
    """Users under several budgets at once, each in three parts.

    As a known user; as a new one, folded in, without a share in what rows are worth; and as a new one
    that had half of its history when the group was chosen.

    Args:
        population: users, interactions and vectors.
        own: [num_groups, num_items], exposure.
        exposure: its constants.
        config: its seed and ``max_users``.
        layout: the blocks that budgets take.
        device: the device that ranks.
    """

    def __init__(
        self,
        population: Population,
        own: NDArray[np.float64],
        exposure: ExposureConfig,
        config: ControlConfig,
        layout: PlanesLayout,
        device: str = "cpu",
    ) -> None:
        self._population, self._own, self._layout = population, own, layout
        items = population.item_vectors
        self._sizes = layout.item_group_sizes(len(items))
        self._costs = torch.from_numpy(layout.block_costs(self._sizes, items.shape[1], len(items)))
        self._gains = torch.from_numpy(layout.layer_gains(items))
        self._overhead = layout.overhead_bytes(len(self._sizes), len(items), False)
        everybody, num_groups = population.user_group, len(population.centroids)
        measured = draw_members(
            everybody, num_groups, exposure.max_scores // max(len(items), 1), exposure.seed
        )
        generator = np.random.default_rng(config.seed)
        count = min(_NUM_USERS, config.max_users, len(measured))
        users = np.sort(generator.choice(measured, count, replace=False))
        history = population.lists.take(users)
        before = hold_out(history, len(items), 0.5, config.seed)[0]
        folded, earlier = (
            fold_in_users(
                items,
                lists.indptr,
                lists.items,
                temperature=population.temperature,
                prior=population.prior,
            )
            for lists in (history, before)
        )
        vectors = population.user_vectors[users]
        rotation = fit_rotation(torch.from_numpy(items), keep_mean=population.prior > 0).numpy()
        known, new = (
            _RankedUsers.of(each, population, history, rotation, layout, device)
            for each in (vectors, folded)
        )
        self._member_of = everybody[users]
        stands_for = (
            np.bincount(everybody, minlength=num_groups)
            / np.maximum(np.bincount(everybody[measured], minlength=num_groups), 1)
        )  # fmt: skip
        lists = rank_unseen(vectors, items, history, exposure.depth, device)
        given = _exposure_in(new.rows, lists, exposure) * stands_for[self._member_of, None]
        self._parts = [
            (known, self._member_of, np.zeros(given.shape)),
            (new, nearest_group(folded, population.centroids), given),
            (new, nearest_group(earlier, population.centroids), given),
        ]

    def keep(self, mixture: Mixture) -> NDArray[np.float64]:
        """The share each user keeps of the softmax over its list, [num_users], a mean of parts and budgets.

        Budgets below the minimum of a group are left out.
        """
        near = share_neighbours(self._population, mixture)
        around = near @ self._own if mixture.share else self._own
        ascending = np.sort(mix(self._own, near, mixture), axis=1)
        held = self._held_layers(ascending)
        of_rank = np.repeat(np.arange(len(self._sizes)), self._sizes)
        kept = np.zeros(len(self._member_of))
        for users, groups, given in self._parts:
            cells = (groups[:, None], users.rows)
            left = self._own[cells] - given * (groups == self._member_of)[:, None]
            if mixture.share:
                there = around[cells] - given * near[groups, self._member_of][:, None]
                left = np.maximum(left, mixture.share * there)
            item_group = of_rank[_descending_ranks(ascending, groups, left)]
            for layers in held:
                kept += users.keep(layers[groups[:, None], item_group])
        return kept / max(len(held) * len(self._parts), 1)

    def _held_layers(self, ascending: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        """Layers held [num_groups, num_item_groups] under each budget, of sorted row values."""
        edges = np.concatenate([[0], np.cumsum(self._sizes)])[:-1]
        worth = np.add.reduceat(ascending[:, ::-1], edges, axis=1)
        weights = (torch.from_numpy(worth)[:, :, None] * self._gains).float()
        least = minimum_bytes(weights, self._costs, self._layout, self._overhead).max()
        full = self._population.item_vectors.nbytes
        held = []
        for share in _BUDGET_SHARES:
            budget = int(share * full)
            if budget >= int(least):
                masks = select_blocks(weights, self._costs, self._layout, budget, self._overhead)
                layers = torch.arange(weights.shape[2], device="cpu")
                held.append((masks[:, :, None] >> layers & 1).sum(dim=2).numpy())
        return held


@dataclass(frozen=True)
class _RankedUsers:
    """Users' lists of unseen items, and what rows of so many layers make of their scores.

    Attributes:
        rows: int64 [num_users, depth], best first.
        scores: float32 [num_layers + 1, num_users, depth]; rows of no layer have none: -inf.
        shares: [num_users, depth], of the softmax, as multiples of those shown by the full table.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    shares: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        vectors: NDArray[np.float32],
        population: Population,
        seen: ItemLists,
        rotation: NDArray[np.float32],
        layout: PlanesLayout,
        device: str,
    ) -> _RankedUsers:
        """The lists of users with vectors [num_users, dim] who have seen some items."""
        items = population.item_vectors
        found = rank_unseen(vectors, items, seen, _DEPTH, device)
        rows = np.maximum(found, 0)
        store, scales = layout.encode(np.ascontiguousarray(items @ rotation))
        turned = vectors @ rotation
        num_layers, dim = len(layout.layer_bits), items.shape[1]
        scores = np.full((num_layers + 1, *rows.shape), -np.inf, dtype=np.float32)
        for layers in range(1, num_layers + 1):
            decoded = layout.decode(store, scales, (1 << layers) - 1, dim)
            scores[layers] = _score(turned, decoded, rows)
            scores[layers][found < 0] = -np.inf
        exact = _score(vectors, items, rows).astype(np.float64)
        shares = np.exp((exact - exact[:, :1]) / population.temperature) * (found >= 0)
        shown = shares[:, :_SHOWN].sum(axis=1, keepdims=True)
        return cls(rows, scores, np.divide(shares, shown, out=shares, where=shown > 0))

    def keep(self, layers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The shares [num_users] that are shown of rows of so many layers [num_users, depth]."""
        scores = np.take_along_axis(self.scores, layers[None], axis=0)[0]
        count = min(_SHOWN, scores.shape[1])
        shown = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        there = np.take_along_axis(scores, shown, axis=1) > -np.inf
        return np.asarray((np.take_along_axis(self.shares, shown, axis=1) * there).sum(axis=1))


def _score(
    vectors: NDArray[np.float32], items: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores [num_users, depth] of each user's own rows."""
    scores = np.empty(rows.shape, dtype=np.float32)
    for user, own in enumerate(rows):  # all at once would gather every row of every list
        scores[user] = items[own] @ vectors[user]
    return scores


def _exposure_in(
    rows: NDArray[np.int64], lists: NDArray[np.int64], config: ExposureConfig
) -> NDArray[np.float64]:
    """The exposure [num_users, depth] a user's own list gives to rows [num_users, depth]."""
    worth = 1 / (1 + np.exp((np.arange(1, lists.shape[1] + 1) - config.cutoff) / config.slope))
    given = np.zeros(rows.shape)
    for user, own in enumerate(lists):
        order = np.argsort(own, kind="stable")
        place = order[np.minimum(np.searchsorted(own, rows[user], sorter=order), len(own) - 1)]
        given[user] = np.where(own[place] == rows[user], worth[place], 0)
    return given


def _descending_ranks(
    ascending: NDArray[np.float64], groups: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The rank from 0 that values [num_users, depth] have among those of the user's group."""
    ranks = np.zeros(values.shape, dtype=np.int64)
    for group in np.unique(groups):
        members = groups == group
        below = np.searchsorted(ascending[group], values[members], side="right")
        ranks[members] = ascending.shape[1] - below
    return np.clip(ranks, 0, ascending.shape[1] - 1)
