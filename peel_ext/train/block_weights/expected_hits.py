"""Row values as hits that are to be expected, learned from held-out interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.train.block_weights.exposure import count_popularity, sum_exposure
from peel_ext.train.held_out import rank_unseen
from peel_ext.train.placement import FLOAT32_ON_CPU, to_array
from peel_ext.train.population import Population

#: The features of a row in a group, see :meth:`RowFeatures.of_group`.
NUM_FEATURES = 9

#: Sharpness of the weights with which other groups count as neighbours, in cosines.
_NEIGHBOUR_TEMPERATURE = 0.05

#: Rows without a hit in the sample, for every one with a hit.
_BLANKS_PER_HIT = 3


def regress_row_values(
    population: Population,
    exposure: ExposureConfig,
    config: ControlConfig,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Row values [num_groups, num_items]: hits of held-out interactions that are to be expected.

    A perceptron learns them on part of every user's interactions, from features of the row in the
    group (:class:`RowFeatures`), and foretells them from all.
    """
    earlier, held_out = population.without_some(
        config.held_out_share, config.max_users, config.seed
    )
    features, lists = _describe(earlier, exposure, device)
    hits = _count_hits(lists[:, : config.hit_depth], held_out, earlier)
    model = fit_value_regression(features, hits, config, device)
    return model.values(_describe(population, exposure, device)[0])


@dataclass(frozen=True)
class RowFeatures:
    """The features of every row in every user group.

    Attributes:
        exposure: [num_groups, num_items], without its shares of popularity.
        popularity: [num_groups, num_items], interactions of the group's users.
        group_sizes: [num_groups], users.
        centroids: [num_groups, dim], of length 1.
        item_vectors: [num_items, dim].
    """

    exposure: NDArray[np.float32]
    popularity: NDArray[np.float32]
    group_sizes: NDArray[np.int64]
    centroids: NDArray[np.float32]
    item_vectors: NDArray[np.float32]

    def of_group(self, group: int) -> NDArray[np.float32]:
        """Features [num_items, NUM_FEATURES] of all rows in one group.

        Logarithms per user of: popularity and exposure in the group, in the groups near it, and
        overall; then the logarithm of the rank by exposure, the cosine to the centroid, and the
        length of the item's vector.
        """
        near = self._neighbour_weights(group)
        sizes = np.maximum(self.group_sizes, 1).astype(np.float32)
        everyone = np.float32(max(int(self.group_sizes.sum()), 1))
        lengths = np.linalg.norm(self.item_vectors, axis=1)
        cosines = self.item_vectors @ self.centroids[group] / np.maximum(lengths, 1e-12)
        order = np.argsort(-(self.exposure[group] + 1e-3 * self.popularity[group]), kind="stable")
        rank = np.empty(len(order), dtype=np.float32)
        rank[order] = np.arange(len(order))
        columns = [np.log1p(rank), cosines, lengths]
        for table, floor in ((self.popularity, 0.5), (self.exposure, 1e-2)):
            columns += [
                np.log(table[group] / sizes[group] + floor / sizes[group]),
                np.log(near @ (table / sizes[:, None]) + floor / sizes[group]),
                np.log(table.sum(axis=0) / everyone + floor / everyone),
            ]
        return np.stack(columns, axis=1).astype(np.float32)

    def _neighbour_weights(self, group: int) -> NDArray[np.float32]:
        """Shares [num_groups] of the other groups, by the cosine of their centroids."""
        cosines = self.centroids @ self.centroids[group]
        weights = np.exp((cosines - 1) / np.float32(_NEIGHBOUR_TEMPERATURE))
        weights[group] = 0
        total = weights.sum()
        return weights / total if total > 0 else weights


class ValueRegression(nn.Module):
    """The logarithm of a Poisson rate from the features of a row: a perceptron of two hidden layers.

    Args:
        hidden_dim: width of both.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(NUM_FEATURES, hidden_dim, **FLOAT32_ON_CPU),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, **FLOAT32_ON_CPU),
            nn.ReLU(),
        )
        self.output = nn.Linear(hidden_dim, 1, **FLOAT32_ON_CPU)
        self.register_buffer("mean", torch.zeros(NUM_FEATURES, **FLOAT32_ON_CPU))
        self.register_buffer("spread", torch.ones(NUM_FEATURES, **FLOAT32_ON_CPU))

    def forward(self, features: Tensor) -> Tensor:
        """Log rates [...] of features [..., NUM_FEATURES]."""
        rates: Tensor = self.output(self.hidden((features - self.mean) / self.spread))
        return rates[..., 0]

    def values(self, features: RowFeatures) -> NDArray[np.float64]:
        """Row values [num_groups, num_items]: expected hits."""
        num_groups, num_items = features.exposure.shape
        values = np.empty((num_groups, num_items))
        with torch.no_grad():
            for group in range(num_groups):
                rates = self(torch.from_numpy(features.of_group(group)).to(self.mean.device))
                values[group] = to_array(rates.double().clamp(-50, 50).exp())
        return values


def fit_value_regression(
    features: RowFeatures, hits: NDArray[np.float32], config: ControlConfig, device: str = "cpu"
) -> ValueRegression:
    """Poisson regression of the hits of each row in each group, per user of the group.

    All rows with hits are fitted and, weighted up to all, as many times three of the others; Adam,
    the rate falling along a cosine.

    Args:
        features: with the held-out interactions out of sight.
        hits: [num_groups, num_items], held-out interactions the full model ranked near the top.
        config: settings.
        device: the device that computes, and that the regression will be on.
    """
    generator = torch.Generator().manual_seed(config.seed)
    rows, targets, weights = (part.to(device) for part in _sample(features, hits, generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # and no device's
        model = ValueRegression(config.hidden_dim).to(device)
    if len(rows) == 0:
        return model
    model.mean.copy_(rows.mean(dim=0))
    model.spread.copy_(rows.std(dim=0, correction=0).clamp(min=1e-6))
    with torch.no_grad():
        model.output.weight.mul_(0.1)
        model.output.bias.copy_(((targets * weights).sum() / weights.sum()).clamp(min=1e-12).log())
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    size = min(config.batch_size, len(rows))
    for _ in range(config.steps):
        batch = torch.randint(len(rows), (size,), generator=generator, device="cpu").to(device)
        rates = model(rows[batch])
        losses = rates.exp() - targets[batch] * rates
        optimiser.zero_grad()
        ((losses * weights[batch]).sum() / weights[batch].sum()).backward()
        optimiser.step()
        schedule.step()
    return model


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
    lists: NDArray[np.int64], held_out: ItemLists, population: Population
) -> NDArray[np.float32]:
    """Held-out interactions [num_groups, num_items] with an item of the user's list."""
    num_groups, num_items = len(population.centroids), len(population.item_vectors)
    owner = held_out.owners()
    shown = (np.arange(len(lists))[:, None] * num_items + lists)[lists >= 0]
    hit = np.isin(owner * num_items + held_out.items, shown)
    cells = population.user_group[owner[hit]] * num_items + held_out.items[hit]
    counts = np.bincount(cells, minlength=num_groups * num_items)
    return counts.reshape(num_groups, num_items).astype(np.float32)


def _sample(
    features: RowFeatures, hits: NDArray[np.float32], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Features [m, NUM_FEATURES], hits per user [m] and how many users-and-rows each stands for."""
    rows, targets, weights = [], [], []
    for group, own in enumerate(hits):
        size = int(features.group_sizes[group])
        if size == 0:
            continue
        found, blank = np.flatnonzero(own), np.flatnonzero(own == 0)
        count = min(len(blank), _BLANKS_PER_HIT * len(found) + 8)
        drawn = torch.randperm(len(blank), generator=generator, device="cpu")[:count].numpy()
        chosen = np.concatenate([found, blank[drawn]])
        share = np.concatenate([np.ones(len(found)), np.full(count, len(blank) / max(count, 1))])
        rows.append(features.of_group(group)[chosen])
        targets.append(own[chosen] / np.float32(size))
        weights.append((share * size).astype(np.float32))
    if not rows:
        none = torch.zeros(0, NUM_FEATURES, **FLOAT32_ON_CPU)
        return none, none[:, 0], none[:, 0]
    return (
        torch.from_numpy(np.concatenate(rows)),
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(np.concatenate(weights)),
    )
