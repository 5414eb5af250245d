"""The choice of a mixture, by the lists that budgets leave to users.

No held-out interaction judges it: item vectors have seen all there are, and foretell those far too
well. Instead a list is worth the share of the model's own softmax that it keeps, which is what it can be
expected to find.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.format import PlanesLayout
from peel_ext.nn.selection import minimum_bytes, select_blocks
from peel_ext.scale.transposition import Transposition
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.block_weights.mixture import Grouped, Mixture, mix, share_neighbours
from peel_ext.train.block_weights.tried_users import TriedUsers
from peel_ext.train.population import Population

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

    Args:
        population: users, interactions and vectors.
        exposure: constants of what rows are worth to a group by itself.
        config: its seed, and the most users whose lists are looked at.
        layout: the blocks that budgets take.
        device: the device that ranks (:func:`peel_ext.train.held_out.rank_unseen`).
    """
    own = measure_exposure(population, exposure, device)
    tried = TriedUsers.of(population, exposure, config, layout, device)
    return Trial(tried, own, population, population.item_vectors.shape[1], layout).choose()


class Trial:
    """Users under several budgets at once.

    Args:
        tried: the users.
        own: [num_groups, num_items], exposure; where processes have groups each, of the own ones.
        groups: centroids and sizes of all groups.
        dim: values of a row.
        layout: the blocks that budgets take.
        crossing: the way from what groups are worth to what items are worth, where several processes
            try together.
    """

    def __init__(
        self,
        tried: TriedUsers,
        own: NDArray[np.float64],
        groups: Grouped,
        dim: int,
        layout: PlanesLayout,
        crossing: Transposition | None = None,
    ) -> None:
        self._tried, self._own, self._groups, self._layout = tried, own, groups, layout
        self._crossing, self._first = crossing, 0
        self._by_item = own
        if crossing is not None:
            self._first = crossing.rows.start(crossing.ranks.rank)
            self._by_item = crossing.to_columns(own)
        num_items = own.shape[1]
        self._full_bytes = 4 * num_items * dim
        self._sizes = layout.item_group_sizes(num_items)
        self._costs = torch.from_numpy(layout.block_costs(self._sizes, dim, num_items))
        self._gains = torch.from_numpy(layout.layer_gains(np.zeros((0, dim), np.float32)))
        self._overhead = layout.overhead_bytes(len(self._sizes), num_items, False)

    def choose(self) -> tuple[NDArray[np.float64], Mixture]:
        """The row values of the mixture that serves users best, and that mixture.

        Another one than exposure as it is must win by two standard errors of the paired difference.
        """
        best = Mixture()
        kept = start = self.keep(best)
        for temperature in _TEMPERATURES:
            for share in _SHARES:
                other = Mixture(share, temperature)
                found = self.keep(other)
                noise = (found - start).std() / np.sqrt(max(len(found), 1))
                if found.mean() > kept.mean() and (found - start).mean() > _CLEARLY * noise:
                    best, kept = other, found
        near = share_neighbours(self._groups, best)
        return mix(self._own, self._look_around(near, best), best), best

    def keep(self, mixture: Mixture) -> NDArray[np.float64]:
        """The share each user keeps of the softmax over its list, [num_users], a mean of parts and budgets.

        Budgets below the minimum of a group are left out.
        """
        near = share_neighbours(self._groups, mixture)
        around, member_of = self._look_around(near, mixture), self._tried.member_of
        ascending = np.sort(mix(self._own, around, mixture), axis=1)
        held = self._held_layers(ascending)
        of_rank = np.repeat(np.arange(len(self._sizes)), self._sizes)
        kept = np.zeros(len(member_of))
        for users, groups, given in self._tried.parts:
            local = groups - self._first
            here = np.flatnonzero((local >= 0) & (local < len(self._own)))
            local, own = local[here], (groups == member_of)[here, None]
            cells = (local[:, None], users.rows[here])
            left = self._own[cells] - given[here] * own
            if mixture.share:
                shares = near[groups[here], member_of[here]][:, None]
                there = around[cells] - given[here] * shares
                left = np.maximum(left, mixture.share * there)
            item_group = of_rank[_descending_ranks(ascending, local, left)]
            for layers in held:
                kept[here] += users.keep(here, layers[local[:, None], item_group])
        if self._crossing is not None:
            kept = self._crossing.ranks.sum(torch.from_numpy(kept)).numpy()
        return kept / max(len(held) * len(self._tried.parts), 1)

    def _look_around(self, near: NDArray[np.float64], mixture: Mixture) -> NDArray[np.float64]:
        """What rows are worth around each of the groups, where that counts."""
        if not mixture.share:
            return self._own
        around: NDArray[np.float64] = near @ self._by_item
        return around if self._crossing is None else self._crossing.to_rows(around)

    def _held_layers(self, ascending: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        """Layers held [num_groups, num_item_groups] under each budget, of sorted row values."""
        edges = np.concatenate([[0], np.cumsum(self._sizes)])[:-1]
        worth = np.add.reduceat(ascending[:, ::-1], edges, axis=1)
        weights = (torch.from_numpy(worth)[:, :, None] * self._gains).float()
        least = weights.new_zeros(1, dtype=torch.int64)
        if len(weights):
            minimum = minimum_bytes(weights, self._costs, self._layout, self._overhead)
            least = minimum.max().long().view(1)
        if self._crossing is not None:
            least = self._crossing.ranks.max(least)
        held = []
        for share in _BUDGET_SHARES:
            budget = int(share * self._full_bytes)
            if budget >= int(least):
                masks = select_blocks(weights, self._costs, self._layout, budget, self._overhead)
                layers = torch.arange(weights.shape[2], device="cpu")
                held.append((masks[:, :, None] >> layers & 1).sum(dim=2).numpy())
        return held


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
