"""grouped_lookup by fancy indexing, its gradient that of torch itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def grouped_lookup(
    weight: Tensor,
    indices: Tensor,
    groups: Tensor | int = 0,
    *,
    refinement: Tensor | None = None,
    refinement_slot: Tensor | None = None,
    blocks: Any = None,
    num_groups: int = 1,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """See :func:`peel_ext.ops.grouped_lookup`; ``sparse`` changes nothing here."""
    shape = (*indices.shape, weight.shape[1])
    groups = torch.as_tensor(groups, device=weight.device)
    trailing = (1,) * (indices.ndim - groups.ndim)
    owner = groups.reshape(groups.shape + trailing).expand(indices.shape).reshape(-1).long()  # [m]
    flat = indices.reshape(-1).long()  # [m]
    rows = _Gather.apply(weight, flat, padding_idx, scale_grad_by_freq)
    encoded = flat
    if refinement is not None and refinement_slot is not None:
        slot = refinement_slot[owner, flat].long()
        refined = _Gather.apply(
            torch.cat([refinement, refinement.new_zeros(1, weight.shape[1])]),
            torch.where((slot < 0) | (flat == padding_idx), len(refinement), slot),
            len(refinement),
            scale_grad_by_freq,
        )
        # The forward value keeps the refinement of the padding row; only its gradient is dropped.
        refined = refined + torch.where(
            ((slot >= 0) & (flat == padding_idx))[:, None],
            refinement.detach()[slot.clamp(min=0)],
            0,
        )
        rows = torch.where((slot >= 0)[:, None], rows + refined, rows)
        encoded = torch.where(slot < 0, flat, len(weight) + slot)
    if blocks is None:
        return rows.reshape(shape)
    item_group = blocks.item_group.expand(num_groups, -1)[owner, flat].long()
    held = torch.where(item_group < 0, 0, blocks.held[owner, item_group.clamp(min=0)])  # [m]
    decode = _decode_planes if blocks.layout.name == "planes" else _decode_columns
    decoded, known = decode(blocks, encoded, held, weight.shape[1])  # both [m, dim]
    if blocks.rotation is not None:
        decoded = _rotate(decoded, blocks.rotation)
    return _StraightThrough.apply(rows, decoded, known).reshape(shape)


class _Gather(torch.autograd.Function):
    """table[rows], with the gradient of nn.Embedding's padding_idx and scale_grad_by_freq."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, padding: int | None, mean: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size, ctx.padding, ctx.mean = len(table), padding, mean
        return table[rows]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        result = grad.new_zeros(ctx.size, grad.shape[1])
        for row, value in zip(rows.tolist(), grad, strict=True):
            if row != ctx.padding:
                result[row] += value
        if ctx.mean:
            counts = torch.bincount(rows, minlength=ctx.size).clamp(min=1)
            result = result / counts[:, None].to(grad.dtype)
        return result, None, None, None


class _StraightThrough(torch.autograd.Function):
    """The decoded value, with the gradient of the rows where they are known."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, decoded: Tensor, known: Tensor) -> Tensor:
        ctx.save_for_backward(known)
        return decoded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (known,) = ctx.saved_tensors
        return grad * known, None, None


def _decode_planes(blocks: Any, encoded: Tensor, held: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    width = (dim + 7) // 8
    planes = blocks.store[encoded].to(torch.int64)  # [m, bits * width]
    planes = planes.reshape(len(encoded), planes.shape[1] // width, width)
    bit = (planes[..., None] >> torch.arange(8, device=planes.device)) & 1  # [m, bits, width, 8]
    bit = bit.reshape(len(encoded), planes.shape[1], 8 * width)[..., :dim]  # [m, bits, dim]
    result = blocks.levels.new_zeros(len(encoded), dim)
    for m in range(len(encoded)):
        bits = 0
        for layer, more in enumerate(blocks.layout.layer_bits):
            if not int(held[m]) >> layer & 1:
                break
            bits += more
        if bits == 0:
            continue
        code = sum(bit[m, b] << (bits - 1 - b) for b in range(bits))
        result[m] = blocks.levels[(1 << bits) - 2 + code] * blocks.scales[encoded[m], 0].float()
    return result, (held & 1 != 0)[:, None].expand(-1, dim)


def _decode_columns(blocks: Any, encoded: Tensor, held: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    value_type = getattr(torch, blocks.layout.value_type)
    values = blocks.store[encoded].contiguous().view(value_type).float()  # [m, dim]
    layer = torch.arange(dim, device=values.device) // blocks.layout.block_dim
    if blocks.layout.value_type == "int8":
        values = values * blocks.scales[encoded].float()[:, layer]
    known = held[:, None] >> layer & 1 != 0
    return torch.where(known, values, 0.0), known


def _rotate(rows: Tensor, rotation: Tensor) -> Tensor:
    """rotation @ row for every row, summed column by column: the order is part of the contract."""
    result = rows[:, :1] * rotation[:, 0]
    for k in range(1, rows.shape[1]):
        result = result + rows[:, k : k + 1] * rotation[:, k]
    return result
