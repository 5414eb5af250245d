"""Files of user groups whose rows lie with several ranks: each rank packs one at a time, all send rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.format import EncodedRows, Layout
from peel_ext.format.checksums import join_crc32
from peel_ext.format.layout import PAGE_ENTRIES, id_bytes
from peel_ext.format.packing import UnpackedBlock, brings, cut_block, pack_block
from peel_ext.format.writer import Outline
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import agreed
from peel_ext.scale.partition import Partition

#: Bytes of blocks that a rank asks for at once, unless those of one page of entries are more.
_ASKED_BYTES = 1 << 24


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

    def item_group_of(self, group: int) -> NDArray[np.int32]:
        """The item group [n] of each own row for a user group."""
        own: NDArray[np.int32] = self.item_group[0 if len(self.item_group) == 1 else group]
        return own


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
    ranks, item_group = shard.ranks, shard.item_group_of(group)
    order = np.argsort(item_group, kind="stable")
    runs = Partition(len(shard.sizes), ranks.size)
    cuts = np.searchsorted(item_group[order], runs.edges)
    pairs = torch.from_numpy(np.stack([item_group[order], order + shard.first], axis=1))
    arrived = torch.cat(ranks.exchange(pairs.split(np.diff(cuts).tolist()))).numpy()
    # Ids ascend from rank to rank, and in what comes of each.
    made: NDArray[np.int64] = arrived[np.argsort(arrived[:, 0], kind="stable"), 1]
    return made


def pack_together(
    shard: RowShard,
    order: NDArray[np.int64],
    groups: list[int],
    pack: Callable[[Iterator[bytes]], None],
) -> None:
    """Packs blocks on each rank while it sends rows for those of the others; all ranks call it.

    Args:
        shard: the rows of this rank.
        order: int64 [n], the blocks that this rank packs, of which n may be 0 and other than elsewhere.
        groups: user group of each rank's blocks.
        pack: takes the bytes of the blocks, in order. Where it fails, all ranks raise, at the end.

    Raises:
        ElsewhereError: it failed on another rank.
    """
    blocks = _serve_blocks(shard, order, groups)
    with agreed(shard.ranks):
        try:
            pack(blocks)
        finally:
            for _ in blocks:  # what others ask for still
                pass


def _serve_blocks(shard: RowShard, order: NDArray[np.int64], groups: list[int]) -> Iterator[bytes]:
    """The bytes of this rank's blocks; it ends on all ranks at once."""
    ranks, layout = shard.ranks, shard.layout
    sizes = layout.block_bytes(shard.sizes, shard.dim, int(shard.edges[-1])).reshape(-1)[order]
    width, at = id_bytes(int(shard.edges[-1])), 0
    while True:
        count = _count_at_once(sizes[at:])
        asked = torch.from_numpy(np.ascontiguousarray(order[at : at + count]))
        wanted = [each.numpy() for each in ranks.exchange([asked] * ranks.size)]
        if not any(map(len, wanted)):
            return
        at += count
        for block in _exchange_blocks(shard, wanted, groups):
            yield pack_block(layout, block, width)


def _count_at_once(sizes: NDArray[np.int64]) -> int:
    """How many of the next blocks are asked for at once: whole pages of entries."""
    fitting = int(np.searchsorted(np.cumsum(sizes), _ASKED_BYTES, side="right"))
    return min(len(sizes), max(PAGE_ENTRIES, fitting // PAGE_ENTRIES * PAGE_ENTRIES))


def _exchange_blocks(
    shard: RowShard, wanted: list[NDArray[np.int64]], groups: list[int]
) -> Iterator[UnpackedBlock]:
    """Sends own rows of the blocks that ranks want; returns those that this one wants."""
    ranks = shard.ranks
    counts, messages = [], []
    for blocks, group in zip(wanted, groups, strict=True):
        parts = _own_parts(shard, blocks, group)
        own = [len(part.pieces) for part in parts]
        counts.append(torch.tensor(own, dtype=torch.int64, device="cpu"))
        message = bytearray(b"".join(map(_to_bytes, parts)))
        messages.append(torch.from_numpy(np.frombuffer(message, np.uint8)))
    arrived_counts = [each.tolist() for each in ranks.exchange(counts)]
    arrived = [each.numpy() for each in ranks.exchange(messages)]
    return _joined(shard, wanted[ranks.rank], arrived_counts, arrived)


def _own_parts(shard: RowShard, blocks: NDArray[np.int64], group: int) -> list[UnpackedBlock]:
    """What the own rows have of some blocks of a user group."""
    if not len(blocks):
        return []
    num_layers = shard.layout.num_layers(shard.dim)
    which = np.unique(blocks // num_layers)  # item groups
    place = np.full(len(shard.sizes), -1, dtype=np.int32)
    place[which] = np.arange(len(which), dtype=np.int32)
    places = place[shard.item_group_of(group)]
    rows = np.flatnonzero(places >= 0)
    rows = rows[np.argsort(places[rows], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(places[rows], minlength=len(which)))])
    made = []
    for block in blocks.tolist():
        item_group, layer = divmod(block, num_layers)
        own = rows[starts[place[item_group]] : starts[place[item_group] + 1]]
        made.append(cut_block(shard.layout, shard.dim, shard.rows, own, layer, shard.first))
    return made


def _to_bytes(part: UnpackedBlock) -> bytes:
    ids = b"" if part.ids is None else part.ids.astype("<i8").tobytes()
    scales = b"" if part.scales is None else part.scales.astype("<f2").tobytes()
    return ids + scales + part.pieces.tobytes()


def _joined(
    shard: RowShard,
    blocks: NDArray[np.int64],
    counts: list[list[int]],
    messages: list[NDArray[np.uint8]],
) -> Iterator[UnpackedBlock]:
    """The blocks that this rank wants, of what all ranks sent of each: counts of rows, and bytes."""
    layout, dim = shard.layout, shard.dim
    ends = [0] * len(messages)
    for at, block in enumerate(blocks.tolist()):
        layer = block % layout.num_layers(dim)
        width = layout.piece_bytes(layer, dim)
        has_ids, has_scales = brings(layout, layer)
        widths = (8 * has_ids, 2 * has_scales, width)
        found: list[list[NDArray[np.uint8]]] = [[], [], []]
        for rank, message in enumerate(messages):
            for each, part_width in zip(found, widths, strict=True):
                end = ends[rank] + counts[rank][at] * part_width
                each.append(message[ends[rank] : end])
                ends[rank] = end
        ids, scales, pieces = map(np.concatenate, found)
        yield UnpackedBlock(
            ids.view("<i8") if has_ids else None,
            scales.view("<f2") if has_scales else None,
            pieces.reshape(-1, width),
        )
