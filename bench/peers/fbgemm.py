"""FBGEMM: table-batched embeddings, for training where the weight is and quantised on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

_QUANTIZED = {8: SparseType.INT8, 4: SparseType.INT4, 2: SparseType.INT2}


def _trained_table(
    weight: Tensor, learning_rate: float, eps: float
) -> tuple[torch.nn.Module, Tensor]:
    where = EmbeddingLocation.HOST, ComputeDevice.CPU
    if weight.is_cuda:
        where = EmbeddingLocation.DEVICE, ComputeDevice.CUDA
    module = SplitTableBatchedEmbeddingBagsCodegen(
        [(*weight.shape, *where)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=learning_rate,
        eps=eps,
        pooling_mode=PoolingMode.NONE,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    (own,) = module.split_embedding_weights()
    own.copy_(weight)
    return module, own


def embedding(weight: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Rows float32 [count, dim] of indices [count]."""
    module, _ = _trained_table(weight, 0.0, 1e-8)
    offsets = torch.arange(count + 1, device=weight.device)

    def run(indices: Tensor) -> Tensor:
        with torch.no_grad():
            rows: Tensor = module(indices, offsets)
        return rows

    return run


def training_step(
    weight: Tensor, count: int, learning_rate: float, eps: float
) -> tuple[Callable[[tuple[Tensor, Tensor]], Tensor], Tensor]:
    """Forward, backward and fused rowwise Adagrad, and the weight that it changes."""
    module, own = _trained_table(weight, learning_rate, eps)
    offsets = torch.arange(count + 1, device=weight.device)

    def run(batch: tuple[Tensor, Tensor]) -> Tensor:
        indices, grad = batch
        rows: Tensor = module(indices, offsets)
        rows.backward(grad)
        return rows.detach()

    return run, own


def quantized_embedding(
    weight: Tensor, count: int, bits: int
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Rows float32 [count, dim] decoded from 8, 4 or 2 bits a value, and all that the codes mean."""
    kind = _QUANTIZED[bits]
    rows, dim = weight.shape
    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("", rows, dim, kind, EmbeddingLocation.HOST)],
        pooling_mode=PoolingMode.NONE,
        device="cpu",
        output_dtype=SparseType.FP32,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    module.initialize_weights()
    fused = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weight, bits)
    width = dim * bits // 8
    codes, scale_and_bias = fused[:, :width], fused[:, width:]
    ((own_codes, own_scale_and_bias),) = module.split_embedding_weights()
    own_codes.copy_(codes)
    own_scale_and_bias.copy_(scale_and_bias)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    values = (codes[:, :, None] >> shifts & (1 << bits) - 1).reshape(rows, dim)
    scale, bias = scale_and_bias.contiguous().view(torch.float16).float().split(1, dim=1)
    offsets = torch.arange(count + 1, dtype=torch.int32)

    def run(indices: Tensor) -> Tensor:
        result: Tensor = module(indices.int(), offsets)
        return result

    return run, values * scale + bias
