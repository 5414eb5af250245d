"""The choice of a mixture by several processes; see :mod:`peel_ext.train.block_weights.mixture_trial`.

What is known of the users that are tried is brought to all ranks; what rows are worth stays with the
owners of the groups, who say what is left of the lists of these users in their groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.format import PlanesLayout
from peel_ext.nn.rotation import rotation_of_moments, second_moments
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.ranking import rank_unseen
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.scale.transposition import Transposition
from peel_ext.train.block_weights.mixture import Mixture
from peel_ext.train.block_weights.mixture_trial import Trial
from peel_ext.train.block_weights.tried_users import DEPTH, RankedUsers, TriedUsers, draw_tried
from peel_ext.train.clustering import nearest_group
from peel_ext.train.placement import ranking_device
from peel_ext.train.sharded.exposure import measure_exposure
from peel_ext.train.sharded.fold_in import fold_in_users
from peel_ext.train.sharded.held_out import hold_out
from peel_ext.train.sharded.population import ShardedPopulation


def choose_mixture(
    population: ShardedPopulation,
    exposure: ExposureConfig,
    config: ControlConfig,
    layout: PlanesLayout,
) -> tuple[NDArray[np.float64], Mixture]:
    """Row values [num_own_groups, num_items] of the mixture that serves users best, and that mixture."""
    return make_trial(population, exposure, config, layout).choose()


def make_trial(
    population: ShardedPopulation,
    exposure: ExposureConfig,
    config: ControlConfig,
    layout: PlanesLayout,
) -> Trial:
    """The trial of the users that one process draws."""
    own = measure_exposure(population, exposure)
    tried = _try_users(population, exposure, config, layout)
    crossing = Transposition(population.groups, population.seen.items, population.ranks)
    dim = population.item_vectors.shape[1]
    return Trial(tried, own, population, dim, layout, crossing)


def _try_users(
    population: ShardedPopulation,
    exposure: ExposureConfig,
    config: ControlConfig,
    layout: PlanesLayout,
) -> TriedUsers:
    """The users that one process draws, of all ranks."""
    ranks, seen, items = population.ranks, population.seen, population.item_vectors
    everybody = ranks.join(torch.from_numpy(population.user_group)).numpy()
    users, stands_for = draw_tried(
        everybody, len(population.centroids), population.num_items, exposure, config
    )
    own, device = seen.users.own(ranks.rank), ranking_device(population.device)
    rows = users[(users >= own.start) & (users < own.stop)]
    vectors = population.user_vectors[rows - own.start]
    folded, earlier = (
        fold_in_users(
            rows, items, histories, ranks, temperature=population.temperature,
            prior=population.prior,
        )
        for histories in (seen, _halve(population, rows - own.start, config.seed))
    )  # fmt: skip
    moments = ranks.sum(second_moments(torch.from_numpy(items)))
    rotation = rotation_of_moments(moments, 0, keep_mean=population.prior > 0).numpy()

    def rank(each: NDArray[np.float32]) -> RankedUsers:
        found = rank_unseen(rows, each, items, seen, DEPTH, ranks, device)
        needed, places = np.unique(np.maximum(found, 0), return_inverse=True)
        made = RankedUsers.of(
            each, found, population.fetch_items(needed), places.reshape(found.shape), rotation,
            layout, population.temperature,
        )  # fmt: skip
        scores = join(np.ascontiguousarray(made.scores.transpose(1, 0, 2))).transpose(1, 0, 2)
        return RankedUsers(join(made.rows), scores, join(made.shares))

    def join(own_users: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(ranks.join(torch.from_numpy(own_users)).numpy())

    lists = join(rank_unseen(rows, vectors, items, seen, exposure.depth, ranks, device))
    served = tuple(join(nearest_group(each, population.centroids)) for each in (folded, earlier))
    ranked = rank(vectors), rank(folded)
    return TriedUsers.of_lists(everybody[users], stands_for, ranked, lists, served, exposure)


def _halve(population: ShardedPopulation, at: NDArray[np.int64], seed: int) -> ItemShard:
    """Half of the interactions of own users at those places, and none of the others."""
    ranks, users, items = population.ranks, population.seen.users, population.seen.items
    history = ShardedData(population.lists.take(at), users, items)
    before = hold_out(history, "random", 0.5, seed, ranks)[0].lists
    counts = np.zeros(len(population.rows), dtype=np.int64)
    counts[at] = before.counts
    return ItemShard.of_users(
        ItemLists.from_counts(counts, before.items), None, users, items, ranks
    )
