"""Encoding rows where they are, on a device whose memory NumPy cannot read."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.format import ColumnsLayout, Layout, PlanesLayout, quantizer

_FLOAT16_MAX = 65504.0


def encode_on_device(rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Store and scales of rows float32 [n, dim], as ``layout.encode`` gives them.

    The root mean square of a row in planes is summed in another order than on the CPU, so that its
    scale may differ in the last bit.

    Raises:
        ValueError: a row that is not finite, or out of the range of its scale.
    """
    if isinstance(layout, PlanesLayout):
        return _encode_planes(rows, layout)
    return _encode_columns(rows, layout)


def _encode_planes(rows: Tensor, layout: PlanesLayout) -> tuple[Tensor, Tensor]:
    dim = rows.shape[1]
    root = rows.double().square().mean(dim=1).sqrt().float() * layout.spread
    scales = root.half()
    divisor = scales.float()
    relative = rows / torch.where(divisor == 0, torch.inf, divisor)[:, None]
    steps = torch.from_numpy(quantizer.thresholds()).to(rows.device)
    codes = torch.bucketize(relative, steps, right=True)  # int64 [n, dim]
    codes = torch.nn.functional.pad(codes, (0, -dim % 8)).unflatten(1, (-1, 8))  # [n, bytes, 8]
    places = 1 << torch.arange(8, device=rows.device)
    planes = [
        ((codes >> (quantizer.MAX_BITS - 1 - bit) & 1) * places).sum(dim=2).to(torch.uint8)
        for bit in range(sum(layout.layer_bits))
    ]
    _check(rows, scales[:, None], root <= _FLOAT16_MAX)
    return torch.cat(planes, dim=1), scales[:, None]


def _encode_columns(rows: Tensor, layout: ColumnsLayout) -> tuple[Tensor, Tensor]:
    num_rows, dim = rows.shape
    if not layout.scaled:
        values = rows.to(getattr(torch, layout.value_type)).contiguous()
        _check(rows, values, values.isfinite().all(dim=1))
        return values.view(torch.uint8), rows.new_zeros(num_rows, 0, dtype=torch.float16)
    blocks = torch.nn.functional.pad(rows, (0, -dim % layout.block_dim))
    blocks = blocks.unflatten(1, (-1, layout.block_dim))  # [n, layers, block_dim]
    # By a tensor: by a number torch multiplies with its reciprocal on a device, which rounds twice.
    scales = (blocks.abs().amax(dim=2) / blocks.new_full((), 127.0)).half()
    divisor = scales.float()[:, :, None]
    codes = (blocks / torch.where(divisor == 0, torch.inf, divisor)).round().clamp(-127, 127)
    store = codes.flatten(1)[:, :dim].to(torch.int8).contiguous().view(torch.uint8)
    _check(rows, scales, scales.isfinite().all(dim=1))
    return store, scales


def _check(rows: Tensor, encoded: Tensor, in_range: Tensor) -> None:
    """Looks once at all rows: errors and warnings are those of the CPU.

    Last of all, for a device is waited for here.
    """
    lost = (encoded == 0).all(dim=1) & (rows != 0).any(dim=1)
    worst = torch.stack([~in_range, lost]).any(dim=1).tolist() if len(rows) else [False, False]
    if worst[0]:
        bad = int((~in_range).nonzero()[0])
        raise ValueError(
            f"row {bad} cannot be encoded: expected finite values within the range of its type"
        )
    if worst[1] and encoded.dtype == torch.float16:
        quantizer.tell_lost(rows.cpu().numpy(), encoded.cpu().numpy())
