"""The parts of the bytes add up to what is really held."""

from __future__ import annotations

import numpy as np
import pytest

from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.format.byte_parts import split_bytes

torch = pytest.importorskip("torch")

LAYOUTS = [
    PlanesLayout(),
    PlanesLayout(layer_bits=(1, 3), rows_per_block=7),
    ColumnsLayout(),
    ColumnsLayout(block_dim=5, value_type="int8", num_item_groups=3),
    ColumnsLayout(block_dim=8, value_type="float16", num_item_groups=11),
]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_parts_are_what_is_held(layout: Layout, listed: bool, seed: int, generator) -> None:
    from peel_ext import ElasticEmbedding
    from peel_ext.nn.group_table import group_table

    if listed and layout.nested:
        pytest.skip("item groups are given to the columns layout alone")
    embedding = ElasticEmbedding(100, 24, layout=layout)
    if listed:
        given = torch.randint(layout.num_item_groups, (100,), generator=generator)
        given[: layout.num_item_groups] = torch.arange(layout.num_item_groups)
        embedding.set_item_groups(given)
    embedding.set_row_values(torch.rand(1, 100, generator=generator))
    table = group_table(embedding, 0)
    sizes = np.array([len(each) for each in table.item_groups])
    listed = listed and bool((np.diff(np.concatenate(table.item_groups)) < 0).any())
    parts = split_bytes(layout, sizes, table.order, 24, 100, listed=listed)
    assert all((np.diff(part) >= 0).all() for part in parts[:-1])
    assert (parts.padding >= 0).all()
    num_values = 100 * sum(layout.piece_bytes(at, 24) for at in range(layout.num_layers(24)))
    assert parts.values[-1] == num_values
    for count in {1, 2, 9, len(table.order) // 2, len(table.order)}:
        pee = embedding.generate(0, int(parts.total[count]))
        assert pee.nbytes == parts.total[count]
        if parts.total[count] > embedding.minimum_budget_bytes(0):
            assert embedding.generate(0, int(parts.total[count]) - 1).nbytes < parts.total[count]
