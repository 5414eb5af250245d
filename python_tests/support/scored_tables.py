"""Tables, users and exclusions, for the tests of scores."""

from __future__ import annotations

import numpy as np
import torch

from peel_ext import PersonalizedElasticEmbedding
from peel_ext.format import ColumnsLayout, EncodedRows, Layout, PlanesLayout, pack_embedding

PACKED: dict[str, Layout] = {
    "planes": PlanesLayout(),
    "planes-1-3": PlanesLayout((1, 3), rows_per_block=7),
    "columns-float32": ColumnsLayout(4, "float32", 5),
    "columns-float16": ColumnsLayout(3, "float16", 5),
    "columns-int8": ColumnsLayout(5, "int8", 5),
}


def integers(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Small whole numbers: every order of summation is exact, and ties abound."""
    return torch.randint(-2, 3, shape, generator=generator).float()


def lists(generator: torch.Generator, users: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.rand(users, rows, generator=generator) < 0.3
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), drawn.sum(dim=1).cumsum(0)])
    return indptr, drawn.nonzero()[:, 1]


def make_packed(layout: Layout, generator: torch.Generator, rows: int = 90, dim: int = 20):
    """A packed table in which every user score is far enough from the next to be compared."""
    weight = torch.randn(rows, dim, generator=generator).numpy()
    encoded = EncodedRows(*layout.encode(weight))
    sizes = layout.item_group_sizes(rows)
    order = torch.randperm(rows, generator=generator).numpy()
    order = order if isinstance(layout, PlanesLayout) else np.arange(rows)
    groups = [np.sort(ids) for ids in np.split(order, np.cumsum(sizes)[:-1])]
    layers = layout.num_layers(dim)
    held = [int(mask) & ((1 << layers) - 1) for mask in torch.randint(0, 64, (len(sizes),),
                                                                     generator=generator)]  # fmt: skip
    if isinstance(layout, PlanesLayout):  # a layer needs those below it
        held = [(1 << mask.bit_count()) - 1 for mask in held]
    held[0] = (1 << layers) - 1
    return PersonalizedElasticEmbedding(pack_embedding(layout, dim, encoded, groups, held))
