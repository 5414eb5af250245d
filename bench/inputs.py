"""Tables, indices and users that every benchmark draws from fixed seeds."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=2)
def random_table(rows: int, dim: int) -> Tensor:
    """Independent standard normal values float32 [rows, dim]; not to be changed in place."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))


def random_indices(distribution: str, rows: int, count: int, batches: int) -> list[Tensor]:
    """Batches of row indices int64 [count].

    ``uniform``, or ``zipf``: the row of rank r is drawn with probability proportional to 1 / r, and
    ranks are spread over the table at random, as popularity is.
    """
    generator = torch.Generator().manual_seed(1)
    if distribution == "uniform":
        return [torch.randint(0, rows, (count,), generator=generator) for _ in range(batches)]
    row_of_rank = torch.randperm(rows, generator=generator)
    cumulative = (1.0 / torch.arange(1, rows + 1, dtype=torch.float64)).cumsum(0)  # [rows]
    draws = torch.rand(batches, count, dtype=torch.float64, generator=generator) * cumulative[-1]
    ranks = torch.searchsorted(cumulative, draws).clamp(max=rows - 1)
    return list(row_of_rank[ranks])


def random_vectors(count: int, dim: int, batches: int) -> list[Tensor]:
    """Batches of float32 [count, dim], of users or of gradients."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(count, dim, generator=generator) for _ in range(batches)]


def mean_distinct(batches: list[Tensor]) -> int:
    """Distinct values of a batch, on average."""
    return sum(len(torch.unique(batch)) for batch in batches) // len(batches)
