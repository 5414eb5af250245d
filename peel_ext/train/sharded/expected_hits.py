"""Hits to be expected, by several processes; see :mod:`peel_ext.train.block_weights.expected_hits`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.scale.exchange import in_batches
from peel_ext.scale.transposition import Transposition
from peel_ext.train.block_weights.expected_hits import (
    Sample,
    ValueRegression,
    draw_sample,
    find_hits,
    fit_sample,
    make_regression,
)
from peel_ext.train.block_weights.row_features import (
    Counts,
    describe_rows,
    find_cosines,
    weigh_neighbours,
)
from peel_ext.train.sharded.exposure import (
    BATCH,
    GroupSums,
    count_popularity,
    rank_users,
    sum_exposure,
)
from peel_ext.train.sharded.population import ShardedPopulation


def regress_row_values(
    population: ShardedPopulation,
    exposure: ExposureConfig,
    config: ControlConfig,
) -> NDArray[np.float64]:
    """Row values [num_own_groups, num_items]: hits that are to be expected.

    What is drawn is what one process draws. Rank 0 gets the rows that are drawn, some four for every
    row with a hit, and fits the regression.
    """
    ranks = population.ranks
    earlier, held_out = population.without_some(
        config.held_out_share, config.max_users, config.seed
    )
    hits = _count_hits(earlier, held_out, config.hit_depth)
    num_hit = ranks.join(torch.from_numpy((hits > 0).sum(axis=1))).numpy()
    generator = torch.Generator().manual_seed(config.seed)
    own = draw_sample(_describe(earlier, exposure), hits, num_hit, generator)
    sample = Sample(*(ranks.collect(each) for each in own))
    model = make_regression(config)
    if ranks.is_first:
        model = fit_sample(sample, generator, config, population.device).cpu()
    _copy(model, population)
    return model.to(population.device).values(_describe(population, exposure))


def _copy(model: ValueRegression, population: ShardedPopulation) -> None:
    """Makes a regression that of rank 0."""
    with torch.no_grad():
        for each in model.state_dict().values():
            each.copy_(population.ranks.copy(each, each.shape))


@dataclass(frozen=True, eq=False)
class _OwnFeatures:
    """The features of every row in the own groups; see :class:`RowFeatures`, which has those of all."""

    exposure: NDArray[np.float32]
    popularity: NDArray[np.float32]
    near_exposure: NDArray[np.float32]
    near_popularity: NDArray[np.float32]
    all_exposure: NDArray[np.float32]
    all_popularity: NDArray[np.float32]
    cosines: NDArray[np.float32]
    lengths: NDArray[np.float32]
    group_sizes: NDArray[np.int64]
    groups: range

    def of_group(self, group: int) -> NDArray[np.float32]:
        """Features [num_items, NUM_FEATURES] of all rows in one of the groups."""
        at = group - self.groups.start
        exposure = Counts(self.exposure[at], self.near_exposure[at], self.all_exposure)
        popularity = Counts(self.popularity[at], self.near_popularity[at], self.all_popularity)
        return describe_rows(
            exposure, popularity, self.cosines[at], self.lengths, self.group_sizes, group
        )


def _describe(population: ShardedPopulation, config: ExposureConfig) -> _OwnFeatures:
    """The features of the rows in the own groups."""
    ranks, centroids, items = population.ranks, population.centroids, population.item_vectors
    crossing = Transposition(population.groups, population.seen.items, ranks)
    near = np.stack([weigh_neighbours(centroids, group) for group in range(len(centroids))])
    sizes = np.maximum(population.group_sizes, 1).astype(np.float32)[:, None]

    def look_around(own: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        table = crossing.to_columns(own)  # of all groups, of the own items
        overall = ranks.join(torch.from_numpy(table.sum(axis=0))).numpy()
        return crossing.to_rows(near @ (table / sizes)), overall

    everybody = np.arange(len(population.rows))
    exposure = sum_exposure(population, everybody, config).astype(np.float32)
    popularity = count_popularity(population).astype(np.float32)
    near_exposure, all_exposure = look_around(exposure)
    near_popularity, all_popularity = look_around(popularity)
    lengths = np.linalg.norm(items, axis=1)
    cosines = np.stack([find_cosines(items, lengths, centroid) for centroid in centroids])
    return _OwnFeatures(
        exposure, popularity, near_exposure, near_popularity, all_exposure, all_popularity,
        crossing.to_rows(cosines), ranks.join(torch.from_numpy(lengths)).numpy(),
        population.group_sizes, population.own_groups,
    )  # fmt: skip


def _count_hits(
    population: ShardedPopulation, held_out: ItemLists, depth: int
) -> NDArray[np.int32]:
    """Held-out interactions [num_own_groups, num_items] with an item of the user's list."""
    hits, everybody = GroupSums(population, np.int32), np.arange(len(population.rows))
    for part in in_batches(len(everybody), BATCH, population.ranks):
        at = everybody[part]
        lists, held = rank_users(population, at, depth), held_out.take(at)
        found = held.where(find_hits(lists, held))
        groups = population.user_group[at][found.owners()]
        hits.add(groups * population.num_items + found.items, None)
    return hits.cells
