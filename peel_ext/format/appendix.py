"""The sections behind the blocks of a ``.peel`` file: centroids, item ids, the rotation, the mean."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peel_ext.errors import FormatError
from peel_ext.format.header import Header, header_checksum, require, require_zeros
from peel_ext.format.layout import ALIGNMENT, padded

GROUP_CENTROIDS, ITEM_IDS, ROTATION, ROW_MEAN = 1, 2, 3, 4
NAMES = {
    GROUP_CENTROIDS: "group centroids",
    ITEM_IDS: "item ids",
    ROTATION: "rotation",
    ROW_MEAN: "row mean",
}

#: Checksum, kind, bytes of the payload, count, width, zeros.
_SECTION = struct.Struct("<IIQQI36s")
_MOST_SECTIONS = 64


@dataclass(frozen=True)
class Section:
    """One section behind the blocks.

    Attributes:
        kind: ``GROUP_CENTROIDS``, ``ITEM_IDS``, ``ROTATION``, ``ROW_MEAN``, or one this version does
            not know.
        count: number of centroids, ids or rows of the rotation.
        width: values of each; 1 where ids are integers, 0 where they are text.
        payload: its bytes.
    """

    kind: int
    count: int
    width: int
    payload: bytes

    @property
    def file_bytes(self) -> int:
        """Bytes in the file, header and padding included."""
        return ALIGNMENT + padded(len(self.payload), ALIGNMENT)


def pack_section(section: Section, checksum: int) -> bytes:
    """Its header and payload, padded; the checksum goes on from that of the file's header."""
    body = _SECTION.pack(0, section.kind, len(section.payload), section.count, section.width, b"")[
        4:
    ]
    payload = section.payload.ljust(padded(len(section.payload), ALIGNMENT), b"\0")
    own = zlib.crc32(payload, zlib.crc32(body, checksum))
    return struct.pack("<I", own) + body + payload


def centroid_section(centroids: ArrayLike, dim: int) -> Section:
    """The section of centroids float32 [num_groups, dim], in the space of the rows.

    Raises:
        ValueError: a wrong shape, or values that are not finite.
    """
    values = np.ascontiguousarray(centroids, dtype="<f4")
    if values.ndim != 2 or values.shape[1] != dim or not np.isfinite(values).all():
        raise ValueError(
            f"centroids must be finite and have shape (num_groups, {dim}), got {values.shape}"
        )
    return Section(GROUP_CENTROIDS, len(values), dim, values.tobytes())


def rotation_section(rotation: ArrayLike, dim: int) -> Section:
    """The section of a rotation float32 [dim, dim]: ``vector @ rotation`` is in the space of the rows.

    Raises:
        ValueError: a wrong shape, or values that are not finite.
    """
    values = np.ascontiguousarray(rotation, dtype="<f4")
    if values.shape != (dim, dim) or not np.isfinite(values).all():
        raise ValueError(
            f"rotation must be finite and have shape ({dim}, {dim}), got {values.shape}"
        )
    return Section(ROTATION, dim, dim, values.tobytes())


def row_mean_section(row_mean: ArrayLike, dim: int) -> Section:
    """The section of a mean float32 [dim], in the space of the rows, which they are less of.

    Raises:
        ValueError: a wrong shape, or values that are not finite.
    """
    values = np.ascontiguousarray(row_mean, dtype="<f4")
    if values.shape != (dim,) or not np.isfinite(values).all():
        raise ValueError(f"row_mean must be finite and have shape ({dim},), got {values.shape}")
    return Section(ROW_MEAN, 1, dim, values.tobytes())


def item_id_section(ids: Sequence[int | str] | NDArray[Any], num_embeddings: int) -> Section:
    """The section of item ids, that of row i at position i: all integers, or all text.

    Raises:
        ValueError: not as many distinct ids as rows.
        TypeError: ids that are neither integers nor text, or both.
    """
    if len(ids) != num_embeddings:
        raise ValueError(f"item_ids must hold {num_embeddings} ids, got {len(ids)}")
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    integers = all(isinstance(name, int) and not isinstance(name, bool) for name in ids)
    if not integers and not all(isinstance(name, str) for name in ids):
        raise TypeError("item_ids must be all integers or all text")
    if len(set(ids)) != len(ids):
        raise ValueError("item_ids must be distinct")
    names = [str(name).encode() for name in ids]
    ends = np.cumsum([0, *(len(name) for name in names)])
    if ends[-1] >= 1 << 32:
        raise ValueError(f"item_ids take {ends[-1]} bytes, expected fewer than 2^32")
    payload = ends.astype("<u4").tobytes() + b"".join(names)
    return Section(ITEM_IDS, len(names), int(integers), payload)


def read_sections(data: bytes, header: Header, *, cut_short: bool = False) -> list[Section]:
    """All sections behind the blocks of a file.

    Args:
        data: the file.
        header: its header.
        cut_short: whether the last section may lack bytes, and is left out then.

    Raises:
        FormatError: a damaged section, a kind that comes twice, bytes that are no section, or a section
            that is not all there and has to be.
    """
    checksum = header_checksum(data)
    sections: list[Section] = []
    at = header.blocks_end
    while at < len(data):
        if len(data) - at < ALIGNMENT:
            if cut_short:
                break
            raise FormatError(f"cut short: {len(data)} bytes, a section is not all there")
        own, kind, size, count, width, reserved = _SECTION.unpack_from(data, at)
        require(kind != 0 and not any(reserved), "what follows the blocks is no section")
        require(all(kind != other.kind for other in sections), "a section twice")
        require(len(sections) < _MOST_SECTIONS, "more sections than there can be")
        body = data[at + 4 : at + ALIGNMENT]
        payload = data[at + ALIGNMENT : at + ALIGNMENT + padded(size, ALIGNMENT)]
        if len(payload) < padded(size, ALIGNMENT):
            if cut_short:
                break
            raise FormatError(f"cut short: {len(data)} bytes, a section is not all there")
        if zlib.crc32(payload, zlib.crc32(body, checksum)) != own:
            raise FormatError(f"damaged: the checksum of section {kind} does not match")
        require_zeros(payload[size:])
        sections.append(Section(kind, count, width, payload[:size]))
        at += ALIGNMENT + len(payload)
    return sections
