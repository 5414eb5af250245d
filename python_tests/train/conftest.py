"""A small population with tastes, for the stages after pretraining."""

from __future__ import annotations

import pytest

from peel_ext.config import ClusteringConfig, PretrainingConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.clustering import cluster_users
from peel_ext.train.population import Population
from peel_ext.train.pretraining import pretrain


@pytest.fixture(scope="session")
def population() -> Population:
    """200 users in 3 groups, 150 items, 16 dimensions."""
    made = make_interactions(SyntheticConfig(num_users=200, num_items=150, mean_interactions=15))
    lists = made.csr()
    config = PretrainingConfig(embedding_dim=16, epochs=5, steps_per_epoch=8)
    vectors = pretrain(lists, made.num_items, config)
    centroids, group = cluster_users(
        vectors.users, ClusteringConfig(num_groups=3), prior=vectors.prior
    )
    return Population(vectors.users, vectors.items, group, centroids, lists, 0.1, vectors.prior)
