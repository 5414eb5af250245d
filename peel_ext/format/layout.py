"""The two ways of cutting rows into blocks, and what each block costs in bytes.

A block is (item group, layer). Byte counts here are those of :mod:`peel_ext.format.writer`, whose
output length they predict exactly, and of the directory a device builds when it opens that
(``docs/format.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from peel_ext.format import quantizer

HEADER_BYTES = 64
MAX_LAYERS = 64

#: Blocks, and the pages of entries that announce them, begin at multiples of this.
ALIGNMENT = 64
ENTRY_BYTES = 8
PAGE_ENTRIES = ALIGNMENT // ENTRY_BYTES

#: The directory of an opened file, in memory beside its bytes: per item group, and per block.
DIRECTORY_ITEM_GROUP_BYTES = 16
DIRECTORY_BLOCK_BYTES = 4

ValueType = Literal["float32", "float16", "int8"]
VALUE_TYPES: tuple[ValueType, ...] = ("float32", "float16", "int8")

#: (first rank, rows of a block from there on): small budgets want small blocks.
_ROWS_PER_BLOCK = ((0, 32), (512, 64), (2048, 128), (8192, 256))


def padded(num_bytes: int, to: int = 8) -> int:
    """The next multiple of ``to``."""
    return (num_bytes + to - 1) // to * to


def page_padding_bytes(num_blocks: int) -> int:
    """Bytes of entry pages beyond those of the entries in use.

    Entries of 8 blocks share a page, so the costs of blocks do not quite add up: the first k take
    this many bytes on top of :meth:`block_costs`.
    """
    return padded(num_blocks * ENTRY_BYTES, ALIGNMENT) - num_blocks * ENTRY_BYTES


def id_bytes(num_embeddings: int) -> int:
    """Bytes of one row id: 2 up to 65,536 rows, else 4."""
    return 2 if num_embeddings <= 1 << 16 else 4


def _check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {bounds}, got {value}")


@dataclass(frozen=True)
class PlanesLayout:
    """Layer l is the next ``layer_bits[l]`` bits of every value of its rows.

    A layer needs the layers below it. Item groups are runs of rows in descending value for the
    user group, ``rows_per_block`` long (None: 32 rows first, growing to 256 with rank). A row's scale
    is its root mean square times ``spread``: with more than 1, rows of few bits are less drawn towards
    zero than rows of many, with which they compete.
    """

    layer_bits: tuple[int, ...] = (2, 1, 1, 2, 2)
    rows_per_block: int | None = None
    spread: float = 1.0

    name = "planes"
    code = 2
    value_type: ClassVar[ValueType] = "int8"  # of no meaning here, but every header has one
    block_dim = 0
    nested = True
    scaled = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer_bits", tuple(self.layer_bits))
        for bits in self.layer_bits:
            _check_int("layer_bits entries", bits, 1, quantizer.MAX_BITS)
        if not 1 <= sum(self.layer_bits) <= quantizer.MAX_BITS:
            raise ValueError(f"layer_bits must sum to 1..8, got {self.layer_bits}")
        if self.rows_per_block is not None:
            _check_int("rows_per_block", self.rows_per_block, 1)
        if not 1.0 <= self.spread <= 2.0:
            raise ValueError(f"spread must be between 1 and 2, got {self.spread}")

    def num_layers(self, dim: int) -> int:
        """Layers of a row."""
        return len(self.layer_bits)

    def piece_bytes(self, layer: int, dim: int) -> int:
        """Bytes of one row in a layer."""
        return self.layer_bits[layer] * ((dim + 7) // 8)

    def scales_per_row(self, dim: int) -> int:
        """float16 scales of a row."""
        return 1

    def layer_gains(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Worth of each layer [num_layers]: exp(-3 D_b) - exp(-3 D_b'), D the distortion."""
        steps = np.cumsum((0, *self.layer_bits))
        quality = np.exp([-3.0 * quantizer.distortion(int(bits)) for bits in steps])
        return np.diff(quality)

    def item_group_sizes(self, num_embeddings: int) -> NDArray[np.int64]:
        """Rows of each item group [num_item_groups], in rank order."""
        starts: list[int] = []
        for at, (first, rows) in enumerate(_ROWS_PER_BLOCK):
            last = _ROWS_PER_BLOCK[at + 1][0] if at + 1 < len(_ROWS_PER_BLOCK) else num_embeddings
            starts.extend(range(first, min(last, num_embeddings), rows))
        if self.rows_per_block is not None:
            starts = list(range(0, num_embeddings, self.rows_per_block))
        edges = np.array([*starts, num_embeddings], dtype=np.int64)
        return edges[1:] - edges[:-1]

    def block_bytes(
        self, sizes: NDArray[np.int64], dim: int, num_embeddings: int
    ) -> NDArray[np.int64]:
        """Bytes of every block in a file [num_item_groups, num_layers].

        The first layer of an item group brings its row ids and scales.
        """
        pieces = np.array([self.piece_bytes(layer, dim) for layer in range(len(self.layer_bits))])
        sections = (sizes[:, None] * pieces + 7) // 8 * 8
        sections[:, 0] += (sizes * id_bytes(num_embeddings) + 7) // 8 * 8 + (sizes * 2 + 7) // 8 * 8
        return _aligned(sections)

    def block_costs(
        self, sizes: NDArray[np.int64], dim: int, num_embeddings: int
    ) -> NDArray[np.int64]:
        """Bytes held for every block [num_item_groups, num_layers]: its own, entry and directory."""
        costs = self.block_bytes(sizes, dim, num_embeddings) + ENTRY_BYTES + DIRECTORY_BLOCK_BYTES
        costs[:, 0] += DIRECTORY_ITEM_GROUP_BYTES
        return costs

    def item_group_section_bytes(
        self, num_item_groups: int, num_embeddings: int, listed: bool
    ) -> int:
        """Bytes between header and blocks: none, item groups are described by their blocks."""
        return 0

    def overhead_bytes(self, num_item_groups: int, num_embeddings: int, listed: bool) -> int:
        """Bytes held whatever is kept."""
        return HEADER_BYTES

    def encode(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Store uint8 [n, row_bytes] and scales float16 [n, 1] of rows float32 [n, dim].

        Raises:
            ValueError: a row out of the range of its scale, or none that is not too small.
        """
        codes, scales = quantizer.encode_rows(rows, self.spread)
        return quantizer.pack_planes(codes, self.layer_bits), scales[:, None]

    def decode(
        self, store: NDArray[np.uint8], scales: NDArray[np.float16], held: int, dim: int
    ) -> NDArray[np.float32]:
        """Rows float32 [n, dim] of encoded rows of which the layers in the mask are held."""
        bits = 0
        for layer, more in enumerate(self.layer_bits):
            if not held >> layer & 1:
                break
            bits += more
        return quantizer.decode_codes(quantizer.unpack_planes(store, bits, dim), scales[:, 0], bits)


@dataclass(frozen=True)
class ColumnsLayout:
    """Layer l is a run of ``block_dim`` adjacent columns, as in the PEEL paper.

    Item groups are shared by all user groups: ``num_item_groups`` contiguous runs of rows, or given
    ones. Any subset of blocks may be kept; with ``keep_one_block`` at least one per item group.
    Values are float32, float16, or int8 with one float16 scale per row and layer.
    """

    block_dim: int = 8
    value_type: ValueType = "float32"
    num_item_groups: int = 20
    keep_one_block: bool = False

    name = "columns"
    code = 1
    layer_bits: ClassVar[tuple[int, ...]] = ()
    nested = False

    def __post_init__(self) -> None:
        _check_int("block_dim", self.block_dim, 1)
        _check_int("num_item_groups", self.num_item_groups, 1)
        if self.value_type not in VALUE_TYPES:
            raise ValueError(
                f"value_type must be one of {', '.join(VALUE_TYPES)}, got {self.value_type!r}"
            )

    @property
    def scaled(self) -> bool:
        """True if values carry scales."""
        return self.value_type == "int8"

    def num_layers(self, dim: int) -> int:
        """Layers of a row.

        Raises:
            ValueError: more than 64, or blocks wider than a row.
        """
        layers = -(-dim // self.block_dim)
        if layers > MAX_LAYERS or self.block_dim > dim:
            raise ValueError(
                f"block_dim must be between {-(-dim // MAX_LAYERS)} and {dim} for rows of {dim} "
                f"values, got {self.block_dim}"
            )
        return layers

    def _width(self, layer: int, dim: int) -> int:
        return min(self.block_dim, dim - layer * self.block_dim)

    def piece_bytes(self, layer: int, dim: int) -> int:
        """Bytes of one row in a layer, without its scale."""
        return self._width(layer, dim) * np.dtype(self.value_type).itemsize

    def scales_per_row(self, dim: int) -> int:
        """float16 scales of a row."""
        return self.num_layers(dim) if self.scaled else 0

    def layer_gains(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Worth of each layer [num_layers]: its share of the table's squared norm."""
        return self.gains_of_energy(np.square(rows, dtype=np.float64).sum(axis=0))

    def gains_of_energy(self, energy: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same where the sum of the squares of every column [dim] is known."""
        starts = np.arange(0, len(energy), self.block_dim)
        shares = np.add.reduceat(energy, starts)
        total = shares.sum()
        return np.asarray(shares / total if total > 0 else np.full(len(starts), 1 / len(starts)))

    def item_group_sizes(self, num_embeddings: int) -> NDArray[np.int64]:
        """Rows of each contiguous item group [num_item_groups]."""
        count = min(self.num_item_groups, num_embeddings)
        edges = np.linspace(0, num_embeddings, count + 1).astype(np.int64) if count else [0]
        return np.diff(edges)

    def block_bytes(
        self, sizes: NDArray[np.int64], dim: int, num_embeddings: int
    ) -> NDArray[np.int64]:
        """Bytes of every block in a file [num_item_groups, num_layers]; int8 ones bring scales."""
        pieces = np.array([self.piece_bytes(layer, dim) for layer in range(self.num_layers(dim))])
        sections = (sizes[:, None] * pieces + 7) // 8 * 8
        if self.scaled:
            sections += ((sizes * 2 + 7) // 8 * 8)[:, None]
        return _aligned(sections)

    def block_costs(
        self, sizes: NDArray[np.int64], dim: int, num_embeddings: int
    ) -> NDArray[np.int64]:
        """Bytes held for every block [num_item_groups, num_layers]: its own, entry and directory."""
        return self.block_bytes(sizes, dim, num_embeddings) + ENTRY_BYTES + DIRECTORY_BLOCK_BYTES

    def item_group_section_bytes(
        self, num_item_groups: int, num_embeddings: int, listed: bool
    ) -> int:
        """Bytes between header and blocks: checksum, row counts, and ids of given item groups."""
        ids = padded(num_embeddings * id_bytes(num_embeddings)) if listed else 0
        return padded(padded(4 + 4 * num_item_groups) + ids, ALIGNMENT)

    def overhead_bytes(self, num_item_groups: int, num_embeddings: int, listed: bool) -> int:
        """Bytes held whatever is kept: header, item groups and their directory."""
        section = self.item_group_section_bytes(num_item_groups, num_embeddings, listed)
        return HEADER_BYTES + section + num_item_groups * DIRECTORY_ITEM_GROUP_BYTES

    def encode(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Store uint8 [n, row_bytes] and scales float16 [n, layers or 0] of rows [n, dim].

        Raises:
            ValueError: a row out of the range of the value type, or none that is not too small.
        """
        num_rows, dim = rows.shape
        if not self.scaled:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(rows.astype(self.value_type))
            _check_finite(values, rows)
            if self.value_type == "float16":
                quantizer.tell_lost(rows, values)
            row_bytes = dim * values.itemsize
            store = values.view(np.uint8).reshape(num_rows, row_bytes)  # [n, row_bytes]
            return store, np.zeros((num_rows, 0), np.float16)
        codes = np.empty((num_rows, dim), dtype=np.int8)
        scales = np.empty((num_rows, self.num_layers(dim)), dtype=np.float16)
        for layer in range(self.num_layers(dim)):
            block = rows[:, layer * self.block_dim : (layer + 1) * self.block_dim]
            with np.errstate(over="ignore"):
                scale = (np.abs(block).max(axis=1) / np.float32(127)).astype(np.float16)
            _check_finite(scale, rows)
            divisor = scale.astype(np.float32)
            divisor[divisor == 0] = np.inf
            rounded = np.rint(block / divisor[:, None])
            codes[:, layer * self.block_dim : (layer + 1) * self.block_dim] = np.clip(
                rounded, -127, 127
            )
            scales[:, layer] = scale
        quantizer.tell_lost(rows, scales)
        return codes.view(np.uint8), scales

    def decode(
        self, store: NDArray[np.uint8], scales: NDArray[np.float16], held: int, dim: int
    ) -> NDArray[np.float32]:
        """Rows float32 [n, dim] of encoded rows of which the layers in the mask are held."""
        values = np.ascontiguousarray(store).view(self.value_type).astype(np.float32)
        for layer in range(self.num_layers(dim)):
            columns = slice(layer * self.block_dim, (layer + 1) * self.block_dim)
            if not held >> layer & 1:
                values[:, columns] = 0
            elif self.scaled:
                values[:, columns] *= scales[:, layer, None].astype(np.float32)
        return values


Layout = PlanesLayout | ColumnsLayout


def resolve_layout(layout: Layout | str, dim: int | None = None) -> Layout:
    """A layout from itself or from its name, ``"planes"`` or ``"columns"``.

    Args:
        layout: itself is returned as it is.
        dim: values of a row, which ``"columns"`` cuts into blocks of 8; into fewer where there are
            fewer, and into more where that would make more than 64 layers. None: into blocks of 8.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a layout.
    """
    if isinstance(layout, PlanesLayout | ColumnsLayout):
        return layout
    if not isinstance(layout, str):
        raise TypeError(f"layout must be a layout or its name, got {layout!r}")
    if layout == "planes":
        return PlanesLayout()
    if layout == "columns":
        return ColumnsLayout() if dim is None else ColumnsLayout(fitting_block_dim(dim))
    raise ValueError(f"layout must be 'planes' or 'columns', got {layout!r}")


def fitting_block_dim(dim: int) -> int:
    """Columns of a block for rows of ``dim`` values: 8, or what is nearest to it that fits."""
    return min(dim, max(ColumnsLayout.block_dim, -(-dim // MAX_LAYERS)))


def _aligned(num_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray((num_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT, dtype=np.int64)


def _check_finite(values: NDArray[np.floating], rows: NDArray[np.float32]) -> None:
    finite = np.isfinite(values if values.ndim > 1 else values[:, None]).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"row {bad} cannot be encoded: expected finite values within the range of the value type"
        )
