"""The bytes of a Personalized Elastic Embedding: written here, opened by ``csrc/device/pee.cpp``.

Header (64 bytes) | directory (16 bytes an item group) | listed row ids, if any | pool. Every section
is padded to 8 bytes; all integers are little endian. ``csrc/core/table.h`` describes an item group,
whose pieces lie in tiles: rows side by side, element after element.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.format.layout import (
    DIRECTORY_ENTRY_BYTES,
    HEADER_BYTES,
    VALUE_TYPES,
    ColumnsLayout,
    Layout,
    PlanesLayout,
    id_bytes,
    padded,
)

_HEADER = struct.Struct("<4s4B2I2Q2I8s16x")
_MAGIC = b"PEE1"
_CONSECUTIVE, _LISTED, _IN_BLOCKS = range(3)

#: Rows of a tile, ``kPackedTileRows`` of the native core.
TILE_ROWS = 32


@dataclass(frozen=True)
class EncodedRows:
    """Rows of one user group in encoded form.

    Attributes:
        store: uint8 [num_embeddings, row_bytes], row i that of id i.
        scales: float16 [num_embeddings, scales_per_row].
    """

    store: NDArray[np.uint8]
    scales: NDArray[np.float16]


def _tiled(pieces: NDArray[np.generic]) -> NDArray[np.generic]:
    """Pieces [rows, elements] as tiles of 32 rows, each turned to [elements, rows in it], flat."""
    rows, elements = pieces.shape
    whole = rows - rows % TILE_ROWS
    tiles = pieces[:whole].reshape(-1, TILE_ROWS, elements)  # [tiles, 32, elements]
    return np.concatenate([tiles.transpose(0, 2, 1).ravel(), pieces[whole:].T.ravel()])


def _untiled(flat: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    """The pieces [rows, elements] that :func:`_tiled` laid out."""
    elements = len(flat) // rows if rows else 0
    whole = rows - rows % TILE_ROWS
    tiles = flat[: whole * elements].reshape(-1, elements, TILE_ROWS)  # [tiles, elements, 32]
    head = tiles.transpose(0, 2, 1).reshape(whole, elements)
    return np.concatenate([head, flat[whole * elements :].reshape(elements, rows - whole).T])


def _element_type(layout: Layout) -> np.dtype[Any]:
    """What lies side by side in a tile: values in columns, bytes of a bit plane in planes."""
    return np.dtype(layout.value_type if isinstance(layout, ColumnsLayout) else np.uint8)


def _section(values: NDArray[np.generic]) -> bytes:
    data = np.ascontiguousarray(values).tobytes()
    return data + bytes(padded(len(data)) - len(data))


def _pack_item_group(
    layout: Layout, dim: int, rows: EncodedRows, ids: NDArray[np.int64], held: int
) -> bytes:
    id_type = f"<u{id_bytes(len(rows.store))}"
    sections = []
    if isinstance(layout, PlanesLayout):
        sections += [_section(ids.astype(id_type)), _section(rows.scales[ids, 0])]
    begin = 0
    for layer in range(layout.num_layers(dim)):
        end = begin + layout.piece_bytes(layer, dim)
        if held >> layer & 1:
            if isinstance(layout, ColumnsLayout) and layout.scaled:
                sections.append(_section(rows.scales[ids, layer]))
            pieces = np.ascontiguousarray(rows.store[ids, begin:end]).view(_element_type(layout))
            sections.append(_section(_tiled(pieces)))
        begin = end
    return b"".join(sections)


def pack_embedding(
    layout: Layout,
    dim: int,
    rows: EncodedRows,
    item_groups: Sequence[NDArray[np.int64]],
    held: Sequence[int],
) -> NDArray[np.uint8]:
    """The bytes uint8 [nbytes] of the blocks held, aligned to 8 bytes.

    Args:
        layout: how rows are cut into blocks.
        dim: values of a row.
        rows: the encoded rows of the user group.
        item_groups: ids of each item group, ascending within it.
        held: mask of the layers kept of each item group. In the planes layout item groups without
            any are left out; in the columns layout they stay in the directory.
    """
    num_embeddings = len(rows.store)
    directory, pool, sections = [], 0, []
    row_end = 0
    consecutive = True
    for ids, mask in zip(item_groups, held, strict=True):
        if isinstance(layout, PlanesLayout) and not mask:
            continue
        consecutive &= len(ids) == 0 or (ids[0] == row_end and ids[-1] == row_end + len(ids) - 1)
        data = _pack_item_group(layout, dim, rows, ids, int(mask)) if mask else b""
        row_end += len(ids)
        directory.append(struct.pack("<QII", int(mask), pool // 8, row_end))
        sections.append(data)
        pool += len(data)
    listed = b""
    row_ids = _IN_BLOCKS
    if isinstance(layout, ColumnsLayout):
        row_ids = _CONSECUTIVE if consecutive else _LISTED
        if not consecutive:
            listed = _section(np.concatenate(item_groups).astype(f"<u{id_bytes(num_embeddings)}"))
    header = _HEADER.pack(
        _MAGIC,
        layout.code,
        VALUE_TYPES.index(layout.value_type),
        row_ids,
        id_bytes(num_embeddings),
        dim,
        layout.block_dim,
        num_embeddings,
        row_end,
        len(directory),
        layout.num_layers(dim),
        bytes(layout.layer_bits),
    )
    data = b"".join([header, *directory, listed, *sections])
    aligned = np.empty(len(data) // 8, dtype=np.uint64).view(np.uint8)
    aligned[:] = np.frombuffer(data, dtype=np.uint8)
    return aligned


@dataclass(frozen=True)
class UnpackedRows:
    """What a Personalized Elastic Embedding holds, decoded.

    Attributes:
        layout: how its rows are cut (its item groups are those of the directory).
        num_embeddings: rows of the whole table.
        ids: int64 [num_rows], in the order of the file.
        held: layer mask of each of those rows, uint64 [num_rows].
        rows: float32 [num_rows, dim], zero where not held.
    """

    layout: Layout
    num_embeddings: int
    ids: NDArray[np.int64]
    held: NDArray[np.uint64]
    rows: NDArray[np.float32]


def unpack_embedding(buffer: NDArray[np.uint8]) -> UnpackedRows:
    """Reads and decodes a Personalized Elastic Embedding, slowly and plainly.

    The reference of the native reader, for bytes that :func:`pack_embedding` wrote; hostile bytes
    are the native reader's business.
    """
    data = np.ascontiguousarray(buffer).tobytes()
    (_, code, value_type, row_ids, id_width, dim, block_dim, num_embeddings, num_rows, num_groups,
     num_layers, layer_bits) = _HEADER.unpack_from(data)  # fmt: skip
    layout: Layout = (
        PlanesLayout(tuple(layer_bits[:num_layers]))
        if code == PlanesLayout.code
        else ColumnsLayout(block_dim, VALUE_TYPES[value_type], max(num_groups, 1))
    )
    pool = HEADER_BYTES + num_groups * DIRECTORY_ENTRY_BYTES
    listed = np.arange(num_rows)
    if row_ids == _LISTED:
        listed = np.frombuffer(data, f"<u{id_width}", num_rows, pool).astype(np.int64)
        pool += padded(num_rows * id_width)
    ids, masks = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    rows = [np.zeros((0, dim), np.float32)]
    row_begin = 0
    for c in range(num_groups):
        held, offset, row_end = struct.unpack_from("<QII", data, HEADER_BYTES + c * 16)
        count = row_end - row_begin
        at = pool + 8 * offset
        group_ids = listed[row_begin:row_end]
        if row_ids == _IN_BLOCKS:
            group_ids = np.frombuffer(data, f"<u{id_width}", count, at).astype(np.int64)
            at += padded(count * id_width)
        store, scales = _unpack_item_group(layout, dim, data, at, count, held)
        ids.append(group_ids)
        masks.append(np.full(count, held, dtype=np.uint64))
        rows.append(layout.decode(store, scales, held, dim))
        row_begin = row_end
    return UnpackedRows(
        layout, num_embeddings, np.concatenate(ids), np.concatenate(masks), np.concatenate(rows)
    )


def _unpack_item_group(
    layout: Layout, dim: int, data: bytes, at: int, count: int, held: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Store [count, row_bytes] and scales [count, scales_per_row]; zeros for layers not held."""
    scales = np.zeros((count, layout.scales_per_row(dim)), np.float16)
    if isinstance(layout, PlanesLayout):
        scales[:, 0] = np.frombuffer(data, "<f2", count, at)
        at += padded(count * 2)
    pieces = []
    for layer in range(layout.num_layers(dim)):
        width = layout.piece_bytes(layer, dim)
        if not held >> layer & 1:
            pieces.append(np.zeros((count, width), np.uint8))
            continue
        if isinstance(layout, ColumnsLayout) and layout.scaled:
            scales[:, layer] = np.frombuffer(data, "<f2", count, at)
            at += padded(count * 2)
        flat = np.frombuffer(data, np.uint8, count * width, at).view(_element_type(layout))
        rows = np.ascontiguousarray(_untiled(flat, count)).view(np.uint8)
        pieces.append(rows.reshape(count, width))
        at += padded(count * width)
    return np.concatenate(pieces, axis=1), scales
