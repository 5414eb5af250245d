"""Row values by a mixture: a row is worth what it is to its group, or to the groups around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mixture:
    """The two numbers that say how much the neighbours of a group count.

    Attributes:
        share: share of what a row is worth around the group; 0 leaves the neighbours out.
        temperature: a neighbour weighs ``exp((cosine - 1) / temperature)``, of the two centroids.
    """

    share: float = 0.0
    temperature: float = 1.0


class Grouped(Protocol):
    """User groups, as populations have them."""

    @property
    def centroids(self) -> NDArray[np.float32]:
        """[num_groups, dim]."""

    @property
    def prior(self) -> float:
        """The component of each centroid along the axis of the prior."""

    @property
    def group_sizes(self) -> NDArray[np.int64]:
        """Users of each group."""


def mix(
    own: NDArray[np.float64], around: NDArray[np.float64], mixture: Mixture
) -> NDArray[np.float64]:
    """Row values [num_groups, num_items]: the group's own, or a share of those around it if more.

    The larger of the two and not their sum: the first rows stay those of the group itself, which
    small budgets need, and later ones serve users at its edge.

    Args:
        own: [num_groups, num_items].
        around: the same around each group: the product of :func:`share_neighbours` and the own of all.
        mixture: its numbers.
    """
    return np.maximum(own, mixture.share * around) if mixture.share else own


def share_neighbours(population: Grouped, mixture: Mixture) -> NDArray[np.float64]:
    """The share of the worth in each group that counts around every group, [num_groups, num_groups].

    All groups count, the group itself among them, scaled to as many users as the group has.
    """
    products = (population.centroids @ population.centroids.T).astype(np.float64)
    cosines = products - population.prior**2  # of tastes
    sizes = population.group_sizes
    weights = np.exp((cosines - 1) / mixture.temperature)
    users = np.maximum(weights @ sizes, np.finfo(np.float64).tiny)
    return np.asarray(weights * (sizes / users)[:, None])
