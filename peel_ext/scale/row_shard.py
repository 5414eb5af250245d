"""The encoded rows of this rank, and what a file says of those of all ranks beside the blocks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.format import EncodedRows, Layout
from peel_ext.format.checksums import join_crc32
from peel_ext.format.writer import Outline
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition


@dataclass(frozen=True)
class RowShard:
    """The encoded rows of this rank, and where they belong.

    Attributes:
        layout: how rows are cut into blocks.
        dim: values of a row.
        rows: the encoded rows of this rank.
        item_group: int32 [num_groups or 1, n], the item group of each.
        sizes: int64 [num_item_groups], rows of each item group on all ranks.
        edges: int64 [size + 1], the first row of each rank, and the number of rows.
        ranks: the processes.
    """

    layout: Layout
    dim: int
    rows: EncodedRows
    item_group: NDArray[np.int32]
    sizes: NDArray[np.int64]
    edges: NDArray[np.int64]
    ranks: Collectives

    @property
    def first(self) -> int:
        """The first row of this rank."""
        return int(self.edges[self.ranks.rank])

    @cached_property
    def checksums(self) -> list[tuple[int, int]]:
        """The checksum and the bytes of store and scales."""
        parts = map(np.ascontiguousarray, (self.rows.store, self.rows.scales))
        return [(zlib.crc32(part), part.nbytes) for part in parts]

    def rows_by_item_group(self, group: int) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
        """The own rows [n] by item group, ascending in each, and where each begins [num_item_groups + 1].

        Kept, for every block asks for some: as much memory as the item groups have.
        """
        at = 0 if len(self.item_group) == 1 else group
        if at not in self._sorted:
            which = self.item_group[at]
            counts = np.bincount(which, minlength=len(self.sizes))
            index = np.int32 if len(which) < 1 << 31 else np.int64
            self._sorted[at] = (
                np.argsort(which, kind="stable").astype(index),
                np.concatenate([[0], np.cumsum(counts)]),
            )
        return self._sorted[at]

    @cached_property
    def _sorted(self) -> dict[int, tuple[NDArray[np.signedinteger], NDArray[np.int64]]]:
        return {}


def content_checksums(shard: RowShard, groups: Sequence[int]) -> dict[int, int]:
    """Checksums of ids, store and scales of all ranks, one after another, by user group.

    With that of the order before it, it tells the content of a file. All ranks call it.

    Args:
        shard: the rows of this rank.
        groups: the same on all ranks.
    """
    own = [(zlib.crc32(ids), ids.nbytes) for ids in (_ids_of_run(shard, each) for each in groups)]
    sums = torch.tensor([*own, *shard.checksums], dtype=torch.int64, device="cpu")
    of_ranks = shard.ranks.stack(sums).tolist()
    made = {}
    for at, group in enumerate(groups):
        made[group] = 0
        for part in (at, -2, -1):
            for of_rank in of_ranks:
                made[group] = join_crc32(made[group], *of_rank[part])
    return made


def outline_of(
    shard: RowShard, group: int, order: NDArray[np.int64], checksum: int, **said: Any
) -> Outline:
    """The outline of the file of a user group.

    Args:
        shard: the rows of this rank.
        group: user group.
        order: int64 [num_blocks], the blocks.
        checksum: what :func:`content_checksums` has of the group.
        said: further fields.
    """
    num_embeddings = int(shard.edges[-1])
    row_bytes = 8 + shard.rows.store.shape[1] + 2 * shard.rows.scales.shape[1]
    of_order = zlib.crc32(order.astype("<i8").tobytes())
    return Outline(
        shard.layout, shard.dim, num_embeddings, shard.sizes, order,
        join_crc32(of_order, checksum, num_embeddings * row_bytes), group=group, **said,
    )  # fmt: skip


def _ids_of_run(shard: RowShard, group: int) -> NDArray[np.int64]:
    """The ids of the rows in a run of item groups, this rank's of equal runs of all, in file order."""
    ranks = shard.ranks
    rows, starts = shard.rows_by_item_group(group)
    ids = rows.astype(np.int64) + shard.first
    if not shard.layout.nested:  # item groups are runs of rows, as the ranks' are
        return ids
    item_group = np.repeat(np.arange(len(shard.sizes)), np.diff(starts))
    cuts = starts[Partition(len(shard.sizes), ranks.size).edges]
    pairs = torch.from_numpy(np.stack([item_group, ids], axis=1))
    arrived = torch.cat(ranks.exchange(pairs.split(np.diff(cuts).tolist()))).numpy()
    # Ids ascend from rank to rank, and in what comes of each.
    made: NDArray[np.int64] = arrived[np.argsort(arrived[:, 0], kind="stable"), 1]
    return made
