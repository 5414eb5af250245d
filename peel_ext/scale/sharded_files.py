"""Files of user groups whose rows lie with several ranks: each rank packs one at a time, all send rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.format.file import pack_appendix, replace_atomically
from peel_ext.format.layout import PAGE_ENTRIES, id_bytes
from peel_ext.format.packing import UnpackedBlock, brings, cut_block, pack_block
from peel_ext.format.writer import pack_parts
from peel_ext.scale.messages import agreed
from peel_ext.scale.row_shard import RowShard, content_checksums, outline_of

#: Bytes of blocks that a rank asks for at once, unless those of one page of entries are more.
_ASKED_BYTES = 1 << 24


def write_files(
    shard: RowShard,
    files: Sequence[tuple[int, str]],
    order_of: Callable[[int], NDArray[np.int64]],
    said: Mapping[str, Any],
    appended: Mapping[str, Any],
) -> None:
    """Writes the file of a user group on each rank, at most one each, all at the same time.

    Args:
        shard: the rows of this rank.
        files: user group and path of each, that of rank 0 first; the same on all ranks.
        order_of: gives the blocks of a user group.
        said: fields of :class:`peel_ext.format.writer.Outline`.
        appended: arguments of :func:`peel_ext.format.file.pack_appendix`.

    Raises:
        ElsewhereError: a file of another rank cannot be written.
        OSError: the own file cannot be.
    """
    ranks = shard.ranks
    groups = [group for group, _ in files]
    checksums = content_checksums(shard, groups)
    groups += [0] * (ranks.size - len(groups))  # of ranks that write nothing
    if ranks.rank >= len(files):
        pack_together(shard, np.zeros(0, dtype=np.int64), groups, lambda blocks: None)
        return
    group, path = files[ranks.rank]
    order = order_of(group)
    outline = outline_of(shard, group, order, checksums[group], **said)

    def write(blocks: Iterator[bytes]) -> None:
        behind = pack_appendix(outline, **appended)
        with replace_atomically(Path(path)) as file:
            for part in pack_parts(outline, blocks):
                file.write(part)
            file.write(behind)

    pack_together(shard, order, groups, write)


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
    rows, starts = shard.rows_by_item_group(group)
    made = []
    for block in blocks.tolist():
        item_group, layer = divmod(block, num_layers)
        own = rows[starts[item_group] : starts[item_group + 1]].astype(np.int64)
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
