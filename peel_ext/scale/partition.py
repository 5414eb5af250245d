"""Which rank owns which rows: contiguous runs of equal length, the last ones shorter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import DataError


@dataclass(frozen=True)
class Partition:
    """Rows 0, 1, ... of a table over ranks, as ``torch.chunk`` and ``DTensor`` deal them out.

    Attributes:
        size: number of rows.
        num_ranks: number of ranks, at least 1.
    """

    size: int
    num_ranks: int

    @classmethod
    def of(cls, what: str, size: int, num_ranks: int) -> Partition:
        """A partition in which every rank owns a row.

        Args:
            what: the rows are, in the plural.
            size: number of rows.
            num_ranks: number of ranks.

        Raises:
            DataError: some rank would own none.
        """
        made = cls(size, num_ranks)
        if made.count(num_ranks - 1) == 0:
            raise DataError(
                f"{size} {what} cannot be dealt out to {num_ranks} ranks so that each has some: "
                "start fewer processes"
            )
        return made

    @property
    def rows_per_rank(self) -> int:
        """Rows of the first rank, which has the most."""
        return -(-self.size // self.num_ranks)

    def start(self, rank: int) -> int:
        """The first row of a rank."""
        return min(rank * self.rows_per_rank, self.size)

    def count(self, rank: int) -> int:
        """The number of rows that a rank owns."""
        return self.start(rank + 1) - self.start(rank)

    def own(self, rank: int) -> slice:
        """The rows of a rank."""
        return slice(self.start(rank), self.start(rank + 1))

    @property
    def edges(self) -> NDArray[np.int64]:
        """The first row of each rank, and the number of rows: int64 [num_ranks + 1]."""
        return np.array([self.start(rank) for rank in range(self.num_ranks + 1)], dtype=np.int64)

    def owners(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rank of each row."""
        return rows // max(self.rows_per_rank, 1)
