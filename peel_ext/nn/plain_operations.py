"""Modules of plain torch operations with what a budget holds, for runtimes that know no others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from peel_ext.format import ColumnsLayout, GroupTable, PlanesLayout
from peel_ext.format.quantizer import level_table
from peel_ext.nn.elastic_embedding import ElasticEmbedding
from peel_ext.ops.lookup import is_traced

#: Rows whose bits are counted together: 8 bytes of them.
_WORD_ROWS = 64


def plain_module(embedding: ElasticEmbedding, group: int, budget_bytes: int) -> PlainEmbedding:
    """Makes of what a budget holds of a user group a module that exporters and other runtimes understand.

    It takes the place of the embedding in a model that goes to ONNX or ExecuTorch. Rows are those of
    ``embedding(input, groups=group)`` under the budget: the same bits, and with a rotation the same to
    rounding. It has no parameters and follows no later changes of the embedding.

    Its tensors take about the bytes of the budget: the blocks as they are packed in a ``.peel`` file,
    a bit a row and layer to find them by, tables of 6 KiB, and the rotation, if there is one.

    Args:
        embedding: float32, on any device; the module is made on the CPU.
        group: user group.
        budget_bytes: as for :meth:`ElasticEmbedding.generate`.

    Raises:
        IndexError: a group out of range.
        BudgetError: too few bytes; names the minimum.
        TypeError: not an elastic embedding, or a weight that is not one float32 tensor.
        ValueError: a weight that is not finite.
    """
    if not isinstance(embedding, ElasticEmbedding):
        raise TypeError(f"embedding must be an ElasticEmbedding, got a {type(embedding).__name__}")
    table, num_blocks = embedding.held_table(group, budget_bytes)
    decoder: nn.Module = (_PlanesDecoder if table.layout.nested else _ColumnsDecoder)(
        table, _held_rows(table, num_blocks)
    )
    rotation = None if embedding.rotation is None else embedding.rotation.detach().cpu()
    return PlainEmbedding(embedding, decoder, rotation)


class PlainEmbedding(nn.Module):
    """Looks rows up by gathers, tables and sums; see :func:`plain_module`.

    Attributes:
        num_embeddings: rows, those that are not held included, which are zero.
        embedding_dim: values of a row.
        padding_idx: that of the embedding; of no meaning here.
    """

    rotated_back: Tensor | None

    def __init__(
        self, embedding: ElasticEmbedding, decoder: nn.Module, rotation: Tensor | None
    ) -> None:
        super().__init__()
        self.num_embeddings = embedding.num_embeddings
        self.embedding_dim = embedding.embedding_dim
        self.padding_idx = embedding.padding_idx
        self.decoder = decoder
        back = None if rotation is None else rotation.T.contiguous()
        self.register_buffer("rotated_back", back)  # [dim, dim]

    @property
    def weight(self) -> Tensor:
        """The whole table float32 [num_embeddings, embedding_dim], for models that read it."""
        device = next(self.buffers()).device
        rows: Tensor = self(torch.arange(self.num_embeddings, device=device))
        return rows

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the indices.

        Args:
            input: int32 or int64 indices of any shape.

        Returns:
            float32 [*input.shape, embedding_dim].

        Raises:
            IndexError: an index out of range. What is exported does not look.
        """
        rows = input.reshape(-1).long()
        if not is_traced(rows) and len(rows):
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or high >= self.num_embeddings:
                raise IndexError(
                    f"input holds {low if low < 0 else high}, expected indices in "
                    f"[0, {self.num_embeddings})"
                )
        values: Tensor = self.decoder(rows)
        if self.rotated_back is not None:
            values = values @ self.rotated_back
        return values.reshape(*input.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """The shape."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


def _held_rows(table: GroupTable, num_blocks: int) -> list[NDArray[np.int64]]:
    """The rows, ascending, of which the first blocks hold each layer."""
    item_groups, layers = np.divmod(table.order[:num_blocks], table.num_layers)
    held = []
    for layer in range(table.num_layers):
        ids = [table.item_groups[item_group] for item_group in item_groups[layers == layer]]
        held.append(np.sort(np.concatenate([np.zeros(0, np.int64), *ids])))
    return held


class _Places(nn.Module):
    """Where rows lie among those that are held: a bit a row, and a count before every 64 bits."""

    words: Tensor  # uint8 [num_words, 8]
    counts: Tensor  # int32 [num_words], rows held before each word
    bits_of_byte: Tensor  # uint8 [256, 8]

    def __init__(self, held: NDArray[np.int64], num_rows: int) -> None:
        super().__init__()
        bits = np.zeros(-(-max(1, num_rows) // _WORD_ROWS) * _WORD_ROWS, dtype=np.uint8)
        bits[held] = 1
        inside = bits.reshape(-1, _WORD_ROWS).sum(axis=1, dtype=np.int32)
        words = np.packbits(bits, bitorder="little").reshape(-1, _WORD_ROWS // 8)
        self.register_buffer("words", torch.from_numpy(words))
        self.register_buffer("counts", torch.from_numpy(np.cumsum(inside, dtype=np.int32) - inside))
        self.register_buffer("bits_of_byte", _bits_of_byte(), persistent=False)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each row is held, bool [m], and its place int64 [m], 0 where it is not."""
        word = rows // _WORD_ROWS  # not torch.div, which ONNX gets in float32
        at = rows - word * _WORD_ROWS  # [m]
        bits = _unpack(_gather(self.words, word), self.bits_of_byte)  # [m, 64]
        number = torch.arange(_WORD_ROWS, device=rows.device)
        held = (bits * (number == at[:, None])).sum(dim=1) > 0
        before = (bits * (number < at[:, None])).sum(dim=1)
        places = _gather(self.counts, word).long() + before
        return held, torch.where(held, places, torch.zeros_like(places))


class _PlanesDecoder(nn.Module):
    """Rows of bit planes. A layer's places are among the rows of the layer below it."""

    levels: Tensor  # float32 [512, 1]: a code of b bits with a one before it stands for the value
    scales: Tensor  # float16 [rows with the first layer, 1]
    bits_of_byte: Tensor  # uint8 [256, 8]

    def __init__(self, table: GroupTable, held: list[NDArray[np.int64]]) -> None:
        super().__init__()
        assert isinstance(table.layout, PlanesLayout)
        self.dim = table.dim
        levels = np.concatenate([np.zeros(2, np.float32), level_table()])
        self.register_buffer("levels", torch.from_numpy(levels.reshape(-1, 1)))
        self.register_buffer("scales", torch.from_numpy(table.rows.scales[held[0]]))
        self.register_buffer("bits_of_byte", _bits_of_byte(), persistent=False)
        self.planes = nn.ModuleList()
        below, begin = np.arange(table.num_embeddings), 0
        for layer, rows in enumerate(held):
            end = begin + table.layout.piece_bytes(layer, table.dim)
            if not len(rows):
                break
            self.planes.append(_Pieces(table.rows.store[rows, begin:end], rows, below))
            below, begin = rows, end

    def forward(self, rows: Tensor) -> Tensor:
        """Rows float32 [m, dim]."""
        places, held = rows, torch.ones_like(rows, dtype=torch.bool)
        scales = self.scales.new_zeros(1, 1).float()
        codes = torch.ones_like(rows, dtype=torch.int32)[:, None].repeat(1, self.dim)
        for layer, pieces in enumerate(self.planes):
            here, places, packed = pieces(places)  # packed: uint8 [m, bits * bytes of a plane]
            held = held & here
            if layer == 0:
                scales = _gather(self.scales, places).float()
            bits = _unpack(packed, self.bits_of_byte)
            # A plane fills whole bytes.
            for plane in bits.split(-(-self.dim // 8) * 8, dim=1):
                longer = codes * 2 + plane[:, : self.dim]
                codes = torch.where(held[:, None], longer, codes)
        values = F.embedding(codes, self.levels).flatten(1)
        return values * scales


class _ColumnsDecoder(nn.Module):
    """Rows of runs of columns, each with rows of its own."""

    def __init__(self, table: GroupTable, held: list[NDArray[np.int64]]) -> None:
        super().__init__()
        layout = table.layout
        assert isinstance(layout, ColumnsLayout)
        self.scaled = layout.scaled
        self.widths: list[int] = []
        self.runs = nn.ModuleDict()  # by the layer's number, those of which something is held
        self.scales = nn.ModuleDict()
        everything, begin = np.arange(table.num_embeddings), 0
        for layer, rows in enumerate(held):
            end = begin + layout.piece_bytes(layer, table.dim)
            values = np.ascontiguousarray(table.rows.store[rows, begin:end]).view(layout.value_type)
            self.widths.append((end - begin) // np.dtype(layout.value_type).itemsize)
            if len(rows):
                self.runs[str(layer)] = _Pieces(values, rows, everything)
                if layout.scaled:
                    self.scales[str(layer)] = _Scales(table.rows.scales[rows, layer])
            begin = end

    def forward(self, rows: Tensor) -> Tensor:
        """Rows float32 [m, dim]."""
        parts = []
        for layer, width in enumerate(self.widths):
            name = str(layer)
            if name not in self.runs:
                zeros = torch.zeros_like(rows, dtype=torch.float32)
                parts.append(zeros[:, None].repeat(1, width))
                continue
            held, places, packed = self.runs[name](rows)
            values = packed.float()
            if self.scaled:
                values = self.scales[name](packed, places)
            parts.append(torch.where(held[:, None], values, torch.zeros_like(values)))
        return torch.cat(parts, dim=1)


class _Pieces(nn.Module):
    """The pieces of one layer, and where those of each row lie."""

    pieces: Tensor  # [rows held, values or bytes of a piece]

    def __init__(
        self, pieces: NDArray[np.generic], rows: NDArray[np.int64], among: NDArray[np.int64]
    ) -> None:
        super().__init__()
        self.register_buffer("pieces", torch.from_numpy(np.ascontiguousarray(pieces)))
        of_all = len(rows) == len(among)
        self.places = None if of_all else _Places(np.searchsorted(among, rows), len(among))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each of the rows [m] is held, its place, and its piece (any, if it is not)."""
        held, places = torch.ones_like(rows, dtype=torch.bool), rows
        if self.places is not None:
            held, places = self.places(rows)
        return held, places, _gather(self.pieces, places)


class _Scales(nn.Module):
    """The scales of one run of int8 columns."""

    scales: Tensor  # float16 [rows held, 1]

    def __init__(self, scales: NDArray[np.float16]) -> None:
        super().__init__()
        self.register_buffer("scales", torch.from_numpy(scales[:, None].copy()))

    def forward(self, packed: Tensor, places: Tensor) -> Tensor:
        """Values float32 [m, width] of int8 ones."""
        scales = _gather(self.scales, places).float()
        if torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting():
            # The same product, as ONNX has it of its own.
            values: Tensor = torch.onnx.ops.symbolic(
                "DequantizeLinear", (packed, scales[:, 0]), {"axis": 0},
                dtype=torch.float32, shape=packed.shape,
            )  # fmt: skip
            return values
        return packed.float() * scales


def _bits_of_byte() -> Tensor:
    """The bits of every byte, lowest first, uint8 [256, 8]: exporters have no shifts of bytes."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    return torch.from_numpy(np.unpackbits(every, axis=1, bitorder="little"))


def _gather(table: Tensor, rows: Tensor) -> Tensor:
    """Rows [m, width] of a table."""
    return table.index_select(0, rows)


def _unpack(packed: Tensor, bits_of_byte: Tensor) -> Tensor:
    """Bits int32 [m, 8 * bytes] of bytes uint8 [m, bytes], lowest first."""
    return F.embedding(packed.int(), bits_of_byte).flatten(1).int()
