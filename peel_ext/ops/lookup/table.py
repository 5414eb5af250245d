"""The parts of a lookup: a table, pairs of (index, group), and options; each checked once.

Schemas of registered ops are flat. ``flat()`` and ``of_flat()`` are the only places that know in
which order they have the parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from peel_ext import _core
from peel_ext.format.layout import VALUE_TYPES, ColumnsLayout, Layout, PlanesLayout
from peel_ext.ops import _bridge, _launching
from peel_ext.ops._checks import (
    MOST,
    check_dense,
    check_int,
    check_shape,
    check_tensor,
    is_traced,
    rows_with_unit_stride,
)

_INDEX = (torch.int32, torch.int64)
_DENSE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class BlockStore:
    """The encoded tables of all user groups, as a server keeps them, and what each group holds.

    Attributes:
        layout: how rows are cut into blocks.
        store: uint8 [num_embeddings + num_refined, row_bytes].
        scales: float16 [num_embeddings + num_refined, scales_per_row].
        item_group: int32 [num_groups, num_embeddings], or [1, num_embeddings] when all user groups
            share it; -1 for rows in none.
        held: int64 [num_groups, num_item_groups], masks of the layers held.
        levels: float32 [510], :func:`peel_ext.format.quantizer.level_table`.
        rotation: float32 [dim, dim] or None; decoded rows x become ``rotation @ x``.
    """

    layout: Layout
    store: Tensor
    scales: Tensor
    item_group: Tensor
    held: Tensor
    levels: Tensor
    rotation: Tensor | None = None


class Options(NamedTuple):
    """The options that ``nn.Embedding`` has; they only matter to gradients."""

    padding_idx: int | None = None
    scale_grad_by_freq: bool = False
    sparse: bool = False

    def flat(self) -> tuple[int, bool, bool]:
        """As a schema has them: -1 for no padding."""
        padding_idx, mean_duplicates, sparse = self
        return -1 if padding_idx is None else padding_idx, mean_duplicates, sparse

    @staticmethod
    def of_flat(padding_idx: int, mean_duplicates: bool, sparse: bool) -> Options:
        """The options that :meth:`flat` gave."""
        return Options(None if padding_idx < 0 else padding_idx, mean_duplicates, sparse)


class Pairs(NamedTuple):
    """Flat pairs of (index, group): contiguous and of one dtype."""

    indices: Tensor  # int32 or int64 [m]
    groups: Tensor | None  # of the same dtype [m], or None: all in `group`
    group: int = 0

    @staticmethod
    def of(indices: Tensor, groups: Tensor | int) -> Pairs:
        """Pairs of indices of any shape and groups of that shape or of its leading dimensions.

        Raises:
            TypeError: not integers, or sparse.
            ValueError: shapes that do not go together.
            IndexError: a group that takes more than 64 bits.
        """
        if not isinstance(indices, Tensor) or indices.dtype not in _INDEX:
            got = getattr(indices, "dtype", type(indices).__name__)
            raise TypeError(f"indices must be an int32 or int64 tensor, got {got}")
        check_dense("indices", indices)
        flat = indices.reshape(-1).contiguous() if indices.ndim != 1 else indices.contiguous()
        if not isinstance(groups, Tensor):
            if isinstance(groups, bool) or not isinstance(groups, int | np.integer | torch.SymInt):
                raise TypeError(f"groups must be an int or a tensor of integers, got {groups!r}")
            if isinstance(groups, torch.SymInt):
                return Pairs(flat, None, groups)
            if not -MOST <= groups <= MOST:
                raise IndexError(f"groups contain {groups}, expected a value of at most 64 bits")
            return Pairs(flat, None, int(groups))
        check_dense("groups", groups)
        each = groups.shape == indices.shape
        if not each or groups.dtype not in _INDEX:
            _check_groups_fit(groups, indices)
        spread = groups
        if groups.dtype != indices.dtype:  # the wider one, so that no group becomes another
            flat, spread = flat.long(), groups.long()
        if not each:
            trailing = (1,) * (indices.ndim - groups.ndim)
            spread = spread.reshape(groups.shape + trailing).expand(indices.shape)
        if spread.ndim != 1:
            spread = spread.reshape(-1)
        return Pairs(flat, spread.contiguous())

    def each_group(self) -> Tensor:
        """The user group of every pair, integers [m]."""
        return torch.full_like(self.indices, self.group) if self.groups is None else self.groups

    def clamped(self, num_embeddings: int, num_groups: int) -> Pairs:
        """The pairs as torch may index by them; on the CPU a lookup has refused all others.

        On a CUDA device a kernel of ours notes a pair out of range and goes on, where one of
        torch's would end all work of the process on the device.
        """
        if self.indices.is_cpu:
            return self
        indices = self.indices.clamp(0, num_embeddings - 1)
        groups = None if self.groups is None else self.groups.clamp(0, num_groups - 1)
        return Pairs(indices, groups, max(0, min(self.group, num_groups - 1)))

    def check(self, grad_rows: Tensor | None = None) -> Pairs:
        """The pairs as a kernel takes them, whatever a registered op was called with.

        Raises:
            TypeError: another dtype.
            ValueError: shapes that do not go together.
        """
        check_tensor("indices", self.indices, _INDEX, 1)
        if self.groups is not None:
            check_tensor("groups", self.groups, (self.indices.dtype,), 1)
            check_shape("groups", self.groups, tuple(self.indices.shape))
        if grad_rows is not None:
            check_tensor("gradient", grad_rows, (torch.float32,), 2)
            check_shape("gradient", grad_rows, (len(self.indices), -1))
        groups = None if self.groups is None else self.groups.contiguous()
        return Pairs(self.indices.contiguous(), groups, self.group)


def check_groups(
    groups: Tensor | int, indices: Tensor, num_groups: int, traced: bool | None = None
) -> None:
    """Raises unless every index has a user group; the errors are those of a lookup.

    Values are not looked at while tracing, or where reading them would wait for a device.

    Args:
        groups: a group, or one of each index.
        indices: the indices.
        num_groups: user groups there are.
        traced: whether the call is traced, where the caller had to ask; None: it is asked here.
    """
    if not isinstance(groups, Tensor):
        check_group(groups, num_groups)
        return
    if traced is False and _bridge.are_below(groups, indices, num_groups):
        return
    if groups.shape != indices.shape or groups.dtype not in _INDEX:
        _check_groups_fit(groups, indices)
    if traced or not groups.is_cpu:
        return
    if (type(groups) is not Tensor or traced is None) and is_traced(groups):
        return
    position = _bridge.first_out_of_range(groups.contiguous(), num_groups)
    if position >= 0:
        value = int(groups.reshape(-1)[position])
        raise IndexError(f"groups contain {value}, expected values in [0, {num_groups})")


def check_group(group: int, num_groups: int) -> None:
    """Raises TypeError unless it is an integer, and IndexError unless it is a user group."""
    if type(group) is not int and (
        isinstance(group, bool) or not isinstance(group, int | np.integer | torch.SymInt)
    ):
        raise TypeError(f"group must be an integer, got {group!r}")
    if not 0 <= group < num_groups:
        raise IndexError(f"group must be in [0, {num_groups}), got {group}")


def _check_groups_fit(groups: Tensor, indices: Tensor) -> None:
    if groups.dtype not in _INDEX:
        raise TypeError(f"groups must be int32 or int64, got {groups.dtype}")
    if groups.shape != indices.shape[: groups.ndim]:
        raise ValueError(
            f"groups must have the shape of indices {tuple(indices.shape)} or of its leading "
            f"dimensions, got {tuple(groups.shape)}"
        )


class Mask(NamedTuple):
    """Which values of its rows each user group holds: all that a gradient needs of the blocks."""

    geometry: list[int]  # code of the layout, of the value type, block_dim, bits of the layers
    item_group: Tensor  # int32 [num_groups or 1, num_embeddings], -1 for rows in none
    held: Tensor  # int64 [num_groups, num_item_groups], masks of layers

    @property
    def block_dim(self) -> int | None:
        """Columns of a layer, or None where a row is held as a whole or not at all."""
        return self.geometry[2] if self.geometry[0] == ColumnsLayout.code else None

    def of_pairs(self, pairs: Pairs, dim: int) -> Tensor:
        """Which values of each pair's row are held: bool [m, dim], or [m, 1] for whole rows."""
        pairs = pairs.clamped(self.item_group.shape[1], self.held.shape[0])
        groups = pairs.each_group()
        shared = self.item_group.shape[0] == 1
        which = self.item_group[torch.zeros_like(groups) if shared else groups, pairs.indices]
        which = which.long()  # [m]
        masks = torch.where(which < 0, 0, self.held[groups, which.clamp(min=0)])[:, None]
        if self.block_dim is None:
            return masks & 1 != 0
        layer = torch.arange(dim, device=masks.device) // self.block_dim
        return masks >> layer & 1 != 0

    def check(self, num_embeddings: int, num_groups: int) -> Mask:
        """The mask, contiguous.

        Raises:
            TypeError: another dtype.
            ValueError: shapes that do not go together.
        """
        check_tensor("blocks.item_group", self.item_group, (torch.int32,), 2)
        shared = self.item_group.shape[0] == 1
        shape = (1 if shared else num_groups, num_embeddings)
        check_shape("blocks.item_group", self.item_group, shape)
        check_tensor("blocks.held", self.held, (torch.int64,), 2)
        check_shape("blocks.held", self.held, (num_groups, -1))
        return Mask(self.geometry, self.item_group.contiguous(), self.held.contiguous())


class Table:
    """The tables of all user groups, checked; see :func:`peel_ext.ops.grouped_lookup`.

    For many lookups one is made once and kept. It reads the memory its tensors had when it was
    made, which it keeps alive: whoever keeps one makes a new one when a tensor is replaced. What is
    written into the same memory is seen, except that a weight whose columns are not adjacent, or
    another tensor that is not contiguous, was copied.

    Attributes:
        weight: [num_embeddings, dim], to which gradients go; float32 where rows are encoded.
        refinement: [num_refined, dim] or None; so do they here.
        refinement_slot: int32 [num_groups, num_embeddings], rows of refinement or -1; or None.
        blocks: encoded rows and which layers each user group holds; or None.
        num_groups: number of user groups.
        called: :meth:`native` once it was made, where kernels may be called: on the CPU.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape.
    """

    __slots__ = (
        "_native",
        "blocks",
        "called",
        "mask",
        "num_groups",
        "refinement",
        "refinement_slot",
        "weight",
    )

    def __init__(
        self,
        weight: Tensor,
        refinement: Tensor | None = None,
        refinement_slot: Tensor | None = None,
        blocks: BlockStore | None = None,
        num_groups: int = 1,
    ) -> None:
        # Dense rows of other dtypes, or elsewhere, are looked up in plain torch.
        dtypes = (torch.float32,) if blocks is not None else _DENSE
        check_tensor("weight", weight, dtypes, 2, anywhere=blocks is None)
        check_int("num_groups", num_groups, 1)
        if (refinement is None) != (refinement_slot is None):
            raise ValueError("refinement and refinement_slot must be given together")
        if refinement is not None and refinement_slot is not None:
            check_tensor("refinement", refinement, (weight.dtype,), 2, anywhere=True)
            check_shape("refinement", refinement, (-1, weight.shape[1]))
            check_tensor("refinement_slot", refinement_slot, (torch.int32,), 2, anywhere=True)
            check_shape("refinement_slot", refinement_slot, (num_groups, weight.shape[0]))
            refinement_slot = refinement_slot.contiguous()
        self.weight = weight
        self.refinement = refinement
        self.refinement_slot = refinement_slot
        self.num_groups = num_groups
        self.mask: Mask | None = None
        self.blocks = blocks if blocks is None else self._checked(blocks)
        self.called: _core.StoreTable | None = None
        self._native: tuple[_core.StoreTable, tuple[Tensor | None, ...]] | None = None

    def _checked(self, blocks: BlockStore) -> BlockStore:
        """The blocks, every tensor contiguous."""
        num_embeddings, dim = self.weight.shape
        layout = blocks.layout
        layers = layout.num_layers(dim)
        rows = num_embeddings + (0 if self.refinement is None else self.refinement.shape[0])
        check_tensor("blocks.store", blocks.store, (torch.uint8,), 2)
        row_bytes = sum(layout.piece_bytes(layer, dim) for layer in range(layers))
        check_shape("blocks.store", blocks.store, (rows, row_bytes))
        check_tensor("blocks.scales", blocks.scales, (torch.float16,), 2)
        check_shape("blocks.scales", blocks.scales, (rows, layout.scales_per_row(dim)))
        check_tensor("blocks.levels", blocks.levels, (torch.float32,), 1)
        check_shape("blocks.levels", blocks.levels, (510,))
        if blocks.rotation is not None:
            check_tensor("blocks.rotation", blocks.rotation, (torch.float32,), 2)
            check_shape("blocks.rotation", blocks.rotation, (dim, dim))
        mask = Mask(geometry_of(layout), blocks.item_group, blocks.held)
        self.mask = mask = mask.check(num_embeddings, self.num_groups)
        return replace(
            blocks,
            store=blocks.store.contiguous(),
            scales=blocks.scales.contiguous(),
            item_group=mask.item_group,
            held=mask.held,
            levels=blocks.levels.contiguous(),
            rotation=None if blocks.rotation is None else blocks.rotation.contiguous(),
        )

    def flat(self) -> tuple[Any, ...]:
        """As a schema has it."""
        blocks, geometry = self.blocks, [0, 0, 0]
        encoded: tuple[Tensor | None, ...] = (None,) * 6
        if blocks is not None and self.mask is not None:
            geometry = self.mask.geometry
            encoded = (
                blocks.store,
                blocks.scales,
                *self.mask[1:],
                blocks.levels,
                blocks.rotation,
            )
        return (
            self.weight, self.num_groups, self.refinement, self.refinement_slot, geometry, *encoded
        )  # fmt: skip

    @staticmethod
    def of_flat(
        weight: Tensor, num_groups: int, refinement: Tensor | None, refinement_slot: Tensor | None,
        geometry: list[int], *encoded: Any,
    ) -> Table:  # fmt: skip
        """The table that :meth:`flat` gave, or that somebody else wrote down: it is checked again."""
        blocks = None
        if geometry[0] != 0:
            store, scales, item_group, held, levels, rotation = encoded
            layout = _layout_of(tuple(geometry))
            blocks = BlockStore(layout, store, scales, item_group, held, levels, rotation)
        return Table(weight, refinement, refinement_slot, blocks, num_groups)

    def native(self) -> _core.StoreTable:
        """The table as kernels take it, made once."""
        if self._native is None:
            weight, refinement = self.weight.detach(), self.refinement
            own = None if refinement is None else refinement.detach()
            # All memory is kept, that of which there are copies, too: another tensor's address is
            # then another one, whatever a tensor is given as its data.
            kept = [weight, own, *(each.detach() for each in self._pointers())]
            rows = rows_with_unit_stride(weight)
            own = None if own is None else own.resolve_neg().contiguous()
            blocks, encoded = self.blocks, None
            if blocks is not None:
                encoded = (blocks.store, blocks.scales, blocks.levels, blocks.rotation)
            native = _bridge.store_table(
                rows,
                rows.shape[0],
                rows.shape[1],
                self.num_groups,
                own,
                self.refinement_slot,
                self.mask,
                encoded,
                like=rows,
            )
            self._native = native, (rows, own, *kept)
            self.called = native if rows.is_cpu else None
        return self._native[0]

    def _pointers(self) -> list[Tensor]:
        """What says which rows and blocks each user group has."""
        each = [self.refinement_slot, *(() if self.mask is None else self.mask[1:])]
        return [tensor for tensor in each if tensor is not None]

    def is_in_graph(self) -> bool:
        """True if a lookup in it, or the gradient of one, was captured in a CUDA graph."""
        return self._native is not None and _launching.is_in_graph(self._native[0])

    def requires_grad(self) -> bool:
        """True if gradients may be asked of a lookup, where they are enabled."""
        refinement = self.refinement
        return self.weight.requires_grad or (refinement is not None and refinement.requires_grad)


def geometry_of(layout: Layout) -> list[int]:
    """A layout as an argument of an op: its code, value type, block_dim and the bits of its layers."""
    return [layout.code, VALUE_TYPES.index(layout.value_type), layout.block_dim, *layout.layer_bits]


@lru_cache(maxsize=64)
def _layout_of(geometry: tuple[int, ...]) -> Layout:
    """The layout, but for what a lookup does not ask.

    Raises:
        ValueError: no such layout.
    """
    code, value_type, block_dim, *layer_bits = geometry
    if code == PlanesLayout.code:
        return PlanesLayout(tuple(layer_bits))
    if code != ColumnsLayout.code or not 0 <= value_type < len(VALUE_TYPES):
        raise ValueError(f"geometry must be that of a layout, got {list(geometry)}")
    return ColumnsLayout(block_dim, VALUE_TYPES[value_type])
