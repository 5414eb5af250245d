"""Tables, indices and users that every benchmark draws from fixed seeds."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout

EVERYTHING = 1 << 50  # a budget that keeps all blocks
LAYOUTS = {
    "columns, float32": ColumnsLayout(),
    "columns, float16": ColumnsLayout(value_type="float16"),
    "columns, int8": ColumnsLayout(value_type="int8"),
    "planes, 2 bits": PlanesLayout((2,)),
    "planes, 3 bits": PlanesLayout((2, 1)),
    "planes, 4 bits": PlanesLayout((2, 1, 1)),
    "planes, 6 bits": PlanesLayout((2, 1, 1, 2)),
    "planes, 8 bits": PlanesLayout((2, 1, 1, 2, 2)),
}
PLANES_BITS = {name: sum(LAYOUTS[name].layer_bits) for name in LAYOUTS if "planes" in name}


@functools.lru_cache(maxsize=2)
def random_table(rows: int, dim: int) -> Tensor:
    """Independent standard normal values float32 [rows, dim]; not to be changed in place."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))


@functools.cache
def elastic_table(held: str, rows: int, dim: int) -> ElasticEmbedding:
    """The random table in one layout, encoded once for all; rows are worth less by rank.

    Worth falls as popularity does, so that a budget mixes rows of several widths.
    """
    module = ElasticEmbedding.from_pretrained(random_table(rows, dim), layout=LAYOUTS[held])
    module.set_row_values(1.0 / torch.arange(1, rows + 1)[None])
    return module


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
