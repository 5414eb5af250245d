"""torch: what a user has already."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]  # indices [m], gradient [m, dim]


def topk(k: int, in_order: bool = True) -> Callable[[Tensor], Tensor]:
    """Indices [num_groups, k] of weights [num_groups, n]."""
    return lambda weights: torch.topk(weights, k, dim=1, sorted=in_order).indices


def embedding(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda indices: F.embedding(indices, weight)


def embedding_bag(weight: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """Bags of one row."""
    offsets = torch.arange(count)
    return lambda indices: F.embedding_bag(indices, weight, offsets, mode="sum")


def best_rows(table: Tensor, n: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Indices and scores [num_users, n] of users [num_users, dim]."""

    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        best = torch.topk(users @ table.T, n, dim=1)
        return best.indices, best.values

    return run


def ranking(
    table: Tensor, n: int, indptr: Tensor, exclude: Tensor, chunk: int = 1024
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Indices and scores [num_users, n], user u's ``exclude[indptr[u] : indptr[u + 1]]`` left out."""
    owners = torch.arange(len(indptr) - 1).repeat_interleave(indptr.diff())

    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for first in range(0, len(users), chunk):
            scores = users[first : first + chunk] @ table.T
            own = slice(int(indptr[first]), int(indptr[min(first + chunk, len(users))]))
            scores[owners[own] - first, exclude[own]] = -torch.inf
            parts.append(torch.topk(scores, n, dim=1))
        return torch.cat([part.indices for part in parts]), torch.cat([p.values for p in parts])

    return run


def training_step(
    weight: Tensor, optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> tuple[Callable[[Batch], Tensor], Tensor]:
    """One step of a sparse ``nn.Embedding``, and its weight, a copy of the one given."""
    module = nn.Embedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    return step_of(module, optimizer([module.weight])), module.weight.detach()


def step_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Batch], Tensor]:
    """Forward, backward and update of any module over indices; the rows as answer."""

    def run(batch: Batch) -> Tensor:
        indices, grad = batch
        rows: Tensor = module(indices)
        rows.backward(grad)
        optimizer.step()
        optimizer.zero_grad()
        return rows.detach()

    return run
