"""grouped_lookup against its reference, forward and backward, and its contract."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from lookup_tables import LAYOUTS, NUM_GROUPS, make_table

from peel_ext import _core, ops, reference
from peel_ext.format import ColumnsLayout, PlanesLayout
from peel_ext.ops import _bridge
from peel_ext.ops.lookup import Options, Pairs, Table, look_up_at_once, look_up_dense
from peel_ext.ops.lookup.gradients import Scatter

SQUARE = torch.arange(9).view(3, 3)


class OtherTensor(torch.Tensor):
    """Not read natively: it may be more than its memory."""


@pytest.mark.parametrize("layout", ["dense", "planes", "columns-int8"])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("indices", "groups", "adjacent"),
    [
        (SQUARE, SQUARE % 3, True),
        (SQUARE.int(), (SQUARE % 3).int(), True),
        (SQUARE, 2, True),
        (SQUARE[:, :, None, None], SQUARE[:, :, None, None] % 3, True),
        (torch.tensor(7), torch.tensor(1), True),
        (SQUARE[:0], SQUARE[:0], True),
        (torch.zeros(4, 0, 2, dtype=torch.int64), 1, True),
        (torch.arange(900) % 23, torch.arange(900) % 3, True),
        (SQUARE.T, SQUARE % 3, False),
        (SQUARE, SQUARE.T % 3, False),
        (SQUARE[:, ::2], 0, False),
        (SQUARE[:1].expand(3, 3), 0, False),
        (SQUARE, (SQUARE % 3).int(), False),
        (SQUARE, torch.arange(3), False),
        (SQUARE, torch.arange(3).expand(3, 3), False),
        (SQUARE, np.int64(1), False),
        (SQUARE[(None,) * 7], 1, False),
        (SQUARE, (SQUARE % 3).as_subclass(OtherTensor), False),
    ],
)
def test_what_is_read_natively_is_what_the_reference_gives(
    layout: str, native: bool, indices, groups, adjacent: bool, generator, on_cpu, monkeypatch
) -> None:
    weight, parts = make_table(LAYOUTS[layout], generator)
    table = Table(weight, **parts)
    if not native:  # as where torch does not offer it
        monkeypatch.setattr(_bridge, "_READER", None)
    with on_cpu():
        table.native()
        rows = look_up_at_once(table, indices, groups)
        assert (rows is not None) == (adjacent and native)
        dense = look_up_dense(weight, indices, groups, table.num_groups)
        assert (dense is not None) == (adjacent and native)
        assert dense is None or torch.equal(dense, weight[indices.long()])
        if rows is None:
            rows = ops.grouped_lookup(weight, indices, groups, **parts)
        if isinstance(groups, np.integer):
            groups = int(groups)
        if not isinstance(groups, int):
            groups = groups.as_subclass(torch.Tensor)
        assert torch.equal(rows, reference.grouped_lookup(weight, indices, groups, **parts))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("indices", "groups", "error"),
    [
        (SQUARE + 15, 0, "indices contain 23 at flat position 8"),
        (SQUARE - 1, 0, "indices contain -1 at flat position 0"),
        (SQUARE, SQUARE, "groups contain 3"),
        (SQUARE, 3, "groups contain 3"),
        (SQUARE, -1, "groups contain -1"),
        (SQUARE, True, "groups must be an int"),
        (SQUARE.float(), 0, "indices must be"),
        (SQUARE, SQUARE[:2], "groups must have the shape"),
        (SQUARE, SQUARE.double(), "groups must be int32 or int64"),
        (torch._efficientzerotensor(3, dtype=torch.int64), 0, "indices must have memory"),
    ],
)
def test_what_is_not_read_natively_is_told_by_the_longer_way(
    native: bool, indices, groups, error: str, generator, on_cpu, monkeypatch
) -> None:
    weight, parts = make_table(None, generator)
    table = Table(weight, **parts)
    if not native:
        monkeypatch.setattr(_bridge, "_READER", None)
    with on_cpu():
        table.native()
        assert look_up_at_once(table, indices, groups) is None
        assert look_up_dense(weight, indices, groups, table.num_groups) is None
        with pytest.raises((IndexError, TypeError, ValueError), match=error):
            ops.grouped_lookup(weight, indices, groups, **parts)


def test_a_column_of_conjugates_has_its_sign_and_so_has_its_gradient(generator) -> None:
    column = torch.randn(4, dtype=torch.complex64, generator=generator).conj().imag[:, None]
    assert torch.equal(ops.grouped_lookup(column, torch.arange(4)), column)
    slots = torch.tensor([[-1, 0, 1, 2]], dtype=torch.int32)
    own = {"refinement": column[:3], "refinement_slot": slots}
    rows = ops.grouped_lookup(torch.zeros(4, 1), torch.arange(1, 4), **own)
    assert torch.equal(rows, column[:3])
    one = ops.grouped_lookup(
        torch.zeros(4, 1),
        torch.tensor([1]),
        refinement=column[:1],
        refinement_slot=slots.clamp(max=0),
    )
    assert torch.equal(one, column[:1])
    weight = torch.zeros(4, 1, requires_grad=True)
    ops.grouped_lookup(weight, torch.tensor([1])).backward(column[:1])
    assert weight.grad is not None
    assert torch.equal(weight.grad[1:2], column[:1])


@pytest.mark.parametrize(
    ("weight", "read"),
    [
        (torch.arange(12.0).view(4, 3), True),
        (torch.nn.Parameter(torch.arange(12.0).view(4, 3)), True),
        (torch.arange(24.0).view(8, 3)[::2], True),
        (torch.arange(24.0).view(4, 6)[:, 2:5], True),
        (torch.zeros(4, 0), True),
        (torch.arange(12.0).view(3, 4).T, False),
        (torch.arange(12.0).view(4, 3).double(), False),
        (torch.arange(12.0).view(4, 3).as_subclass(OtherTensor), False),
        (torch._neg_view(torch.arange(12.0).view(4, 3)), False),
        (torch.arange(4.0), False),
    ],
)
def test_which_weights_are_read_natively(weight: torch.Tensor, read: bool) -> None:
    indices = torch.tensor([3, 0, 3])
    rows = look_up_dense(weight, indices, 0, 1)
    # Under the shim the processor's memory is that of a device, whose kernels are launched.
    read = read and os.environ.get("PEEL_TEST_SHIM") != "1"
    assert (rows is not None) == read
    assert rows is None or torch.equal(rows, weight.detach()[indices])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [5, 8, 9, 16, 31, 64])
def test_equals_reference_bit_for_bit(layout: str, dim: int, generator) -> None:
    weight, table = make_table(LAYOUTS[layout], generator, dim)
    for count in (0, 1, 7, 600):
        indices = torch.randint(0, 23, (count,), generator=generator)
        groups = torch.randint(0, NUM_GROUPS, (count,), generator=generator)
        got = ops.grouped_lookup(weight, indices, groups, **table)
        assert got.shape == (count, dim)
        assert torch.equal(got, reference.grouped_lookup(weight, indices, groups, **table))


@pytest.mark.parametrize(
    ("layout", "rotated"),
    [*((layout, False) for layout in LAYOUTS)]
    + [(layout, True) for layout in LAYOUTS if LAYOUTS[layout] is not None],
)
def test_gradients_equal_those_of_the_reference(layout: str, rotated: bool, generator) -> None:
    weight, table = make_table(LAYOUTS[layout], generator, rotated=rotated)
    indices = torch.randint(0, 23, (40, 3), generator=generator)
    groups = torch.randint(0, NUM_GROUPS, (40,), generator=generator)
    upstream = torch.randn(40, 3, 10, generator=generator)
    for options in ({}, dict(padding_idx=2), dict(scale_grad_by_freq=True)):
        results = []
        for lookup in (ops.grouped_lookup, reference.grouped_lookup):
            leaves = [weight.clone().requires_grad_(), table["refinement"].clone().requires_grad_()]
            own = {**table, "refinement": leaves[1]}
            out = lookup(leaves[0], indices, groups, **own, **options)
            results.append((out.detach(), *torch.autograd.grad(out, leaves, upstream)))
        for got, want in zip(*results, strict=True):
            assert torch.equal(got, want)
        assert results[0][1].abs().sum() > 0


@pytest.mark.parametrize("layout", ["dense", "planes", "columns-int8"])
@pytest.mark.parametrize("options", [{}, dict(padding_idx=2), dict(scale_grad_by_freq=True)])
def test_sparse_gradient_is_the_dense_one(layout: str, options: dict, generator) -> None:
    weight, table = make_table(LAYOUTS[layout], generator)
    weight.requires_grad_()
    indices = torch.tensor([4, 4, 2, 11, 4, 1, 5, 5])
    groups = torch.tensor([0, 1, 1, 2, 1, 0, 0, 0])
    if layout != "dense":  # of row 1 nothing is held, of row 5 something
        table["blocks"].held[0] = 1
    leaves = weight, table["refinement"].requires_grad_()
    both = [
        torch.autograd.grad(
            ops.grouped_lookup(weight, indices, groups, **table, **options, sparse=flag)
            .square().sum(), leaves,
        )
        for flag in (False, True)
    ]  # fmt: skip
    for dense, sparse in zip(*both, strict=True):
        assert sparse.is_sparse
        assert torch.equal(sparse.to_dense(), dense)
        assert dense.abs().sum() > 0
    if layout == "planes" and not options:  # of row 1 nothing is held
        assert 1 not in both[1][0]._indices()


def test_sparse_gradient_of_whole_rows_is_what_came_in(generator) -> None:
    weight, table = make_table(None, generator)
    weight.requires_grad_()
    indices = torch.tensor([[4, 4], [2, 11]])
    rows = ops.grouped_lookup(weight, indices, torch.tensor([0, 2]), **table, sparse=True)
    upstream = torch.randn(2, 2, 10, generator=generator)
    (sparse,) = torch.autograd.grad(rows, weight, upstream)
    assert not sparse.is_coalesced()
    assert sparse._values().data_ptr() == upstream.data_ptr()
    assert sparse._indices().tolist() == [[4, 4, 2, 11]]
    like_torch = torch.nn.functional.embedding(indices, weight, sparse=True)
    (theirs,) = torch.autograd.grad(like_torch, weight, upstream)
    assert torch.equal(theirs._indices(), sparse._indices())
    assert torch.equal(theirs._values(), sparse._values())
    empty = ops.grouped_lookup(weight, indices[:0], 0, **table, sparse=True)
    assert torch.autograd.grad(empty.sum(), weight)[0]._nnz() == 0


def test_second_derivative(generator) -> None:
    weight, table = make_table(ColumnsLayout(4), generator)
    table["blocks"].held[1] |= 1  # something of each row, so that there is a derivative
    indices = torch.tensor([4, 4, 2, 1])
    groups = torch.tensor([0, 1, 1, 2])
    penalties = []
    for lookup in (ops.grouped_lookup, _differentiable_reference):
        leaf = weight.clone().requires_grad_()
        out = lookup(leaf, indices, groups, **table)
        scale = torch.full((4, 10), 2.0, requires_grad=True)
        (grad,) = torch.autograd.grad((out * scale).sum(), leaf, create_graph=True)
        penalties.append(torch.autograd.grad(grad.square().sum(), scale)[0])
    assert torch.allclose(*penalties)
    assert penalties[0].abs().sum() > 0


def _differentiable_reference(weight, indices, groups, **table):
    item_group, held = table["blocks"].item_group, table["blocks"].held
    which = item_group[0, indices].long()
    masks = torch.where(which < 0, 0, held[groups, which.clamp(min=0)])[:, None]
    return weight[indices] * (masks >> (torch.arange(10) // 4) & 1)


def test_groups_broadcast(generator) -> None:
    weight, table = make_table(PlanesLayout(), generator)
    indices = torch.randint(0, 23, (4, 5), generator=generator)
    groups = torch.tensor([0, 1, 2, 1])
    spread = groups[:, None].expand(4, 5)
    want = ops.grouped_lookup(weight, indices, spread, **table)
    assert torch.equal(ops.grouped_lookup(weight, indices, groups, **table), want)
    assert torch.equal(ops.grouped_lookup(weight, indices[0], 2, **table),
                       ops.grouped_lookup(weight, indices[0], torch.full((5,), 2), **table))  # fmt: skip
    scalar = ops.grouped_lookup(weight, torch.tensor(3), torch.tensor(1), **table)
    assert scalar.shape == (10,)


def test_dtypes_and_strides(generator) -> None:
    wide = torch.randn(46, 30, generator=generator)
    indices = torch.randint(0, 23, (8, 6), generator=generator)
    for weight in (wide[::2, :10], wide[:23, ::3], wide.T[:23, :10]):
        weight = weight if weight.shape[0] == 23 else wide[:23, :10]
        for picked in (indices, indices.int(), indices[:, ::2], indices.T):
            assert torch.equal(ops.grouped_lookup(weight, picked), weight[picked.long()])


def test_threads_and_repeats_agree(generator) -> None:
    weight, table = make_table(PlanesLayout(), generator, dim=64, rotated=True)
    weight.requires_grad_()
    indices = torch.randint(0, 23, (3000,), generator=generator)
    groups = torch.randint(0, NUM_GROUPS, (3000,), generator=generator)
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2, 5, 1):
            _core.set_num_threads(threads)
            out = ops.grouped_lookup(weight, indices, groups, **table)
            results.append((out.detach(), torch.autograd.grad(out.square().sum(), weight)[0]))
    finally:
        _core.set_num_threads(before)
    for out, grad in results:
        assert torch.equal(out, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_unknown_instruction_set_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from peel_ext import _core; _core.isa()"],
        capture_output=True, text=True, env={**os.environ, "PEEL_ISA": "mmx"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "PEEL_ISA is 'mmx'" in done.stderr


I5 = torch.arange(5)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (dict(indices=torch.tensor([1, 23])), IndexError, "indices contain 23 at flat position 1"),
        (dict(indices=torch.tensor([-1])), IndexError, "indices contain -1"),
        (dict(indices=I5.float()), TypeError, "indices must be an int32 or int64 tensor, got"),
        (dict(indices=[1, 2]), TypeError, "indices must be"),
        (dict(groups=3), IndexError, "groups contain 3, expected values in [0, 3)"),
        (dict(groups=torch.tensor([0, 0, 0, 0, -2])), IndexError, "groups contain -2"),
        (dict(groups=torch.tensor([0, 1])), ValueError, "groups must have the shape of indices"),
        (dict(groups=I5.float()), TypeError, "groups must be int32 or int64"),
        (dict(groups=1.5), TypeError, "groups must be an int or a tensor"),
        (dict(groups=2**70), IndexError, "groups contain 1180591620717411303424, expected"),
        (dict(groups=-(2**70)), IndexError, "groups contain -1180591620717411303424, expected"),
        (
            dict(weight=torch.rand(23, 10).double()),
            TypeError,
            "weight must be float32, got float64",
        ),
        (dict(weight=torch.rand(23)), ValueError, "weight must have 2 dimensions"),
        (dict(refinement=None), ValueError, "refinement and refinement_slot"),
        (dict(refinement=torch.rand(6, 9)), ValueError, "refinement must have shape"),
        (dict(refinement_slot=torch.zeros(3, 23)), TypeError, "refinement_slot must be int32"),
        (dict(num_groups=0), ValueError, "num_groups must be at least 1"),
        (
            dict(num_groups=2**70),
            ValueError,
            "num_groups must be between 1 and 9223372036854775807",
        ),
    ],
)
def test_rejects(change: dict, error: type[Exception], named: str) -> None:
    weight, table = make_table(PlanesLayout(), torch.Generator().manual_seed(0))
    arguments = dict(weight=weight, indices=I5, groups=1, **table) | change
    with pytest.raises(error) as caught:
        ops.grouped_lookup(**arguments)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "error", "named"),
    [
        (
            "store",
            torch.zeros(29, 3, dtype=torch.uint8),
            ValueError,
            "blocks.store must have shape",
        ),
        ("scales", torch.zeros(29, 1), TypeError, "blocks.scales must be float16"),
        ("item_group", torch.zeros(2, 23, dtype=torch.int32), ValueError, "blocks.item_group"),
        ("item_group", torch.full((3, 23), 4, dtype=torch.int32), IndexError, "blocks.item_group"),
        ("held", torch.zeros(3, 4), TypeError, "blocks.held must be int64"),
        ("levels", torch.zeros(5), ValueError, "blocks.levels"),
        ("rotation", torch.zeros(9, 9), ValueError, "blocks.rotation must have shape"),
    ],
)
def test_rejects_blocks(
    field: str, value: torch.Tensor, error: type[Exception], named: str
) -> None:
    weight, table = make_table(PlanesLayout(), torch.Generator().manual_seed(0))
    table["blocks"] = replace(table["blocks"], **{field: value})
    with pytest.raises(error) as caught:
        ops.grouped_lookup(weight, I5, 1, **table)
    assert named in str(caught.value)


def test_rejects_a_slot_beyond_the_refinement() -> None:
    weight, table = make_table(None, torch.Generator().manual_seed(0))
    table["refinement_slot"][1, 3] = 6
    with pytest.raises(IndexError, match="refinement_slot at flat position 3"):
        ops.grouped_lookup(weight, I5, 1, **table)


@pytest.mark.once
@pytest.mark.parametrize("layout", ["dense", "planes", "columns-int8"])
def test_opcheck(layout: str, generator) -> None:
    weight, table = make_table(LAYOUTS[layout], generator)
    weight.requires_grad_()
    table["refinement"].requires_grad_()
    made = Table(weight, **table)
    pairs = Pairs(torch.tensor([1, 2, 2]), torch.tensor([0, 2, 2]))
    arguments = (*made.flat(), *pairs, *Options().flat())
    torch.library.opcheck(torch.ops.peel_ext.grouped_lookup.default, arguments)
    scatter = Scatter(pairs, torch.tensor([1, -1, 2]), 23, True, 23, NUM_GROUPS, made.mask)
    arguments = (torch.rand(3, 10, requires_grad=True), *scatter.flat())
    torch.library.opcheck(torch.ops.peel_ext.grouped_lookup_backward.default, arguments)


@pytest.mark.once
def test_compiles_with_gradients(generator) -> None:
    weight, table = make_table(PlanesLayout(), generator)
    weight.requires_grad_()
    indices, groups = torch.tensor([1, 2, 2]), torch.tensor([0, 2, 2])

    def loss(w):
        return ops.grouped_lookup(w, indices, groups, **table).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    want = torch.autograd.grad(loss(weight), weight)[0]
    assert torch.equal(torch.autograd.grad(compiled(weight), weight)[0], want)


def test_registered_ops_take_strided_pairs(generator) -> None:
    weight, _ = make_table(None, generator)
    pairs = torch.tensor([[5, 0], [7, 1], [9, 2]])
    table, tail = Table(weight, num_groups=3).flat(), Options().flat()
    op = torch.ops.peel_ext.grouped_lookup
    assert torch.equal(op(*table, pairs[:, 0], pairs[:, 1], 0, *tail), weight[[5, 7, 9]])
    same = torch.tensor([5]).expand(3)  # stride 0
    assert torch.equal(op(*table, same, None, 0, *tail), weight[[5, 5, 5]])
    scatter = Scatter(Pairs(same, None), same, 23, False, 23, 3, None)
    rows = torch.ones(1, 10).expand(3, 10)
    grad = torch.ops.peel_ext.grouped_lookup_backward(rows, *scatter.flat())
    assert torch.equal(grad[5], torch.full((10,), 3.0))
    assert grad.sum() == 30


def test_groups_are_not_cut_to_the_width_of_indices() -> None:
    weight, table = make_table(None, torch.Generator().manual_seed(0))
    groups = torch.full((5,), 2**32 + 1)
    # A device tells of values in 32 bits.
    with pytest.raises(IndexError, match=r"groups contain \d+, expected values in"):
        ops.grouped_lookup(weight, I5.int(), groups, **table)


def test_padding_may_be_counted_from_the_end() -> None:
    weight = torch.rand(5, 3, requires_grad=True)
    ops.grouped_lookup(weight, I5, padding_idx=-1).sum().backward()
    assert weight.grad.sum(dim=1).tolist() == [3, 3, 3, 3, 0]
    with pytest.raises(ValueError, match="padding_idx must be between -5 and 4, got 5"):
        ops.grouped_lookup(weight, I5, padding_idx=5)
