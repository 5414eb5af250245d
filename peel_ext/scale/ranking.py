"""The best items of users, where each rank has its own items."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.ops import gathered_score
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.exchange import Visits, in_batches
from peel_ext.scale.item_shard import ItemShard

#: Users of each rank who are ranked at a time.
_BATCH = 1024


def rank_unseen(
    rows: NDArray[np.int64],
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    seen: ItemShard,
    depth: int,
    ranks: Collectives,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """The best items that each of some users has not seen, of all ranks' items.

    Users go to the items: every rank ranks its own items for the users of all, and their owners merge
    the lists. The result is that of one process with all items, ties included.

    Args:
        rows: int64 [m], own users of this rank, as all ranks number them.
        users: float32 [m, dim], their vectors.
        items: float32 [num_own_items, dim].
        seen: what not to return.
        depth: length of the lists, where there are so many items.
        ranks: the processes.
        device: the device that ranks the own items.

    Returns:
        int64 [m, min(depth, num_items)], best first, -1 for none.
    """
    depth = min(depth, seen.items.size)
    made = np.full((len(rows), depth), -1, dtype=np.int64)
    table = torch.from_numpy(items).to(device)
    for part in in_batches(len(rows), _BATCH, ranks):
        own = torch.from_numpy(rows[part])
        visits = Visits(len(own), ranks)
        everybody, vectors = visits.send(own), visits.send(torch.from_numpy(users[part]))
        found, scores = _rank_own(everybody, vectors, table, seen, depth, ranks.rank)
        made[part] = _merge(visits.bring_back(found), visits.bring_back(scores), depth).numpy()
    return made


def _rank_own(
    rows: Tensor, vectors: Tensor, items: Tensor, seen: ItemShard, depth: int, rank: int
) -> tuple[Tensor, Tensor]:
    """The best own items int32 [m, depth] of users, and their scores; -1 and -inf for none."""
    indptr, exclude = seen.lists_of(rows.numpy())
    vectors, indptr, exclude = (each.to(items.device) for each in (vectors, indptr, exclude))
    found, scores = gathered_score(
        vectors, items, min(depth, len(items)), exclude_indptr=indptr, exclude=exclude
    )
    found, scores = found.cpu(), scores.cpu()
    found = torch.where(found >= 0, found + seen.items.start(rank), found).int()
    missing = (0, depth - found.shape[1])
    pad = torch.nn.functional.pad
    return pad(found, missing, value=-1), pad(scores, missing, value=-torch.inf)


def _merge(found: Tensor, scores: Tensor, depth: int) -> Tensor:
    """Merges the lists [size, m, depth] of all ranks, whose items ascend: ties stay in their order."""
    joined = scores.transpose(0, 1).flatten(1)
    order = joined.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    return found.transpose(0, 1).flatten(1).gather(1, order).long()
