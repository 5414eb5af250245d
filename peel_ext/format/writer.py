"""Writes ``.peel`` files, and any prefix of one: a Personalized Elastic Embedding.

``docs/format.md`` describes the bytes; :mod:`peel_ext.format.reader` reads them slowly and plainly,
``csrc/device`` fast.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from peel_ext.format.header import (
    CONSECUTIVE,
    IN_BLOCKS,
    LISTED,
    FoldInSettings,
    Header,
    header_checksum,
)
from peel_ext.format.layout import (
    ALIGNMENT,
    ENTRY_BYTES,
    HEADER_BYTES,
    PAGE_ENTRIES,
    ColumnsLayout,
    Layout,
    id_bytes,
    padded,
)
from peel_ext.format.packing import EncodedRows, cut_block, pack_block, section

_VALUE_BITS = 26  # of an entry; the other 6 are the layer


@dataclass(frozen=True)
class Outline:
    """All that the file of one user group says of its table beside the blocks.

    Attributes:
        layout: how rows are cut into blocks.
        dim: values of a row.
        num_embeddings: rows of the whole table.
        sizes: int64 [num_item_groups], rows of each item group.
        order: int64 [num_blocks], as of :class:`GroupTable`.
        content: tells files of the same shape apart: the checksum of the order and the ids as int64, of
            store and scales.
        listed_ids: int64 [num_embeddings], the ids of all item groups of the columns layout, one after
            another; None where these are runs of consecutive rows.
        group: the user group.
        fold_in: settings of the device.
        rotated: whether the rows are rotated.
    """

    layout: Layout
    dim: int
    num_embeddings: int
    sizes: NDArray[np.int64]
    order: NDArray[np.int64]
    content: int
    listed_ids: NDArray[np.int64] | None = None
    group: int = 0
    fold_in: FoldInSettings = field(default_factory=FoldInSettings)
    rotated: bool = False

    @property
    def id_width(self) -> int:
        """Bytes of a row id."""
        return id_bytes(self.num_embeddings)

    @property
    def num_layers(self) -> int:
        """Layers of a row."""
        return self.layout.num_layers(self.dim)

    @cached_property
    def header(self) -> bytes:
        """The first 64 bytes."""
        columns = isinstance(self.layout, ColumnsLayout)
        listed = self.listed_ids is not None
        opened = len(self.sizes)
        if not columns:
            opened = int(np.count_nonzero(np.bincount(self.order // self.num_layers)))
        block_bytes = self.layout.block_bytes(self.sizes, self.dim, self.num_embeddings)
        blocks_end = (
            HEADER_BYTES
            + self.layout.item_group_section_bytes(len(self.sizes), self.num_embeddings, listed)
            + padded(len(self.order) * ENTRY_BYTES, ALIGNMENT)
            + int(block_bytes.reshape(-1)[self.order].sum())
        )
        return Header(
            self.layout,
            self.dim,
            (LISTED if listed else CONSECUTIVE) if columns else IN_BLOCKS,
            self.id_width,
            self.num_embeddings,
            opened,
            len(self.order),
            blocks_end,
            self.group,
            self.content,
            self.fold_in,
            self.rotated,
        ).pack()


@dataclass(frozen=True)
class GroupTable:
    """The table of one user group, and the order in which budgets take its blocks.

    Attributes:
        layout: how rows are cut into blocks.
        dim: values of a row.
        rows: the encoded rows of the user group.
        item_groups: ids of each item group, ascending within it.
        order: int64 [num_blocks], ``item_group * num_layers + layer`` of each block, the first to be
            kept first. In the planes layout a layer comes after those below it.
        group: the user group.
        fold_in: settings of the device.
        rotated: whether the rows are rotated, so that the vectors of users must be, too. Only in the
            planes layout.
    """

    layout: Layout
    dim: int
    rows: EncodedRows
    item_groups: Sequence[NDArray[np.int64]]
    order: NDArray[np.int64]
    group: int = 0
    fold_in: FoldInSettings = field(default_factory=FoldInSettings)
    rotated: bool = False

    @property
    def num_embeddings(self) -> int:
        """Rows of the whole table."""
        return len(self.rows.store)

    @property
    def num_layers(self) -> int:
        """Layers of a row."""
        return self.layout.num_layers(self.dim)

    @property
    def listed(self) -> bool:
        """True if item groups of the columns layout are not runs of consecutive rows."""
        return self.outline.listed_ids is not None

    @cached_property
    def outline(self) -> Outline:
        """All that its file says beside the blocks."""
        ids = np.concatenate([np.zeros(0, np.int64), *self.item_groups])
        content = zlib.crc32(self.order.astype("<i8").tobytes())
        for array in (ids, self.rows.store, self.rows.scales):
            content = zlib.crc32(np.ascontiguousarray(array), content)
        consecutive = not isinstance(self.layout, ColumnsLayout) or np.array_equal(
            ids, np.arange(len(ids))
        )
        return Outline(
            self.layout, self.dim, self.num_embeddings,
            np.array([len(each) for each in self.item_groups], dtype=np.int64), self.order, content,
            None if consecutive else ids, self.group, self.fold_in, self.rotated,
        )  # fmt: skip

    def pack_block(self, block: int) -> bytes:
        """The bytes of a block, named as in ``order``."""
        item_group, layer = divmod(block, self.num_layers)
        cut = cut_block(self.layout, self.dim, self.rows, self.item_groups[item_group], layer)
        return pack_block(self.layout, cut, id_bytes(self.num_embeddings))


def pack_prefix(table: GroupTable, num_blocks: int | None = None) -> NDArray[np.uint8]:
    """The bytes uint8 [n] of the first blocks, aligned to 8 bytes: a Personalized Elastic Embedding.

    Every prefix of the bytes of all blocks that ends with a block is what this returns for as many
    blocks.

    Args:
        table: the table of the user group.
        num_blocks: how many blocks of ``table.order``; None: all.
    """
    count = len(table.order) if num_blocks is None else num_blocks
    blocks = (table.pack_block(int(block)) for block in table.order)
    return align(b"".join(pack_parts(table.outline, blocks, count)))


def align(data: bytes) -> NDArray[np.uint8]:
    """A copy uint8 [n] of bytes whose number is a multiple of 8, aligned to 8 bytes."""
    aligned = np.empty(len(data) // 8, dtype=np.uint64).view(np.uint8)
    aligned[:] = np.frombuffer(data, dtype=np.uint8)
    return aligned


def pack_parts(
    outline: Outline, blocks: Iterator[bytes], num_blocks: int | None = None
) -> Iterator[bytes]:
    """The bytes of the first blocks of a file in parts: first the head, then page after page.

    Args:
        outline: what the file says beside the blocks.
        blocks: bytes of each, in order. No more are taken than are needed: those that are
            announced on the last page have a checksum there even where they do not follow.
        num_blocks: how many blocks; None: all.
    """
    count = len(outline.order) if num_blocks is None else num_blocks
    checksum = header_checksum(outline.header)
    yield outline.header + _item_group_section(outline, checksum)
    announced = min(len(outline.order), padded(count, PAGE_ENTRIES))
    values = _entry_values(outline, announced)
    for first in range(0, count, PAGE_ENTRIES):
        page, following = [], []
        for at in range(first, min(first + PAGE_ENTRIES, announced)):
            data, value = next(blocks), struct.pack("<I", values[at])
            page.append(struct.pack("<I", zlib.crc32(data, zlib.crc32(value, checksum))) + value)
            if at < count:
                following.append(data)
        yield b"".join([b"".join(page).ljust(ALIGNMENT, b"\0"), *following])


def pack_embedding(
    layout: Layout,
    dim: int,
    rows: EncodedRows,
    item_groups: Sequence[NDArray[np.int64]],
    held: Sequence[int],
) -> NDArray[np.uint8]:
    """The bytes uint8 [n] of a table that has the blocks held and no others, layer after layer.

    Args:
        layout: how rows are cut into blocks.
        dim: values of a row.
        rows: the encoded rows of the user group.
        item_groups: ids of each item group, ascending within it.
        held: mask of the layers of each item group.
    """
    num_layers = layout.num_layers(dim)
    order = [
        item_group * num_layers + layer
        for layer in range(num_layers)
        for item_group, mask in enumerate(held)
        if int(mask) >> layer & 1
    ]
    table = GroupTable(layout, dim, rows, item_groups, np.array(order, dtype=np.int64))
    return pack_prefix(table)


def _entry_values(outline: Outline, count: int) -> list[int]:
    """The value of each of the first entries: layer in 6 bits, rows or item group in 26.

    In the planes layout a first layer opens the next item group, and says how many rows it has;
    every other block names its item group.
    """
    columns = isinstance(outline.layout, ColumnsLayout)
    opened: dict[int, int] = {}
    values = []
    for block in outline.order[:count]:
        item_group, layer = divmod(int(block), outline.num_layers)
        if columns:
            value = item_group
        elif layer == 0:
            opened[item_group] = len(opened)
            value = int(outline.sizes[item_group])
        else:
            value = opened[item_group]
        if value >> _VALUE_BITS:
            raise ValueError(f"an item group has {value} rows, expected fewer than 2^{_VALUE_BITS}")
        values.append(value << 6 | layer)
    return values


def _item_group_section(outline: Outline, checksum: int) -> bytes:
    """In the columns layout: checksum, rows up to the end of each item group, listed ids."""
    if not isinstance(outline.layout, ColumnsLayout):
        return b""
    ends = np.cumsum(outline.sizes).astype("<u4").tobytes()
    data = ends + bytes(padded(4 + len(ends)) - 4 - len(ends))
    if outline.listed_ids is not None:
        data += section(outline.listed_ids.astype(f"<u{outline.id_width}"))
    data += bytes(padded(4 + len(data), ALIGNMENT) - 4 - len(data))
    return struct.pack("<I", zlib.crc32(data, checksum)) + data
