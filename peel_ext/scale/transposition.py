"""A matrix by rows and by columns: each rank has some rows of it, or some columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import exchange_counted
from peel_ext.scale.partition import Partition


@dataclass(frozen=True)
class Transposition:
    """The way from the own rows of a matrix to the own columns, and back.

    Attributes:
        rows: the partition of the rows.
        columns: the partition of the columns.
        ranks: the processes.
    """

    rows: Partition
    columns: Partition
    ranks: Collectives

    def to_columns(self, own: NDArray[Any]) -> NDArray[Any]:
        """The own columns [num_rows, num_own_columns] of a matrix whose own rows these are."""
        widths, heights = self._counts(self.columns), self._counts(self.rows)
        height, width = heights[self.ranks.rank], widths[self.ranks.rank]
        parts = np.split(own, self.columns.edges[1:-1], axis=1)
        sent = np.concatenate([part.ravel() for part in parts])
        leaving, arriving = ([height * each for each in widths], [each * width for each in heights])
        return exchange_counted(sent, leaving, arriving, self.ranks).reshape(self.rows.size, width)

    def to_rows(self, own: NDArray[Any]) -> NDArray[Any]:
        """The own rows [num_own_rows, num_columns] of a matrix whose own columns these are."""
        widths, heights = self._counts(self.columns), self._counts(self.rows)
        height, width = heights[self.ranks.rank], widths[self.ranks.rank]
        leaving, arriving = ([each * width for each in heights], [height * each for each in widths])
        arrived = exchange_counted(own.ravel(), leaving, arriving, self.ranks)
        parts = np.split(arrived, np.cumsum(arriving)[:-1])
        shaped = [part.reshape(height, each) for part, each in zip(parts, widths, strict=True)]
        return np.concatenate(shaped, axis=1)

    def _counts(self, partition: Partition) -> list[int]:
        return [partition.count(rank) for rank in range(self.ranks.size)]
