"""usearch: exact search by inner product."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from usearch.index import MetricKind, search

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


def _search(rows: np.ndarray, users: np.ndarray, n: int, threads: int) -> tuple[Tensor, Tensor]:
    found = search(rows, users, n, MetricKind.IP, exact=True, threads=threads)
    keys = np.asarray(found.keys).reshape(len(users), n).astype(np.int64)
    distances = np.asarray(found.distances).reshape(len(users), n)
    return torch.from_numpy(keys), torch.from_numpy(1 - distances)


def best_rows(table: Tensor, n: int, threads: int) -> Run:
    """Indices and scores [num_users, n] of users [num_users, dim]."""
    return lambda users: _search(table.numpy(), users.numpy(), n, threads)


def best_int8_rows(table: Tensor, n: int, threads: int) -> tuple[Run, Tensor]:
    """The same over int8 codes with one scale for all, and the rows they stand for.

    Users are rounded to int8 as well, which costs about a hundredth of a score.
    """
    scale = table.abs().max() / 127
    codes = torch.round(table / scale).to(torch.int8)

    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        step = users.abs().amax(dim=1, keepdim=True) / 127  # [num_users, 1]
        rounded = torch.round(users / step).to(torch.int8)
        indices, scores = _search(codes.numpy(), rounded.numpy(), n, threads)
        return indices, scores * step * scale

    return run, codes * scale
