"""Stage 4: what every row is worth to every user group, with or without a learned controller."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.train.exposure import count_popularity, sum_exposure
from peel_ext.train.held_out import rank_unseen
from peel_ext.train.population import Population
from peel_ext.train.value_regression import RowFeatures, fit_value_regression


def regress_row_values(
    population: Population,
    exposure: ExposureConfig,
    config: ControlConfig,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Row values [num_groups, num_items]: hits of held-out interactions that are to be expected.

    A perceptron learns them on part of every user's interactions, from features of the row in the
    group (:class:`peel_ext.train.value_regression.RowFeatures`), and foretells them from all.
    """
    earlier, held = population.without_some(config.held_out_share, config.max_users, config.seed)
    features, lists = _describe(earlier, exposure, device)
    hits = _count_hits(lists[:, : config.hit_depth], held, earlier)
    model = fit_value_regression(features, hits, config, device)
    return model.values(_describe(population, exposure, device)[0])


def _describe(
    population: Population, exposure: ExposureConfig, device: str
) -> tuple[RowFeatures, NDArray[np.int64]]:
    """The features of the rows, and the lists [num_users, depth] of unseen items."""
    num_groups, num_items = len(population.centroids), len(population.item_vectors)
    lists = rank_unseen(
        population.user_vectors, population.item_vectors, population.lists, exposure.depth, device
    )
    groups = population.user_group
    features = RowFeatures(
        sum_exposure(lists, groups, num_groups, num_items, exposure).astype(np.float32),
        count_popularity(population.lists, groups, num_groups, num_items).astype(np.float32),
        np.bincount(groups, minlength=num_groups),
        population.centroids,
        population.item_vectors,
    )
    return features, lists


def _count_hits(
    lists: NDArray[np.int64], held: ItemLists, population: Population
) -> NDArray[np.float32]:
    """Held-out interactions [num_groups, num_items] with an item of the user's list."""
    num_groups, num_items = len(population.centroids), len(population.item_vectors)
    owner = held.owners()
    shown = (np.arange(len(lists))[:, None] * num_items + lists)[lists >= 0]
    hit = np.isin(owner * num_items + held.items, shown)
    cells = population.user_group[owner[hit]] * num_items + held.items[hit]
    counts = np.bincount(cells, minlength=num_groups * num_items)
    return counts.reshape(num_groups, num_items).astype(np.float32)
