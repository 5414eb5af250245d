"""The features of rows in user groups, of which the hits to be expected are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

#: The features of a row in a group, see :meth:`RowFeatures.of_group`.
NUM_FEATURES = 9

#: Sharpness of the weights with which other groups count as neighbours, in cosines.
_NEIGHBOUR_TEMPERATURE = 0.05


class Features(Protocol):
    """The features of every row in some user groups."""

    @property
    def exposure(self) -> NDArray[np.float32]:
        """[num_groups, num_items], of these groups."""

    @property
    def group_sizes(self) -> NDArray[np.int64]:
        """Users of each of all groups."""

    @property
    def groups(self) -> range:
        """The numbers of these groups."""

    def of_group(self, group: int) -> NDArray[np.float32]:
        """Features [num_items, NUM_FEATURES] of all rows in one of them."""


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

    @property
    def groups(self) -> range:
        """All groups."""
        return range(len(self.exposure))

    def of_group(self, group: int) -> NDArray[np.float32]:
        """Features [num_items, NUM_FEATURES] of all rows in one group.

        Logarithms per user of: popularity and exposure in the group, in the groups near it, and
        overall; then the logarithm of the rank by exposure, the cosine to the centroid, and the
        length of the item's vector.
        """
        near = weigh_neighbours(self.centroids, group)
        lengths = np.linalg.norm(self.item_vectors, axis=1)
        sizes = np.maximum(self.group_sizes, 1).astype(np.float32)[:, None]
        exposure, popularity = (
            Counts(table[group], near @ (table / sizes), table.sum(axis=0))
            for table in (self.exposure, self.popularity)
        )
        cosines = find_cosines(self.item_vectors, lengths, self.centroids[group])
        return describe_rows(exposure, popularity, cosines, lengths, self.group_sizes, group)


class Counts(NamedTuple):
    """Counts of every row for one group, each [num_items]."""

    own: NDArray[np.float32]
    near: NDArray[np.float32]  # per user, in the groups near it
    overall: NDArray[np.float32]


def describe_rows(
    exposure: Counts,
    popularity: Counts,
    cosines: NDArray[np.float32],
    lengths: NDArray[np.float32],
    group_sizes: NDArray[np.int64],
    group: int,
) -> NDArray[np.float32]:
    """The features of :meth:`RowFeatures.of_group`.

    Args:
        exposure: without its shares of popularity.
        popularity: interactions of the group's users.
        cosines: [num_items], to the centroid of the group.
        lengths: [num_items], of the vectors of the items.
        group_sizes: [num_groups], users.
        group: number of the group.
    """
    size = np.float32(max(int(group_sizes[group]), 1))
    everyone = np.float32(max(int(group_sizes.sum()), 1))
    order = np.argsort(-(exposure.own + 1e-3 * popularity.own), kind="stable")
    rank = np.empty(len(order), dtype=np.float32)
    rank[order] = np.arange(len(order))
    columns = [np.log1p(rank), cosines, lengths]
    for counts, floor in ((popularity, 0.5), (exposure, 1e-2)):
        columns += [
            np.log(counts.own / size + floor / size),
            np.log(counts.near + floor / size),
            np.log(counts.overall / everyone + floor / everyone),
        ]
    return np.stack(columns, axis=1).astype(np.float32)


def find_cosines(
    item_vectors: NDArray[np.float32], lengths: NDArray[np.float32], centroid: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The products [num_items] of items [num_items, dim], as if of length 1, and a centroid [dim]."""
    return np.asarray(item_vectors @ centroid / np.maximum(lengths, 1e-12))


def weigh_neighbours(centroids: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    """The shares [num_groups] of the other groups, by the cosine of their centroids."""
    cosines = centroids @ centroids[group]
    weights = np.exp((cosines - 1) / np.float32(_NEIGHBOUR_TEMPERATURE))
    weights[group] = 0
    total = weights.sum()
    return np.asarray(weights / total if total > 0 else weights)
