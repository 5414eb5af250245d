"""Small tables of one user group, for the tests of files and devices."""

from __future__ import annotations

import numpy as np

from peel_ext.format import ColumnsLayout, EncodedRows, GroupTable, Layout, PlanesLayout

LAYOUTS: list[Layout] = [
    PlanesLayout(),
    PlanesLayout((3, 5), rows_per_block=7),
    ColumnsLayout(4),
    ColumnsLayout(6, "int8", 7),
    ColumnsLayout(3, "float16", keep_one_block=True),
]


def draw_table(
    layout: Layout, rng: np.random.Generator, rows: int = 200, dim: int = 20, listed: bool = False
) -> GroupTable:
    """Random rows, item groups, and an order of blocks that a budget may take them in."""
    weight = rng.normal(size=(rows, dim)).astype(np.float32)
    sizes = layout.item_group_sizes(rows)
    shuffled = listed or isinstance(layout, PlanesLayout)
    ids = rng.permutation(rows) if shuffled else np.arange(rows)
    parts = np.split(ids, np.cumsum(sizes)[:-1]) if rows else []
    item_groups = [np.sort(part) for part in parts]
    num_layers = layout.num_layers(dim)
    order = rng.permutation(len(sizes) * num_layers)
    if layout.nested:  # a layer comes after those below it: the k-th block of an item group is k
        met: dict[int, int] = {}
        for at, block in enumerate(order):
            item_group = int(block) // num_layers
            order[at] = item_group * num_layers + met.setdefault(item_group, 0)
            met[item_group] += 1
    elif isinstance(layout, ColumnsLayout) and layout.keep_one_block:
        first = np.arange(len(sizes)) * num_layers + rng.integers(num_layers)
        order = np.concatenate([first, order[~np.isin(order, first)]])
    return GroupTable(layout, dim, EncodedRows(*layout.encode(weight)), item_groups, order)
