"""Reads ``.peel`` files slowly and plainly: the reference of the native reader in ``csrc/device``."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import BudgetError, FormatError
from peel_ext.format.header import (
    LISTED,
    Header,
    header_checksum,
    read_header,
    require,
    require_zeros,
)
from peel_ext.format.layout import (
    ALIGNMENT,
    DIRECTORY_BLOCK_BYTES,
    DIRECTORY_ITEM_GROUP_BYTES,
    ENTRY_BYTES,
    HEADER_BYTES,
    PAGE_ENTRIES,
    ColumnsLayout,
    Layout,
    padded,
)
from peel_ext.format.packing import UnpackedBlock, unpack_block

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(frozen=True)
class FileBlock:
    """One block of a file.

    Attributes:
        item_group: in the order of the file.
        layer: the layer of the block.
        num_rows: rows of the item group.
        begin: position of its first byte.
        end: position after its last.
        checksum: what its entry says.
        value: the entry's other half.
        held_bytes: bytes a device holds with this block and all before it.
    """

    item_group: int
    layer: int
    num_rows: int
    begin: int
    end: int
    checksum: int
    value: int
    held_bytes: int


@dataclass(frozen=True)
class UnpackedRows:
    """The rows that a prefix of a file holds, decoded.

    Attributes:
        header: the header of the file.
        num_blocks: blocks held.
        nbytes: bytes a device holds for them.
        ids: int64 [num_rows], in the order of the file.
        held: layer mask of each of those rows, uint64 [num_rows].
        rows: float32 [num_rows, dim], zero where not held.
    """

    header: Header
    num_blocks: int
    nbytes: int
    ids: NDArray[np.int64]
    held: NDArray[np.uint64]
    rows: NDArray[np.float32]

    @property
    def layout(self) -> Layout:
        """The layout by which rows are cut into blocks."""
        return self.header.layout

    @property
    def num_embeddings(self) -> int:
        """Rows of the whole table."""
        return self.header.num_embeddings


def read_blocks(data: bytes) -> Iterator[FileBlock]:
    """The blocks of a file in order, as far as its bytes go; their contents are not looked at.

    Raises:
        FormatError: bytes that do not make sense.
    """
    header = read_header(data)
    layout, dim = header.layout, header.dim
    columns = isinstance(layout, ColumnsLayout)
    sizes: list[int] = _item_group_sizes(data, header) if columns else []
    layers: dict[int, int] = {}
    listed = header.row_ids == LISTED
    at = HEADER_BYTES + layout.item_group_section_bytes(len(sizes), header.num_embeddings, listed)
    directory = DIRECTORY_ITEM_GROUP_BYTES * len(sizes)
    num_rows = 0  # of the item groups met, where entries tell of them
    for number in range(header.num_blocks):
        if number % PAGE_ENTRIES == 0:
            page, at = data[at : at + ALIGNMENT], at + ALIGNMENT
            used = min(PAGE_ENTRIES, header.num_blocks - number) * ENTRY_BYTES
            if len(page) < ALIGNMENT:
                return
            require(not any(page[used:]), "an entry beyond the last block")
        entry = page[number % PAGE_ENTRIES * ENTRY_BYTES :][:ENTRY_BYTES]
        checksum, word = int.from_bytes(entry[:4], "little"), int.from_bytes(entry[4:], "little")
        layer, value = word & 63, word >> 6
        require(layer < layout.num_layers(dim), "an unknown layer")
        if not columns and layer == 0:
            sizes.append(value)
            directory += DIRECTORY_ITEM_GROUP_BYTES
            item_group = len(sizes) - 1
            require(value >= 1, "an item group without rows")
            require(len(sizes) <= header.num_item_groups, "more item groups than the header says")
            num_rows += value
            require(num_rows <= header.num_embeddings, "more rows than the header says")
        else:
            item_group = value
            require(item_group < len(sizes), "a block of an unknown item group")
            below = (1 << layer) - 1
            require(columns or layers[item_group] == below, "a layer without those below it")
        held = layers.get(item_group, 0)
        require(not held >> layer & 1, "a block twice")
        layers[item_group] = held | 1 << layer
        rows = np.array([sizes[item_group]])
        end = at + int(layout.block_bytes(rows, dim, header.num_embeddings)[0, layer])
        require(end <= header.blocks_end, "blocks reach beyond their end")
        directory += DIRECTORY_BLOCK_BYTES
        yield FileBlock(
            item_group, layer, sizes[item_group], at, end, checksum, word, end + directory
        )
        at = end
    require(at == header.blocks_end, "blocks end before their end")
    require(len(sizes) == header.num_item_groups, "fewer item groups than the header says")


def unpack_embedding(
    buffer: ReadableBuffer | NDArray[np.uint8], budget_bytes: int | None = None
) -> UnpackedRows:
    """Reads and decodes what a device would hold of a file.

    Args:
        buffer: a ``.peel`` file, or its first bytes.
        budget_bytes: upper limit of the bytes held; None: everything that is there.

    Raises:
        FormatError: not a ``.peel`` file, a damaged one, or one cut before its first block.
        BudgetError: too few bytes for the first blocks; names the minimum.
    """
    data = memoryview(buffer).tobytes()
    header = read_header(data)
    columns = isinstance(header.layout, ColumnsLayout)
    sizes = _item_group_sizes(data, header) if columns else []
    nbytes = HEADER_BYTES
    if columns:
        listed = header.row_ids == LISTED
        nbytes = header.layout.overhead_bytes(len(sizes), header.num_embeddings, listed)
    blocks: list[FileBlock] = []
    limit = math.inf if budget_bytes is None else budget_bytes
    for block in read_blocks(data):
        if block.held_bytes > limit or block.end > len(data):
            break
        nbytes = block.held_bytes
        blocks.append(block)
    if len(blocks) < header.least_blocks or nbytes > limit:
        needed = _minimum_bytes(data, header)
        if needed <= limit:
            raise _cut_short(data)
        raise BudgetError(
            f"budget_bytes is {budget_bytes}, but this file needs at least {needed} bytes", needed
        )
    ids, held, rows = _decode(data, header, sizes, blocks)
    return UnpackedRows(header, len(blocks), nbytes, ids, held, rows)


def _cut_short(data: bytes) -> FormatError:
    return FormatError(f"cut short: {len(data)} bytes are less than the first blocks take")


def _minimum_bytes(data: bytes, header: Header) -> int:
    held = [block.held_bytes for block in islice(read_blocks(data), header.least_blocks)]
    if len(held) < header.least_blocks:
        raise _cut_short(data)
    listed = header.row_ids == LISTED
    overhead = header.layout.overhead_bytes(header.num_item_groups, header.num_embeddings, listed)
    return held[-1] if held else overhead


def _item_group_sizes(data: bytes, header: Header) -> list[int]:
    """Rows of each item group of the columns layout, after a check of the whole section."""
    listed = header.row_ids == LISTED
    size = header.layout.item_group_section_bytes(
        header.num_item_groups, header.num_embeddings, listed
    )
    found = data[HEADER_BYTES : HEADER_BYTES + size]
    if len(found) < size:
        raise FormatError(f"cut short: {len(data)} bytes, its item groups are not all there")
    checksum = int.from_bytes(found[:4], "little")
    if zlib.crc32(found[4:], header_checksum(data)) != checksum:
        raise FormatError("damaged: the checksum of the item groups does not match")
    ids_begin = padded(4 + 4 * header.num_item_groups)
    ids_end = ids_begin + (header.num_embeddings * header.id_width if listed else 0)
    require_zeros(found[4 + 4 * header.num_item_groups : ids_begin] + found[ids_end:])
    ends = np.frombuffer(found, "<u4", header.num_item_groups, 4).astype(np.int64)
    sizes = np.diff(ends, prepend=0)
    require(bool((sizes >= 0).all()), "item groups end before they begin")
    last = int(ends[-1]) if len(ends) else 0
    require(last == header.num_embeddings, "item groups do not add up to the table")
    return [int(rows) for rows in sizes]


def _listed_ids(data: bytes, header: Header) -> NDArray[np.int64]:
    """Ids of all item groups of the columns layout, one after another."""
    if header.row_ids != LISTED:
        return np.arange(header.num_embeddings)
    begin = HEADER_BYTES + padded(4 + 4 * header.num_item_groups)
    ids = np.frombuffer(data, f"<u{header.id_width}", header.num_embeddings, begin)
    return ids.astype(np.int64)


def _check_ids(ids: NDArray[np.int64], header: Header) -> None:
    rising = bool((np.diff(ids) > 0).all()) and (not len(ids) or ids[-1] < header.num_embeddings)
    require(rising, "row ids out of order or out of range")


def _read_block(data: bytes, header: Header, number: int, block: FileBlock) -> UnpackedBlock:
    content = data[block.begin : block.end]
    word = block.value.to_bytes(4, "little")
    if zlib.crc32(content, zlib.crc32(word, header_checksum(data))) != block.checksum:
        raise FormatError(f"damaged: the checksum of block {number} does not match")
    return unpack_block(
        header.layout, header.dim, content, block.num_rows, block.layer, header.id_width
    )


def _decode(
    data: bytes, header: Header, sizes: list[int], blocks: list[FileBlock]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float32]]:
    """Ids, masks and rows of the blocks, item group after item group."""
    layout, dim = header.layout, header.dim
    widths = [layout.piece_bytes(layer, dim) for layer in range(layout.num_layers(dim))]
    begins = np.concatenate([[0], np.cumsum(widths)])
    listed = _listed_ids(data, header) if isinstance(layout, ColumnsLayout) else np.zeros(0, int)
    edges = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    ids = [listed[edges[c] : edges[c + 1]].astype(np.int64) for c in range(len(sizes))]
    for group_ids in ids:
        _check_ids(group_ids, header)
    masks = [0] * len(sizes)
    parts: dict[int, list[tuple[FileBlock, UnpackedBlock]]] = {}
    for number, block in enumerate(blocks):
        content = _read_block(data, header, number, block)
        if content.ids is not None:
            _check_ids(content.ids, header)
            ids.append(content.ids)
            masks.append(0)
        masks[block.item_group] |= 1 << block.layer
        parts.setdefault(block.item_group, []).append((block, content))
    rows = []
    for item_group, group_ids in enumerate(ids):
        store = np.zeros((len(group_ids), int(begins[-1])), np.uint8)
        scales = np.zeros((len(group_ids), layout.scales_per_row(dim)), np.float16)
        for block, content in parts.get(item_group, []):
            store[:, begins[block.layer] : begins[block.layer + 1]] = content.pieces
            if content.scales is not None:
                scales[:, block.layer] = content.scales
        rows.append(layout.decode(store, scales, masks[item_group], dim))
    held = np.repeat(np.array(masks, dtype=np.uint64), [len(group_ids) for group_ids in ids])
    all_ids = np.concatenate([np.zeros(0, np.int64), *ids])
    require(len(np.unique(all_ids)) == len(all_ids), "a row in two item groups")
    return (
        all_ids,
        held,
        np.concatenate([np.zeros((0, dim), np.float32), *rows]),
    )
