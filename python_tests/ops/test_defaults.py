"""The ops give the same bits whatever torch's default dtype and device are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType

import pytest
import torch
from torch import Tensor

from peel_ext import ops, reference
from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.format.quantizer import level_table
from peel_ext.ops.lookup import BlockStore

ROWS, DIM, GROUPS, ITEM_GROUPS = 23, 10, 3, 4
LAYOUTS: list[Layout | None] = [None, PlanesLayout(), ColumnsLayout(4, "int8")]
OTHER = Callable[[], AbstractContextManager[None]]


class Subclass(Tensor):
    """Sends a call through the dispatcher, as tracing does."""


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert one.device.type == "cpu"
        dense = [each.to_dense() if each.is_sparse else each for each in (one, other)]
        assert torch.equal(*dense)


def make_table(layout: Layout | None, generator: torch.Generator) -> tuple[Tensor, dict]:
    weight = torch.randn(ROWS, DIM, generator=generator)
    refinement = torch.randn(2, DIM, generator=generator)
    slot = torch.full((GROUPS, ROWS), -1, dtype=torch.int32)
    slot[0, 2], slot[2, 7] = 0, 1
    table = dict(refinement=refinement, refinement_slot=slot, num_groups=GROUPS)
    if layout is not None:
        refined = weight[[2, 7]] + refinement
        store, scales = layout.encode(torch.cat([weight, refined]).numpy())
        shape = 1 if isinstance(layout, ColumnsLayout) else GROUPS, ROWS
        item_group = torch.randint(0, ITEM_GROUPS, shape, generator=generator, dtype=torch.int32)
        held = torch.randint(
            0, 1 << layout.num_layers(DIM), (GROUPS, ITEM_GROUPS), generator=generator
        )
        table["blocks"] = BlockStore(
            layout, torch.from_numpy(store), torch.from_numpy(scales), item_group, held,
            torch.from_numpy(level_table().copy()), None,
        )  # fmt: skip
    return weight, table


@pytest.mark.parametrize("kernels", [ops, reference])
def test_topk_blocks(kernels: ModuleType, other_defaults: OTHER, generator) -> None:
    weights = torch.rand(3, 50, generator=generator)
    costs = torch.randint(1, 90, (50,), generator=generator)
    budgets = torch.tensor([0, 300, 10_000])

    def select() -> list[Tensor]:
        by_budget = [
            kernels.topk_blocks(weights, costs=costs, budget_bytes=budget)
            for budget in (500, budgets)
        ]
        in_order = kernels.topk_blocks(weights.double(), 20, sorted=False)
        return [kernels.topk_blocks(weights, 7), in_order, *by_budget]

    want = select()
    with other_defaults():
        got = select()
    assert_same(got, want)


@pytest.mark.parametrize("kernels", [ops, reference])
def test_gathered_score(kernels: ModuleType, other_defaults: OTHER, generator) -> None:
    users = torch.randn(4, DIM, generator=generator)
    table = torch.randn(200, DIM, generator=generator)
    candidates = torch.randint(0, 200, (90,), generator=generator)
    indptr, exclude = torch.tensor([0, 2, 2, 3, 3]), torch.tensor([5, 9, 5])

    def score() -> list[Tensor]:
        narrowed = dict(candidates=candidates, exclude_indptr=indptr, exclude=exclude)
        return [*kernels.gathered_score(users, table, 8),
                *kernels.gathered_score(users, table, 99, **narrowed)]  # fmt: skip

    want = score()
    with other_defaults():
        got = score()
    assert_same(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("path", ["eager", "dispatched", "reference"])
def test_grouped_lookup(layout: Layout | None, path: str, other_defaults: OTHER, generator) -> None:
    weight, table = make_table(layout, generator)
    indices = torch.randint(0, ROWS, (40,), generator=generator)
    groups = torch.randint(0, GROUPS, (40,), generator=generator)
    lookup = reference.grouped_lookup if path == "reference" else ops.grouped_lookup

    def look_up(groups: Tensor | int, **options) -> list[Tensor]:
        leaves = [weight.clone().requires_grad_(), table["refinement"].clone().requires_grad_()]
        seen = leaves[0].as_subclass(Subclass) if path == "dispatched" else leaves[0]
        rows = lookup(seen, indices, groups, **{**table, "refinement": leaves[1]}, **options)
        rows = rows.as_subclass(Tensor)
        return [rows.detach(), *torch.autograd.grad(rows.square().sum(), leaves)]

    def every_way() -> list[Tensor]:
        found = [*look_up(groups), *look_up(2), *look_up(groups, padding_idx=2)]
        found += look_up(groups, scale_grad_by_freq=True)
        if path != "reference":
            found += [*look_up(groups, sparse=True),
                      *look_up(1, sparse=True, scale_grad_by_freq=True)]  # fmt: skip
        return found

    want = every_way()
    with other_defaults():
        got = every_way()
    assert_same(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, dict(scale_grad_by_freq=True)])
def test_gradients_of_gradients_and_under_transforms(
    layout: Layout | None, options: dict, other_defaults: OTHER, generator
) -> None:
    weight, table = make_table(layout, generator)
    indices = torch.randint(0, ROWS, (20,), generator=generator)
    groups = torch.randint(0, GROUPS, (20,), generator=generator)
    upstream = torch.randn(20, DIM, generator=generator)

    def rows(weight: Tensor) -> Tensor:
        return ops.grouped_lookup(weight, indices, groups, **table, **options)

    def differentiate() -> list[Tensor]:
        leaf, pull = weight.clone().requires_grad_(), upstream.clone().requires_grad_()
        (first,) = torch.autograd.grad(rows(leaf), leaf, pull, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), pull)
        transformed = torch.func.grad(lambda weight: (rows(weight) * upstream).sum())(weight)
        return [first.detach(), second, transformed]

    want = differentiate()
    with other_defaults():
        got = differentiate()
    assert_same(got, want)


@pytest.mark.parametrize("kernels", [ops, reference])
@pytest.mark.parametrize("rule", ["rowwise_adagrad", "adam"])
def test_update_rows(kernels: ModuleType, rule: str, other_defaults: OTHER, generator) -> None:
    weight = torch.randn(ROWS, DIM, generator=generator)
    indices = torch.randint(0, ROWS, (30,), generator=generator)
    gradients = torch.randn(30, DIM, generator=generator)

    def step() -> list[Tensor]:
        stepped, moment = weight.clone(), torch.zeros_like(weight)
        state = [moment[:, 0].clone()] if rule == "rowwise_adagrad" else [moment, moment.clone()]
        kernels.update_rows(
            stepped, indices, gradients, state, rule=rule, learning_rate=0.1, eps=1e-8
        )
        return [stepped, *state]

    want = step()
    with other_defaults():
        got = step()
    assert_same(got, want)
