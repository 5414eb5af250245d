"""Row values as hits that are to be expected, learned from held-out interactions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.train.block_weights.exposure import count_popularity, sum_exposure
from peel_ext.train.block_weights.row_features import NUM_FEATURES, Features, RowFeatures
from peel_ext.train.held_out import rank_unseen
from peel_ext.train.placement import FLOAT32_ON_CPU, to_array
from peel_ext.train.population import Population

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
    group (:class:`peel_ext.train.block_weights.row_features.RowFeatures`), and foretells them from all.
    """
    earlier, held_out = population.without_some(
        config.held_out_share, config.max_users, config.seed
    )
    features, lists = _describe(earlier, exposure, device)
    hits = _count_hits(lists[:, : config.hit_depth], held_out, earlier)
    model = fit_value_regression(features, hits, config, device)
    return model.values(_describe(population, exposure, device)[0])


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

    def values(self, features: Features) -> NDArray[np.float64]:
        """Row values [num_groups, num_items] of the groups whose features are here: expected hits."""
        values = np.empty(features.exposure.shape)
        with torch.no_grad():
            for at, group in enumerate(features.groups):
                rates = self(torch.from_numpy(features.of_group(group)).to(self.mean.device))
                values[at] = to_array(rates.double().clamp(-50, 50).exp())
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
    num_hit = (hits > 0).sum(axis=1)
    return fit_sample(draw_sample(features, hits, num_hit, generator), generator, config, device)


def make_regression(config: ControlConfig) -> ValueRegression:
    """The regression before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # and no device's
        return ValueRegression(config.hidden_dim)


def fit_sample(
    sample: Sample, generator: torch.Generator, config: ControlConfig, device: torch.device | str
) -> ValueRegression:
    """The regression of :func:`fit_value_regression`, of rows that are drawn.

    Args:
        sample: the rows.
        generator: draws the batches.
        config: settings.
        device: the device that computes.
    """
    rows, targets, weights = (part.to(device) for part in sample)
    model = make_regression(config).to(device)
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


def find_hits(lists: NDArray[np.int64], held_out: ItemLists) -> NDArray[np.bool_]:
    """Finds which held-out interactions [m] are with an item of their user's list [num_users, depth]."""
    size = int(max(lists.max(initial=0), held_out.items.max(initial=0))) + 1
    shown = (np.arange(len(lists))[:, None] * size + lists)[lists >= 0]
    return np.isin(held_out.owners() * size + held_out.items, shown)


def _count_hits(
    lists: NDArray[np.int64], held_out: ItemLists, population: Population
) -> NDArray[np.float32]:
    """Held-out interactions [num_groups, num_items] with an item of the user's list."""
    hit = find_hits(lists, held_out)
    groups, num_groups = population.user_group, len(population.centroids)
    counts = count_popularity(held_out.where(hit), groups, num_groups, population.num_items)
    return counts.astype(np.float32)


class Sample(NamedTuple):
    """Rows that are drawn to be fitted.

    Attributes:
        rows: features [m, NUM_FEATURES].
        targets: [m], hits per user.
        weights: [m], how many users-and-rows each stands for.
    """

    rows: Tensor
    targets: Tensor
    weights: Tensor


def draw_sample(
    features: Features,
    hits: NDArray[np.float32] | NDArray[np.int32],
    num_hit: NDArray[np.int64],
    generator: torch.Generator,
) -> Sample:
    """Draws rows of the groups whose features are here; the draws of other groups are made as well.

    Args:
        features: features of these groups.
        hits: [num_groups, num_items], of these groups.
        num_hit: [num_groups], rows with a hit, of all groups.
        generator: makes the draws.
    """
    rows, targets, weights = [], [], []
    for group, size in enumerate(features.group_sizes.tolist()):
        if size == 0:
            continue
        num_blank = hits.shape[1] - int(num_hit[group])
        count = min(num_blank, _BLANKS_PER_HIT * int(num_hit[group]) + 8)
        drawn = torch.randperm(num_blank, generator=generator, device="cpu")[:count].numpy()
        if group not in features.groups:
            continue
        own = hits[group - features.groups.start]
        found, blank = np.flatnonzero(own), np.flatnonzero(own == 0)
        chosen = np.concatenate([found, blank[drawn]])
        share = np.concatenate([np.ones(len(found)), np.full(count, num_blank / max(count, 1))])
        rows.append(features.of_group(group)[chosen])
        targets.append(own[chosen].astype(np.float32) / np.float32(size))
        weights.append((share * size).astype(np.float32))
    if not rows:
        none = torch.zeros(0, NUM_FEATURES, **FLOAT32_ON_CPU)
        return Sample(none, none[:, 0], none[:, 0])
    return Sample(
        torch.from_numpy(np.concatenate(rows)),
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(np.concatenate(weights)),
    )
