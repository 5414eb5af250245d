"""A population dealt out to ranks, for tests that compare them with one process."""

from __future__ import annotations

import numpy as np

from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.train.population import Population
from peel_ext.train.sharded.population import ShardedPopulation


def deal(population: Population, ranks: Collectives) -> ShardedPopulation:
    """The part of this rank."""
    users = Partition(len(population.user_vectors), ranks.size)
    items = Partition(population.num_items, ranks.size)
    rows = np.arange(len(population.user_vectors))[users.own(ranks.rank)]
    lists = population.lists.take(rows)
    return ShardedPopulation(
        rows, population.user_vectors[rows], population.item_vectors[items.own(ranks.rank)],
        population.user_group[rows], population.centroids, lists,
        ItemShard.of_users(lists, None, users, items, ranks), population.temperature,
        population.prior, ranks,
    )  # fmt: skip
