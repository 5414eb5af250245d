"""Users shared by processes that measure together: each ranks for some, and all get the lists."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.device.fold_in import users_at_a_time
from peel_ext.errors import RunError
from peel_ext.evaluation.protocols import FoldHistories
from peel_ext.evaluation.ranking import Audience, RankedLists
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import gather
from peel_ext.train.run_folder import RunFolder


class Sharing:
    """The users of each process.

    What comes out is what one process makes, for a list depends on its user alone. It is where vectors
    are folded in, or turned, that users take part in the rounding of others: these are cut as one
    process cuts them.

    Args:
        ranks: the processes, or None where there is one.
    """

    def __init__(self, ranks: Collectives | None = None) -> None:
        self._ranks = ranks
        self._rank, self._size = (0, 1) if ranks is None else (ranks.rank, ranks.size)

    def deal(
        self, users: NDArray[np.int64], audience: Audience, by_group: bool
    ) -> list[NDArray[np.int64]]:
        """The positions, ascending, of the users of each process, about as many for each.

        Args:
            users: positions int64 [m] in the audience, ascending.
            audience: with their groups.
            by_group: whether all users of a group are with one process.
        """
        if self._size == 1:
            return [users]
        groups = audience.groups[users]
        order = np.argsort(groups, kind="stable")  # a group's table is made by few
        place = np.arange(len(users))
        if by_group:  # all go where the one in the middle goes
            _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
            place = np.repeat(starts + (counts - 1) // 2, counts)
        owners = place * self._size // max(len(users), 1)
        return [np.sort(users[order[owners == rank]]) for rank in range(self._size)]

    def own(self, parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """The part of this process."""
        return parts[self._rank]

    def join(self, lists: RankedLists, parts: list[NDArray[np.int64]]) -> RankedLists:
        """The lists of all users, of which every process has made those of its part."""
        if self._ranks is None:
            return lists
        rows = torch.from_numpy(lists.indices[self.own(parts)].astype(np.int32))
        indices = np.full_like(lists.indices, -1)
        indices[np.concatenate(parts)] = self._ranks.join(rows).numpy()
        counts = [lists.num_rows, lists.num_users]
        num_rows, num_users = self._ranks.sum(_integers(counts)).tolist()
        max_bytes = int(self._ranks.max(_integers([lists.max_bytes]))[0])
        return RankedLists(indices, max_bytes, num_rows, num_users)

    def any(self, holds: bool) -> bool:
        """True where something holds for any process."""
        return holds if self._ranks is None else bool(self._ranks.max(_integers([int(holds)]))[0])

    def fold_in(
        self, rows: NDArray[np.float32], histories: ItemLists, fold_in: FoldHistories
    ) -> NDArray[np.float32]:
        """Vectors [num_users, dim] of histories, of which each process folds in some.

        Args:
            rows: float32 [n, dim], all rows.
            histories: items of all users.
            fold_in: makes vectors.
        """
        if self._ranks is None:
            return fold_in(rows, histories)
        chunk = users_at_a_time(int(np.any(rows, axis=1).sum()))
        edges = [
            min(-(-len(histories) // chunk) * rank // self._size * chunk, len(histories))
            for rank in range(self._size + 1)
        ]
        own = histories.take(np.arange(edges[self._rank], edges[self._rank + 1]))
        vectors: NDArray[np.float32] = self._ranks.join(
            torch.from_numpy(fold_in(rows, own))
        ).numpy()
        return vectors


def check_same_run(folder: RunFolder, ranks: Collectives) -> None:
    """Checks that all processes have opened the same run.

    Raises:
        RunError: on every one: some have another.
    """
    digests = gather({name: facts["sha256"] for name, facts in folder.stages.items()}, ranks)
    others = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise RunError(
            f"{folder.path}: must hold the same run on all ranks, rank {others[0]} found another than "
            "rank 0"
        )


def _integers(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


#: One process has all users.
ALONE = Sharing()
