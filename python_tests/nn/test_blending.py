"""Blends of user groups: what a user between them holds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.device import DeviceRecommender
from peel_ext.format import Layout

LAYOUTS: dict[str, Layout | str] = {
    "planes": "planes",
    "planes-small": PlanesLayout((1, 2, 1), rows_per_block=8),
    "columns": "columns",
    "columns-int8": ColumnsLayout(4, "int8", 6, keep_one_block=True),
}
ROWS, DIM, GROUPS = 150, 16, 3


def make(layout: Layout | str, generator: torch.Generator) -> tuple[ElasticEmbedding, torch.Tensor]:
    weight = torch.randn(ROWS, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(weight, num_groups=GROUPS, layout=layout)
    if module.layout.nested:
        module.fit_rotation()
    values = torch.rand(GROUPS, ROWS, generator=generator)
    module.set_row_values(values)
    return module, values


def held_rows(module: ElasticEmbedding, group: int, budget: int) -> set[int]:
    return set(module.generate(group, budget).row_ids.tolist())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_all_of_one_group_is_that_group(layout: Layout | str, generator) -> None:
    module, _ = make(layout, generator)
    blend = module.blend(torch.eye(GROUPS) * torch.tensor([[0.5], [2.0], [1.0]]))
    least = max(blend.minimum_budget_bytes(group) for group in range(GROUPS))
    for group in range(GROUPS):
        for budget in (least, 2 * least, 10**6):
            theirs, ours = module.generate(group, budget), blend.generate(group, budget)
            everything = np.arange(ROWS)
            np.testing.assert_array_equal(ours.lookup(everything), theirs.lookup(everything))
            assert ours.nbytes == theirs.nbytes <= budget


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_shares_and_row_values_add_up(layout: Layout | str, generator) -> None:
    module, values = make(layout, generator)
    shares = torch.tensor([[0.2, 0.0, 0.8], [1.0, 3.0, 0.0]])
    own = torch.rand(2, ROWS, generator=generator)
    blend = module.blend(shares, own)
    rows = torch.arange(ROWS)
    if module.layout.nested:  # rows of a block share its worth
        sizes = torch.bincount(module.item_group[0])
        which = module.item_group.long()
        worth = torch.stack([
            (torch.zeros(len(sizes)).index_add_(0, which[g], values[g]) / sizes)[which[g]]
            for g in range(GROUPS)
        ])  # fmt: skip
    else:
        worth = values
    expected = ElasticEmbedding.from_pretrained(
        module.weight.detach(), num_groups=2, layout=module.layout
    )
    total = module.block_weights.sum(dim=(1, 2))
    gain = module.block_weights.sum() / worth.sum()
    values = (shares / total) @ worth * gain + own
    expected.set_row_values(values)
    torch.testing.assert_close(blend.block_weights, expected.block_weights / gain)
    if module.layout.nested:
        # Rows of equal worth but for rounding may change places.
        assert (blend.item_group == expected.item_group).float().mean() > 0.97
    assert torch.equal(blend.weight, module.weight)
    assert blend.weight.data_ptr() == module.weight.data_ptr()
    assert not blend.weight.requires_grad
    assert torch.equal(blend(rows), module(rows))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_smaller_budget_keeps_a_subset(layout: Layout | str, generator) -> None:
    module, _ = make(layout, generator)
    blend = module.blend(torch.rand(1, GROUPS, generator=generator))
    least = blend.minimum_budget_bytes(0)
    kept: set[int] = set()
    for budget in range(least, least + 4000, 500):
        pee = blend.generate(0, budget)
        assert pee.nbytes <= budget
        rows = set(pee.row_ids.tolist())
        assert kept <= rows
        kept = rows


def test_row_values_alone_are_a_group(generator) -> None:
    module, _ = make("planes", generator)
    own = torch.rand(1, ROWS, generator=generator)
    blend = module.blend(torch.zeros(1, GROUPS), own)
    plain = ElasticEmbedding.from_pretrained(module.weight.detach(), num_groups=1)
    plain.set_row_values(own)
    assert torch.equal(blend.item_group, plain.item_group)
    scale = own.sum() / plain.block_weights.sum()
    torch.testing.assert_close(blend.block_weights, plain.block_weights * scale)


def test_groups_without_row_values_of_their_own(generator) -> None:
    weight = torch.randn(ROWS, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(weight, num_groups=GROUPS)
    blend = module.blend(torch.ones(1, GROUPS))
    total = module.block_weights[0].sum()
    torch.testing.assert_close(blend.block_weights, 3 * module.block_weights[:1] / total)
    assert torch.equal(blend.item_group, module.item_group)


def test_refined_rows_are_those_of_the_largest_share(generator) -> None:
    module, values = make("planes", generator)
    module.refine_rows(0, torch.tensor([3, 9]))
    module.refine_rows(1, torch.tensor([3]))
    with torch.no_grad():
        module.refinement.copy_(torch.randn(3, DIM, generator=generator))
    # The worth of groups differs, which is not to decide who is nearest.
    module.set_row_values(values * torch.tensor([[100.0], [1.0], [10.0]]))
    blend = module.blend(torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.5, 0.4], [0.0, 0.1, 0.9]]))
    rows = torch.tensor([3, 9, 4])
    for group in range(GROUPS):
        assert torch.equal(blend(rows, groups=group), module(rows, groups=group))
        ours, theirs = (each.generate(group, 10**6).lookup(rows) for each in (blend, module))
        np.testing.assert_array_equal(ours, theirs)


def test_a_blend_is_an_elastic_embedding_like_others(tmp_path, generator) -> None:
    module, _ = make("planes", generator)
    blend = module.blend(torch.tensor([[0.5, 0.5, 0.0]]))
    with blend.budget(2_000):
        rows = blend(torch.arange(ROWS), groups=0)
    pee = blend.generate(0, 2_000)
    decoded = torch.from_numpy(pee.lookup(np.arange(ROWS))) @ blend.rotation.T
    torch.testing.assert_close(rows, decoded)
    again = ElasticEmbedding.from_pretrained(torch.zeros(ROWS, DIM), num_groups=1)
    again.load_state_dict(blend.state_dict())
    assert held_rows(again, 0, 2_000) == held_rows(blend, 0, 2_000)
    blend.export(tmp_path / "user.peel", 0)
    copied = copy.deepcopy(module.blend(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])))
    for group, nearest in enumerate([2, 0]):
        copied.export(tmp_path / "user.peel", group)
        with DeviceRecommender.open(tmp_path / "user.peel") as device:
            assert device.group == nearest


@pytest.mark.parametrize(("shares", "values", "message"), [
    (torch.ones(2, 4), None, r"shares must have shape \(2, 3\), got \(2, 4\)"),
    (torch.ones(3), None, r"shares must be a matrix of at least one row, got shape \(3,\)"),
    (torch.ones(0, 3), None, r"shares must be a matrix of at least one row, got shape \(0, 3\)"),
    (torch.tensor([[1.0, -1.0, 0.0]]), None, r"shares\[0, 1\] must be finite and not negative"),
    (torch.tensor([[1.0, 0.0, torch.nan]]), None, r"shares\[0, 2\] must be finite"),
    (torch.ones(1, 3), torch.ones(1, 5), r"row_values must have shape \(1, 150\), got \(1, 5\)"),
    (torch.ones(1, 3), -torch.ones(1, 150), r"row_values\[0, 0\] must be finite and not negative"),
])  # fmt: skip
def test_wrong_shares(shares, values, message: str, generator) -> None:
    module, _ = make("planes", generator)
    with pytest.raises(ValueError, match=message):
        module.blend(shares, values)
