"""The first 64 bytes of a ``.peel`` file (``docs/format.md``)."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field

from peel_ext.errors import FormatError
from peel_ext.format.layout import (
    ALIGNMENT,
    HEADER_BYTES,
    MAX_LAYERS,
    VALUE_TYPES,
    ColumnsLayout,
    Layout,
    PlanesLayout,
    id_bytes,
)

MAGIC = b"PEEL"
BUNDLE_MAGIC = b"PEEB"
VERSION = 1
CONSECUTIVE, LISTED, IN_BLOCKS = range(3)

#: Feature bits: the first blocks, one of each item group, are kept under every budget; rows have a
#: prior; rows are rotated.
KEEP_ONE_BLOCK, HAS_PRIOR, ROTATED = 1, 2, 4

_HEADER = struct.Struct("<4s8B8s2H6I3fI")
_CHECKSUM_AT = HEADER_BYTES - 4


@dataclass(frozen=True)
class FoldInSettings:
    """The settings by which a device computes a user's vector; see :mod:`peel_ext.device.fold_in`.

    Attributes:
        steps: gradient steps after the mean, at most 255.
        step_size: length of a step, as a multiple of the gradient.
        temperature: divides the cosines; that of pretraining.
        prior: a user's component along the axis of the prior (:mod:`peel_ext.device.item_prior`); 0:
            rows have no prior.

    Raises:
        ValueError: a setting out of range.
    """

    steps: int = 20
    step_size: float = 0.03
    temperature: float = 0.1
    prior: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= 255:
            raise ValueError(f"steps must be between 0 and 255, got {self.steps}")
        for name, value in (("step_size", self.step_size), ("temperature", self.temperature)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        if not 0 <= self.prior < math.inf:
            raise ValueError(f"prior must be at least 0 and finite, got {self.prior}")


@dataclass(frozen=True)
class Header:
    """The fields of the header.

    Attributes:
        layout: how rows are cut into blocks.
        dim: values of a row.
        row_ids: where row ids lie: ``CONSECUTIVE``, ``LISTED`` or ``IN_BLOCKS``.
        id_width: bytes of a row id, 2 or 4.
        num_embeddings: rows of the whole table.
        num_item_groups: item groups of the whole file.
        num_blocks: blocks of the whole file.
        blocks_end: bytes from the first of the file to the end of its last block.
        group: the user group.
        content: tells files of the same shape apart.
        fold_in: settings of the device.
        rotated: whether rows are rotated, so that the vectors of users must be, too.
    """

    layout: Layout
    dim: int
    row_ids: int
    id_width: int
    num_embeddings: int
    num_item_groups: int
    num_blocks: int
    blocks_end: int
    group: int = 0
    content: int = 0
    fold_in: FoldInSettings = field(default_factory=FoldInSettings)
    rotated: bool = False

    @property
    def keep_one_block(self) -> bool:
        """True if no budget may keep less than one block of each item group."""
        return isinstance(self.layout, ColumnsLayout) and self.layout.keep_one_block

    @property
    def least_blocks(self) -> int:
        """The fewest blocks a device may hold."""
        return self.num_item_groups if self.keep_one_block else min(1, self.num_blocks)

    def pack(self) -> bytes:
        """The 64 bytes, checksum last.

        Raises:
            ValueError: something too large for its field.
        """
        try:
            data = _HEADER.pack(
                MAGIC,
                VERSION,
                self.keep_one_block * KEEP_ONE_BLOCK
                + (self.fold_in.prior > 0) * HAS_PRIOR
                + self.rotated * ROTATED,
                self.layout.code,
                VALUE_TYPES.index(self.layout.value_type),
                self.row_ids,
                self.id_width,
                self.fold_in.steps,
                0,
                bytes(self.layout.layer_bits),
                self.dim,
                self.layout.block_dim,
                self.num_embeddings,
                self.num_item_groups,
                self.num_blocks,
                self.group,
                self.content,
                self.blocks_end // ALIGNMENT,
                self.fold_in.step_size,
                self.fold_in.temperature,
                self.fold_in.prior,
                0,
            )[:_CHECKSUM_AT]
        except struct.error as error:
            raise ValueError(f"the table is too large for a .peel file: {error}") from None
        return data + struct.pack("<I", zlib.crc32(data))


def header_checksum(data: bytes) -> int:
    """The checksum a packed header carries, from which those of its blocks go on."""
    return int.from_bytes(data[_CHECKSUM_AT:HEADER_BYTES], "little")


def read_header(data: bytes) -> Header:
    """Reads and checks the first 64 bytes.

    Raises:
        FormatError: not a ``.peel`` file, a newer one, or a damaged one.
    """
    if data[:4] == BUNDLE_MAGIC:
        raise FormatError("not a .peel file but a bundle of many: open it with the id of a user")
    if data[:4] != MAGIC[: len(data)] or not data:
        raise FormatError("not a .peel file: it does not begin with 'PEEL'")
    if len(data) < HEADER_BYTES:
        raise FormatError(f"cut short: {len(data)} bytes, the header alone has {HEADER_BYTES}")
    (_, version, features, code, value_type, row_ids, id_width, steps, reserved, layer_bits, dim,
     block_dim, num_embeddings, num_item_groups, num_blocks, group, content, blocks_end, step_size,
     temperature, prior, checksum) = _HEADER.unpack_from(data)  # fmt: skip
    if version != VERSION:
        raise FormatError(f"version {version} of the .peel format, this reads version {VERSION}")
    if zlib.crc32(data[:_CHECKSUM_AT]) != checksum:
        raise FormatError("damaged: the checksum of the header does not match")
    known = KEEP_ONE_BLOCK | HAS_PRIOR | ROTATED
    require(features & ~known == 0, f"unknown features {features:#x}")
    has_prior, keeps_one = bool(features & HAS_PRIOR), bool(features & KEEP_ONE_BLOCK)
    rotated = bool(features & ROTATED)
    require(reserved == 0, "reserved bytes are not zero")
    require(0 < step_size < math.inf and 0 < temperature < math.inf, "fold-in out of range")
    require(0 < prior < math.inf if has_prior else data[56:60] == bytes(4), "prior out of range")
    require(dim >= 1, "dim is 0")
    layout: Layout
    if code == PlanesLayout.code:
        used = layer_bits.rstrip(b"\0")
        require(0 not in used and 1 <= sum(used) <= 8, "layer_bits out of range")
        require(row_ids == IN_BLOCKS, "row_ids does not fit the planes layout")
        fits = VALUE_TYPES[value_type : value_type + 1] == (PlanesLayout.value_type,)
        require(fits, f"value type {value_type} does not fit the planes layout")
        require(block_dim == 0 and not keeps_one, "block_dim or features without columns")
        layout = PlanesLayout(tuple(used))
    else:
        require(code == ColumnsLayout.code, f"unknown layout {code}")
        require(value_type < len(VALUE_TYPES), f"unknown value type {value_type}")
        require(row_ids in (CONSECUTIVE, LISTED), "row_ids does not fit the columns layout")
        require(1 <= block_dim <= dim, "block_dim out of range")
        require(not rotated, "rotated rows without planes")
        require(-(-dim // block_dim) <= MAX_LAYERS and not any(layer_bits), "too many layers")
        layout = ColumnsLayout(
            block_dim, VALUE_TYPES[value_type], max(num_item_groups, 1), keeps_one
        )
    require(id_width == id_bytes(num_embeddings), "id_bytes does not fit num_embeddings")
    require(num_blocks <= num_item_groups * layout.num_layers(dim), "more blocks than there can be")
    return Header(
        layout, dim, row_ids, id_width, num_embeddings, num_item_groups, num_blocks,
        blocks_end * ALIGNMENT, group, content, FoldInSettings(steps, step_size, temperature, prior),
        rotated,
    )  # fmt: skip


def require(condition: bool, what: str) -> None:
    """Raises FormatError, saying what, unless the condition holds."""
    if not condition:
        raise FormatError(f"not a valid .peel file: {what}")


def require_zeros(padding: bytes) -> None:
    """Raises FormatError unless all bytes are zero."""
    require(not any(padding), "padding that is not zero")
