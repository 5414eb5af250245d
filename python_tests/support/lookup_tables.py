"""Tables of three user groups, for the tests of lookups."""

from __future__ import annotations

import torch

from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.format.quantizer import level_table
from peel_ext.ops.lookup import BlockStore

LAYOUTS: dict[str, Layout | None] = {
    "dense": None,
    "planes": PlanesLayout(),
    "planes-1-3": PlanesLayout((1, 3)),
    "planes-8": PlanesLayout((8,)),
    "columns-float32": ColumnsLayout(4, "float32"),
    "columns-float16": ColumnsLayout(3, "float16"),
    "columns-int8": ColumnsLayout(5, "int8"),
}
NUM_GROUPS = 3


def make_table(
    layout: Layout | None, generator: torch.Generator, dim: int = 10, rows: int = 23,
    rotated: bool = False,
) -> tuple[torch.Tensor, dict]:  # fmt: skip
    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    weight, refinement = rand(rows, dim), rand(6, dim)
    slot = torch.full((NUM_GROUPS, rows), -1, dtype=torch.int32)
    slot[0, [2, 5]] = torch.tensor([0, 1], dtype=torch.int32)
    slot[2, [2, 7, 8, 9]] = torch.tensor([2, 3, 4, 5], dtype=torch.int32)
    owner = torch.tensor([2, 5, 2, 7, 8, 9])
    table = dict(refinement=refinement, refinement_slot=slot, num_groups=NUM_GROUPS)
    if layout is not None:
        store, scales = layout.encode(torch.cat([weight, weight[owner] + refinement]).numpy())
        layers = layout.num_layers(dim)
        held = torch.randint(0, 1 << layers, (NUM_GROUPS, 4), generator=generator)
        held[0, 0], held[1, 0] = 0, (1 << layers) - 1
        shared = isinstance(layout, ColumnsLayout)
        item_group = torch.randint(0, 4, (1 if shared else NUM_GROUPS, rows), generator=generator)
        item_group[0, 1] = -1
        rotation = torch.linalg.qr(rand(dim, dim)).Q.contiguous() if rotated else None
        table["blocks"] = BlockStore(
            layout, torch.from_numpy(store), torch.from_numpy(scales), item_group.int(), held,
            torch.from_numpy(level_table().copy()), rotation,
        )  # fmt: skip
    return weight, table
