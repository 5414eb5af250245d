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


def best_quantized_rows(table: Tensor, n: int, bits: int) -> tuple[Run, Tensor]:
    """The same over SQ8 or SQ4 codes, and the rows they stand for."""
    kind = {8: faiss.ScalarQuantizer.QT_8bit, 4: faiss.ScalarQuantizer.QT_4bit}[bits]
    index = faiss.IndexScalarQuantizer(table.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(table.numpy())
    index.add(table.numpy())
    return _search(index, n), torch.from_numpy(index.reconstruct_n(0, len(table)))
