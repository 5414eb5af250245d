"""faiss: flat and scalar-quantised exhaustive search by inner product."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import torch
from torch import Tensor

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


def _search(index: faiss.Index, n: int) -> Run:
    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        scores, indices = index.search(users.numpy(), n)
        return torch.from_numpy(indices), torch.from_numpy(scores)

    return run


def best_rows(table: Tensor, n: int) -> Run:
    """Indices and scores [num_users, n] of users [num_users, dim]."""
    index = faiss.IndexFlatIP(table.shape[1])
    index.add(table.numpy())
    return _search(index, n)


def best_quantized_rows(table: Tensor, n: int, kind: str) -> tuple[Run, Tensor]:
    """The same over the codes of a scalar quantiser, and the rows they stand for.

    ``kind`` is faiss's name of it: ``8bit``, ``4bit``, ``fp16``, or ``2bit_eden`` and its like, whose
    levels are those of a normal distribution.
    """
    quantizer = getattr(faiss.ScalarQuantizer, f"QT_{kind}")
    index = faiss.IndexScalarQuantizer(table.shape[1], quantizer, faiss.METRIC_INNER_PRODUCT)
    index.train(table.numpy())
    index.add(table.numpy())
    return _search(index, n), torch.from_numpy(index.reconstruct_n(0, len(table)))


def best_rabitq_rows(table: Tensor, n: int, bits: int) -> Run:
    """The same over RaBitQ codes, by fast scan; a score is an estimate of the row's, not of its code's."""
    index = faiss.IndexRaBitQFastScan(table.shape[1], faiss.METRIC_INNER_PRODUCT, 32, bits)
    index.train(table.numpy())
    index.add(table.numpy())
    return _search(index, n)
