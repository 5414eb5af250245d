"""Modules of three user groups, for the tests of ElasticEmbedding."""

from __future__ import annotations

import torch

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.format import Layout

LAYOUTS: dict[str, Layout | str] = {
    "planes": "planes",
    "planes-small": PlanesLayout((1, 2, 1), rows_per_block=8),
    "columns": "columns",
    "columns-int8": ColumnsLayout(4, "int8", 6),
    "columns-float16": ColumnsLayout(5, "float16", 6, keep_one_block=True),
}


def make(
    layout: Layout | str, generator: torch.Generator, rows: int = 150, dim: int = 16, groups: int = 3,
    rotated: bool = False, refined: bool = True,
) -> ElasticEmbedding:  # fmt: skip
    weight = torch.randn(rows, dim, generator=generator)
    module = ElasticEmbedding.from_pretrained(
        weight, freeze=False, num_groups=groups, layout=layout
    )
    if refined:
        module.refine_rows(1, torch.tensor([3, 9, 140]))
        module.refine_rows(2, torch.tensor([3]))
        with torch.no_grad():
            module.refinement.copy_(torch.randn(4, dim, generator=generator))
    if rotated:
        module.fit_rotation()
    module.set_row_values(torch.rand(groups, rows, generator=generator))
    return module
