"""Writes ``.peel`` files, and any prefix of one: a Personalized Elastic Embedding.

``docs/format.md`` describes the bytes; :mod:`peel_ext.format.reader` reads them slowly and plainly,
``csrc/device`` fast.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
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
from peel_ext.format.packing import EncodedRows, pack_block, section

_VALUE_BITS = 26  # of an entry; the other 6 are the layer


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
    def id_width(self) -> int:
        """Bytes of a row id."""
        return id_bytes(self.num_embeddings)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each item group [num_item_groups]."""
        return np.array([len(ids) for ids in self.item_groups], dtype=np.int64)

    @cached_property
    def all_ids(self) -> NDArray[np.int64]:
        """The ids of all item groups, one after another."""
        return np.concatenate([np.zeros(0, np.int64), *self.item_groups])

    @cached_property
    def listed(self) -> bool:
        """True if item groups of the columns layout are not runs of consecutive rows."""
        consecutive = np.array_equal(self.all_ids, np.arange(len(self.all_ids)))
        return isinstance(self.layout, ColumnsLayout) and not consecutive

    @cached_property
    def block_bytes(self) -> NDArray[np.int64]:
        """Bytes of each block [num_blocks], in file order."""
        sizes = self.layout.block_bytes(self.sizes, self.dim, self.num_embeddings)
        return np.asarray(sizes.reshape(-1)[self.order], dtype=np.int64)

    def prefix_bytes(self, num_blocks: int) -> int:
        """Bytes from the first of the file to the end of its first ``num_blocks`` blocks."""
        fixed = HEADER_BYTES + self.layout.item_group_section_bytes(
            len(self.sizes), self.num_embeddings, self.listed
        )
        pages = padded(num_blocks * ENTRY_BYTES, ALIGNMENT)
        return fixed + pages + int(self.block_bytes[:num_blocks].sum())

    @cached_property
    def header(self) -> bytes:
        """The first 64 bytes."""
        content = zlib.crc32(self.order.astype("<i8").tobytes())
        for array in (self.all_ids, self.rows.store, self.rows.scales):
            content = zlib.crc32(np.ascontiguousarray(array), content)
        columns = isinstance(self.layout, ColumnsLayout)
        opened = len(self.sizes)
        if not columns:
            opened = int(np.count_nonzero(np.bincount(self.order // self.num_layers)))
        return Header(
            self.layout,
            self.dim,
            (LISTED if self.listed else CONSECUTIVE) if columns else IN_BLOCKS,
            self.id_width,
            self.num_embeddings,
            opened,
            len(self.order),
            self.prefix_bytes(len(self.order)),
            self.group,
            content,
            self.fold_in,
            self.rotated,
        ).pack()

    @property
    def num_layers(self) -> int:
        """Layers of a row."""
        return self.layout.num_layers(self.dim)


def pack_prefix(table: GroupTable, num_blocks: int | None = None) -> NDArray[np.uint8]:
    """The bytes uint8 [n] of the first blocks, aligned to 8 bytes: a Personalized Elastic Embedding.

    Every prefix of the bytes of all blocks that ends with a block is what this returns for as many
    blocks.

    Args:
        table: the table of the user group.
        num_blocks: how many blocks of ``table.order``; None: all.
    """
    count = len(table.order) if num_blocks is None else num_blocks
    checksum = header_checksum(table.header)
    announced = min(len(table.order), padded(count, PAGE_ENTRIES))
    entries = _entry_values(table, announced)
    parts = [table.header, _item_group_section(table, checksum)]
    for first in range(0, count, PAGE_ENTRIES):
        page, blocks = [], []
        for at in range(first, min(first + PAGE_ENTRIES, announced)):
            item_group, layer = divmod(int(table.order[at]), table.num_layers)
            ids = table.item_groups[item_group]
            data = pack_block(table.layout, table.dim, table.rows, ids, layer, table.id_width)
            value = struct.pack("<I", entries[at])
            page.append(struct.pack("<I", zlib.crc32(data, zlib.crc32(value, checksum))) + value)
            if at < count:
                blocks.append(data)
        parts += [b"".join(page).ljust(ALIGNMENT, b"\0"), *blocks]
    data = b"".join(parts)
    aligned = np.empty(len(data) // 8, dtype=np.uint64).view(np.uint8)
    aligned[:] = np.frombuffer(data, dtype=np.uint8)
    return aligned


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


def _entry_values(table: GroupTable, count: int) -> list[int]:
    """The value of each of the first entries: layer in 6 bits, rows or item group in 26.

    In the planes layout a first layer opens the next item group, and says how many rows it has;
    every other block names its item group.
    """
    columns = isinstance(table.layout, ColumnsLayout)
    opened: dict[int, int] = {}
    values = []
    for block in table.order[:count]:
        item_group, layer = divmod(int(block), table.num_layers)
        if columns:
            value = item_group
        elif layer == 0:
            opened[item_group] = len(opened)
            value = int(table.sizes[item_group])
        else:
            value = opened[item_group]
        if value >> _VALUE_BITS:
            raise ValueError(f"an item group has {value} rows, expected fewer than 2^{_VALUE_BITS}")
        values.append(value << 6 | layer)
    return values


def _item_group_section(table: GroupTable, checksum: int) -> bytes:
    """In the columns layout: checksum, rows up to the end of each item group, listed ids."""
    if not isinstance(table.layout, ColumnsLayout):
        return b""
    ends = np.cumsum(table.sizes).astype("<u4").tobytes()
    data = ends + bytes(padded(4 + len(ends)) - 4 - len(ends))
    if table.listed:
        data += section(table.all_ids.astype(f"<u{table.id_width}"))
    data += bytes(padded(4 + len(data), ALIGNMENT) - 4 - len(data))
    return struct.pack("<I", zlib.crc32(data, checksum)) + data
