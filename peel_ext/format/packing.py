"""Blocks as bytes: rows side by side in tiles, as ``csrc/core/table.h`` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.format.header import require, require_zeros
from peel_ext.format.layout import ALIGNMENT, ColumnsLayout, Layout, PlanesLayout, padded

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


def section(values: NDArray[np.generic]) -> bytes:
    """The bytes of an array, padded to a multiple of 8."""
    data = np.ascontiguousarray(values).tobytes()
    return data + bytes(padded(len(data)) - len(data))


@dataclass(frozen=True)
class UnpackedBlock:
    """The part of its rows that one block holds, or of some of them.

    Attributes:
        ids: int64 [m], ascending, or None where the block does not bring them.
        scales: float16 [m], or None likewise.
        pieces: uint8 [m, piece_bytes].
    """

    ids: NDArray[np.int64] | None
    scales: NDArray[np.float16] | None
    pieces: NDArray[np.uint8]


def cut_block(
    layout: Layout, dim: int, rows: EncodedRows, at: NDArray[np.int64], layer: int, first: int = 0
) -> UnpackedBlock:
    """The part of some rows that a block holds.

    Args:
        layout: how rows are cut into blocks.
        dim: values of a row.
        rows: encoded rows.
        at: int64 [m], ascending, which of them.
        layer: the layer of the block.
        first: id of the first of ``rows``.
    """
    begin = sum(layout.piece_bytes(before, dim) for before in range(layer))
    ids, scaled = brings(layout, layer)
    return UnpackedBlock(
        at + first if ids else None,
        rows.scales[at, 0 if layout.nested else layer] if scaled else None,
        rows.store[at, begin : begin + layout.piece_bytes(layer, dim)],
    )


def brings(layout: Layout, layer: int) -> tuple[bool, bool]:
    """Tells whether a block begins with row ids, and whether with scales.

    In planes the first layer has both; int8 columns have scales in each.
    """
    ids = isinstance(layout, PlanesLayout) and layer == 0
    return ids, ids or (isinstance(layout, ColumnsLayout) and layout.scaled)


def pack_block(layout: Layout, block: UnpackedBlock, id_width: int) -> bytes:
    """One block: its ids and scales, where it brings any, and its pieces.

    Args:
        layout: how rows are cut into blocks.
        block: the part of all rows of the item group.
        id_width: bytes of a row id.
    """
    sections = []
    if block.ids is not None:
        sections.append(section(block.ids.astype(f"<u{id_width}")))
    if block.scales is not None:
        sections.append(section(block.scales))
    pieces = np.ascontiguousarray(block.pieces).view(_element_type(layout))
    sections.append(section(_tiled(pieces)))
    data = b"".join(sections)
    return data + bytes(padded(len(data), ALIGNMENT) - len(data))


def unpack_block(
    layout: Layout, dim: int, data: bytes, num_rows: int, layer: int, id_width: int
) -> UnpackedBlock:
    """The block of ``num_rows`` rows that :func:`pack_block` packed.

    Raises:
        FormatError: padding that is not zero, or scales that are negative or not finite.
    """
    ids = scales = None
    at = 0
    has_ids, has_scales = brings(layout, layer)
    if has_ids:
        ids = np.frombuffer(data, f"<u{id_width}", num_rows).astype(np.int64)
        at += padded(num_rows * id_width)
        require_zeros(data[num_rows * id_width : at])
    if has_scales:
        scales = np.frombuffer(data, "<f2", num_rows, at)
        sound = np.isfinite(scales).all() and not np.signbit(scales).any()
        require(bool(sound), "a scale that is negative or not finite")
        require_zeros(data[at + num_rows * 2 : at + padded(num_rows * 2)])
        at += padded(num_rows * 2)
    width = layout.piece_bytes(layer, dim)
    flat = np.frombuffer(data, np.uint8, num_rows * width, at).view(_element_type(layout))
    require_zeros(data[at + num_rows * width :])
    pieces = np.ascontiguousarray(_untiled(flat, num_rows)).view(np.uint8).reshape(num_rows, width)
    if isinstance(layout, PlanesLayout) and dim % 8:  # bits beyond the last coordinate
        last_bytes = pieces[:, (dim + 7) // 8 - 1 :: (dim + 7) // 8]
        require_zeros((last_bytes >> dim % 8).tobytes())
    return UnpackedBlock(ids, scales, pieces)


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
