"""Layouts, byte arithmetic and packing."""

from __future__ import annotations

import numpy as np
import pytest

from peel_ext.format import (
    ColumnsLayout,
    EncodedRows,
    Layout,
    PlanesLayout,
    pack_embedding,
    resolve_layout,
    unpack_embedding,
)
from peel_ext.format.layout import page_padding_bytes

LAYOUTS: list[Layout] = [
    PlanesLayout(),
    PlanesLayout((1, 3), rows_per_block=7),
    PlanesLayout((8,), rows_per_block=1),
    ColumnsLayout(),
    ColumnsLayout(3, "int8", 4),
    ColumnsLayout(5, "float16", 3),
    ColumnsLayout(7, "float32", 200),
]


def draw(layout: Layout, rng: np.random.Generator, rows: int, dim: int, shuffled: bool):
    """Rows, their encoding, item groups and masks of the layers held."""
    weight = rng.normal(size=(rows, dim)).astype(np.float32)
    sizes = layout.item_group_sizes(rows)
    order = rng.permutation(rows) if shuffled else np.arange(rows)
    item_groups = [np.sort(ids) for ids in np.split(order, np.cumsum(sizes)[:-1])] if rows else []
    layers = layout.num_layers(dim)
    if isinstance(layout, PlanesLayout):
        held = [(1 << int(n)) - 1 for n in rng.integers(0, layers + 1, len(sizes))]
    else:
        held = [int(mask) for mask in rng.integers(0, 1 << layers, len(sizes))]
    return weight, EncodedRows(*layout.encode(weight)), item_groups, held


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("rows", "dim"), [(0, 8), (1, 8), (100, 9), (300, 16), (70_000, 8)])
def test_length_and_content(layout: Layout, shuffled: bool, rows: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, encoded, item_groups, held = draw(layout, rng, rows, dim, shuffled)
    buffer = pack_embedding(layout, dim, encoded, item_groups, held)
    sizes = np.array([len(ids) for ids in item_groups], dtype=np.int64)
    costs = layout.block_costs(sizes, dim, rows)
    listed = bool(rows) and not np.array_equal(np.concatenate(item_groups), np.arange(rows))
    expected = layout.overhead_bytes(len(sizes), rows, listed)
    expected += sum(
        int(costs[c, layer])
        for c, mask in enumerate(held)
        for layer in range(costs.shape[1])
        if mask >> layer & 1
    )
    got = unpack_embedding(buffer)
    opened = sum(1 for mask in held if mask) if isinstance(layout, PlanesLayout) else len(sizes)
    assert got.num_blocks == sum(int(mask).bit_count() for mask in held)
    expected += page_padding_bytes(got.num_blocks)
    assert got.nbytes == expected
    assert buffer.nbytes == expected - 16 * opened - 4 * got.num_blocks
    layers_of = np.zeros(rows, dtype=np.uint64)
    for ids, mask in zip(item_groups, held, strict=True):
        layers_of[ids] = mask
    assert np.array_equal(got.held, layers_of[got.ids])
    kept = np.sort(got.ids[got.held != 0])
    assert np.array_equal(kept, np.flatnonzero(layers_of))
    for mask in np.unique(got.held):
        at = got.held == mask
        ids = got.ids[at]
        want = layout.decode(encoded.store[ids], encoded.scales[ids], int(mask), dim)
        assert np.array_equal(got.rows[at], want)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_all_layers_decode_to_nearly_the_row(layout: Layout, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(200, 16)).astype(np.float32)
    everything = (1 << layout.num_layers(16)) - 1
    decoded = layout.decode(*layout.encode(weight), everything, 16)
    bits = sum(layout.layer_bits)
    error = np.mean((decoded - weight) ** 2)
    allowed = {4: 2e-2, 8: 5e-4}.get(
        bits, {"float32": 0, "float16": 1e-6}.get(layout.value_type, 1e-4)
    )
    assert error <= allowed


def test_item_groups_of_planes_grow_with_rank() -> None:
    sizes = PlanesLayout().item_group_sizes(40_981)
    assert sizes.sum() == 40_981
    assert np.all(np.diff(sizes[:-1]) >= 0)
    assert (sizes[0], sizes.max()) == (32, 256)
    assert PlanesLayout(rows_per_block=100).item_group_sizes(250).tolist() == [100, 100, 50]
    assert PlanesLayout().item_group_sizes(0).tolist() == []
    assert ColumnsLayout().item_group_sizes(3).tolist() == [1, 1, 1]


def test_gains_are_positive_and_fall_per_bit() -> None:
    layout = PlanesLayout()
    gains = layout.layer_gains(np.zeros((0, 8), np.float32))
    assert gains.sum() == pytest.approx(1 - np.exp(-3), abs=1e-3)
    assert np.all(np.diff(gains / np.array(layout.layer_bits)) < 0)
    rows = np.ones((5, 16), np.float32)
    rows[:, 8:] = 2
    assert ColumnsLayout().layer_gains(rows).tolist() == pytest.approx([0.2, 0.8])
    assert ColumnsLayout().layer_gains(rows * 0).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: PlanesLayout(()), ValueError, "layer_bits must sum to 1..8"),
        (lambda: PlanesLayout((4, 5)), ValueError, "layer_bits must sum to 1..8"),
        (lambda: PlanesLayout((0, 5)), ValueError, "layer_bits entries must be between 1 and 8"),
        (lambda: PlanesLayout((1.0,)), TypeError, "layer_bits entries must be an integer, got 1.0"),
        (lambda: PlanesLayout(rows_per_block=0), ValueError, "rows_per_block must be at least 1"),
        (lambda: ColumnsLayout(0), ValueError, "block_dim must be at least 1, got 0"),
        (lambda: ColumnsLayout(value_type="int4"), ValueError, "value_type must be one of"),
        (lambda: ColumnsLayout(num_item_groups=0), ValueError, "num_item_groups must be"),
        (lambda: ColumnsLayout(1).num_layers(65), ValueError, "block_dim must be between 2 and 65"),
        (lambda: ColumnsLayout(9).num_layers(8), ValueError, "block_dim must be between 1 and 8"),
        (lambda: resolve_layout("rows"), ValueError, "layout must be 'planes' or 'columns'"),
        (lambda: resolve_layout(3), TypeError, "layout must be a layout or its name, got 3"),
    ],
)
def test_rejects(make, error: type[Exception], named: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert named in str(caught.value)


@pytest.mark.parametrize("layout", [ColumnsLayout(4, "float16"), ColumnsLayout(4, "int8")], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_columns_refuse_values_beyond_their_type(layout: ColumnsLayout, bad: float) -> None:
    rows = np.ones((3, 8), dtype=np.float32)
    rows[2, 5] = bad
    with pytest.raises(ValueError, match="row 2 cannot be encoded"):
        layout.encode(rows)


@pytest.mark.parametrize(
    ("dim", "block_dim"),
    [(1, 1), (7, 7), (8, 8), (128, 8), (512, 8), (513, 9), (768, 12), (4096, 64)],
)
def test_columns_by_name_fit_rows_of_any_width(dim: int, block_dim: int) -> None:
    layout = resolve_layout("columns", dim)
    assert layout == ColumnsLayout(block_dim)
    rows = np.arange(3 * dim, dtype=np.float32).reshape(3, dim)
    every = (1 << layout.num_layers(dim)) - 1
    assert np.array_equal(layout.decode(*layout.encode(rows), every, dim), rows)
    assert resolve_layout("planes", dim) == PlanesLayout()
