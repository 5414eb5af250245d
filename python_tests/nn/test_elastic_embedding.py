"""ElasticEmbedding: a drop-in for nn.Embedding, and elastic."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
import torch
from elastic_modules import LAYOUTS, make
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout, reference
from peel_ext.errors import BudgetError
from peel_ext.format import Layout, unpack_embedding
from peel_ext.format.quantizer import level_table
from peel_ext.nn.encoding import Rows, held_blocks
from peel_ext.ops.lookup import BlockStore

# ---- in the place of nn.Embedding ----


@pytest.mark.parametrize("options", [
    {}, dict(padding_idx=3), dict(padding_idx=-1), dict(max_norm=1.0), dict(sparse=True),
    dict(scale_grad_by_freq=True),
])  # fmt: skip
@pytest.mark.parametrize("with_groups", [False, True])
def test_equals_nn_embedding(options: dict, with_groups: bool, generator) -> None:
    torch.manual_seed(0)
    theirs = nn.Embedding(20, 6, **options)
    torch.manual_seed(0)
    ours = ElasticEmbedding(20, 6, **options, num_groups=4)
    assert torch.equal(ours.weight, theirs.weight)
    indices = torch.randint(0, 20, (5, 7), generator=generator)
    groups = torch.randint(0, 4, (5,), generator=generator)
    upstream = torch.randn(5, 7, 6, generator=generator)
    out = ours(indices, groups=groups) if with_groups else ours(indices)
    want = theirs(indices)
    assert torch.equal(out, want)
    out.backward(upstream)
    want.backward(upstream)
    assert ours.weight.grad.is_sparse == theirs.weight.grad.is_sparse
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())


@pytest.mark.parametrize("budget", [None, 10**6])
def test_a_padding_index_set_later_counts_from_the_end(budget: int | None, generator) -> None:
    ours, theirs = ElasticEmbedding(20, 6), nn.Embedding(20, 6)
    ours.padding_idx = theirs.padding_idx = -3
    indices = torch.randint(0, 20, (20_000,), generator=generator)  # enough for a kernel
    with contextlib.nullcontext() if budget is None else ours.budget(budget):
        ours(indices).sum().backward()
    theirs(indices).sum().backward()
    assert torch.equal(ours.get_parameter("weight").grad, theirs.weight.grad)
    assert theirs.weight.grad[17].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_without_a_budget(dtype: torch.dtype) -> None:
    module = ElasticEmbedding(10, 4, dtype=dtype)
    assert torch.equal(module(torch.tensor([1, 2])), module.weight[1:3])
    with (
        pytest.raises(TypeError, match="weight must be float32 to be encoded"),
        module.budget(10_000),
    ):
        module(torch.tensor([1]))


def test_from_pretrained_and_freeze() -> None:
    rows = torch.rand(5, 3)
    module = ElasticEmbedding.from_pretrained(rows, padding_idx=1)
    assert isinstance(module, nn.Embedding)
    assert not module.weight.requires_grad
    assert torch.equal(module.weight, rows)
    with pytest.raises(ValueError, match="embeddings must have 2 dimensions"):
        ElasticEmbedding.from_pretrained(rows[0])


def test_state_dict_is_that_of_nn_embedding_until_more_is_set(generator) -> None:
    fresh = ElasticEmbedding(12, 4, num_groups=3)
    assert list(fresh.state_dict()) == ["weight"]
    theirs = nn.Embedding(12, 4)
    fresh.load_state_dict(theirs.state_dict())
    assert torch.equal(fresh.weight, theirs.weight)
    theirs.load_state_dict(ElasticEmbedding(12, 4).state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dict_round_trip(layout: str, generator) -> None:
    rotated = layout.startswith("planes")
    module = make(LAYOUTS[layout], generator, rotated=rotated)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    again = ElasticEmbedding(150, 16, num_groups=3, layout=LAYOUTS[layout])
    again.load_state_dict(torch.load(file, weights_only=True))
    assert set(again.state_dict()) == set(module.state_dict())
    indices, groups = torch.arange(150), torch.arange(150) % 3
    assert torch.equal(again(indices, groups), module(indices, groups))
    for group in range(3):
        budget = module.minimum_budget_bytes(group) + 2000
        got, want = again.generate(group, budget), module.generate(group, budget)
        assert np.array_equal(got.buffer, want.buffer)
    with pytest.raises(RuntimeError, match=r"(refinement_slot|block_weights) must have shape"):
        ElasticEmbedding(150, 16, num_groups=2, layout=LAYOUTS[layout]).load_state_dict(
            module.state_dict()
        )


def test_deepcopy_is_independent(generator) -> None:
    module = make("planes", generator)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.weight.mul_(2)
    budget = 4000
    with module.budget(budget), twin.budget(budget):
        assert not torch.equal(module(torch.arange(150), 0), twin(torch.arange(150), 0))
    assert np.array_equal(
        module.generate(0, budget).buffer, copy.deepcopy(module).generate(0, budget).buffer
    )


# ---- under a budget ----


@pytest.mark.parametrize(
    ("layout", "rotated"),
    [*((layout, False) for layout in LAYOUTS)]
    + [(layout, True) for layout in LAYOUTS if layout.startswith("planes")],
)
def test_module_embedding_and_reference_agree_bit_for_bit(
    layout: str, rotated: bool, generator
) -> None:
    module = make(LAYOUTS[layout], generator, rotated=rotated)
    weight, everything = module.weight, torch.arange(150)
    least = max(module.minimum_budget_bytes(group) for group in range(3))
    for budget in (least, least + 500, least + 1700, 100_000):
        for group in range(3):
            pee = module.generate(group, budget)
            assert pee.nbytes <= budget
            plain = unpack_embedding(pee.buffer)
            rows = torch.zeros(150, 16)
            rows[torch.from_numpy(plain.ids)] = torch.from_numpy(plain.rows)
            assert torch.equal(torch.from_numpy(pee.lookup(everything.numpy())), rows)
            if rotated:
                rows = _turn_back(rows, module.rotation)
            with module.budget(budget):
                out = module(everything, group)
            want = reference.grouped_lookup(
                weight, everything, group, refinement=module.refinement,
                refinement_slot=module.refinement_slot, blocks=blocks_of(module, budget),
                num_groups=3,
            )  # fmt: skip
            assert torch.equal(out, rows)
            assert torch.equal(out, want)


def blocks_of(module: ElasticEmbedding, budget: int) -> BlockStore:
    return BlockStore(
        module.layout, *Rows(module.weight, module.refinement, module.refinement_slot,
                             module.rotation).encoded(module.layout),
        module.item_group,
        held_blocks(module.block_weights, module.item_group, module.layout, 16, budget),
        torch.from_numpy(level_table().copy()), module.rotation,
    )  # fmt: skip


def _turn_back(rows: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """The documented order of sums."""
    result = rows[:, :1] * rotation[:, 0]
    for k in range(1, rows.shape[1]):
        result = result + rows[:, k : k + 1] * rotation[:, k]
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_smaller_budgets_keep_subsets_within_bytes(layout: str, generator) -> None:
    module = make(LAYOUTS[layout], generator)
    before: dict[int, int] = {}
    least = module.minimum_budget_bytes(1)
    for budget in [*range(least, least + 4000, 123), 50_000, 2**63, 2**64]:
        pee = module.generate(1, budget)
        assert pee.nbytes <= budget
        plain = unpack_embedding(pee.buffer)
        now = dict(zip(plain.ids.tolist(), plain.held.tolist(), strict=True))
        for row, held in before.items():
            assert held & now.get(row, 0) == held
        before = now
    every_row = torch.arange(module.num_embeddings)
    with module.budget(100_000):
        expected = module(every_row, 1)
    with module.budget(2**63):
        assert torch.equal(module(every_row, 1), expected)
    layers = module.block_weights.shape[2]
    assert set(before.values()) == {(1 << layers) - 1}
    assert len(before) == 150


@pytest.mark.parametrize("layout", ["columns", ColumnsLayout(3, "float32", 7)])
def test_all_blocks_kept_equals_nn_embedding(layout: str | Layout, generator) -> None:
    module = make(layout, generator, refined=False)
    indices = torch.randint(0, 150, (4, 9), generator=generator)
    want = nn.functional.embedding(indices, module.weight)
    with module.budget(1 << 30):
        assert torch.equal(module(indices, 1), want)


def test_minimum_is_exact_and_named(generator) -> None:
    for layout in LAYOUTS.values():
        module = make(layout, generator)
        for group in range(3):
            least = module.minimum_budget_bytes(group)
            assert module.generate(group, least).nbytes == least
            with pytest.raises(BudgetError, match=f"needs at least {least} bytes") as caught:
                module.generate(group, least - 1)
            assert caught.value.minimum_bytes == least
        with pytest.raises(BudgetError), module.budget(10):
            pass
        assert module.budget_bytes is None


def test_one_block_per_item_group_is_a_floor(generator) -> None:
    layout = ColumnsLayout(4, "float32", 10, keep_one_block=True)
    module = make(layout, generator)
    pee = module.generate(0, module.minimum_budget_bytes(0))
    held = unpack_embedding(pee.buffer).held
    assert len(held) == 150
    assert all(int(mask).bit_count() == 1 for mask in held)


def test_layers_never_come_before_those_they_need(generator) -> None:
    module = ElasticEmbedding(100, 16, layout=PlanesLayout((2, 1, 1, 2, 2), rows_per_block=10))
    for _ in range(20):
        module.block_weights.copy_(torch.rand(module.block_weights.shape, generator=generator))
        for budget in range(module.minimum_budget_bytes(0), 2500, 211):
            held = unpack_embedding(module.generate(0, budget).buffer).held
            assert all((int(mask) + 1) & int(mask) == 0 for mask in held)  # 1, 11, 111, ...


def test_rows_of_planes_are_kept_by_value(generator) -> None:
    module = make("planes", generator)
    values = torch.rand(3, 150, generator=generator)
    module.set_row_values(values)
    held = unpack_embedding(module.generate(2, 1500).buffer)
    kept = set(held.ids.tolist())
    best = values[2].sort(descending=True, stable=True).indices[: len(kept)]
    assert kept == set(best.tolist())
    module.set_row_values(torch.zeros(3, 150))  # all alike: ties in ascending index
    held = unpack_embedding(module.generate(2, 1500).buffer)
    assert sorted(held.ids.tolist()) == list(range(len(held.ids)))


def test_given_item_groups_are_counted(generator) -> None:
    module = make(ColumnsLayout(8, "float32", 5), generator, refined=False)
    runs = module.minimum_budget_bytes(0)
    module.set_item_groups(torch.arange(150) % 5)
    assert module.minimum_budget_bytes(0) == runs + 320  # 150 ids of 2 bytes, padded
    pee = module.generate(0, 3000)
    assert pee.nbytes <= 3000
    with module.budget(3000):
        out = module(torch.arange(150), 0)
    assert torch.equal(out, torch.from_numpy(pee.lookup(np.arange(150))))


def test_training_goes_on_under_a_budget(generator) -> None:
    module = make("planes", generator, rotated=True)
    target = torch.randn(150, 16, generator=generator)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    losses = []
    with module.budget(6000):
        held = module(torch.arange(150), 1).detach().abs().sum(dim=1) > 0
        for _ in range(30):
            optimizer.zero_grad()
            loss = (module(torch.arange(150), 1) - target)[held].square().sum()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert module.weight.grad[~held].abs().sum() == 0
    assert losses[-1] < 0.5 * losses[0]  # rows were encoded anew after every step
    assert torch.equal(held, module.weight.grad.abs().sum(dim=1) > 0)


def test_budgets_nest_and_end(generator) -> None:
    module = make("planes", generator)
    with module.budget(5000):
        outer = module(torch.arange(150), 0)
        with module.budget(900):
            assert module.budget_bytes == 900
            inner = module(torch.arange(150), 0)
        assert torch.equal(module(torch.arange(150), 0), outer)
        assert not torch.equal(inner, outer)
    assert module.budget_bytes is None
    with pytest.raises(RuntimeError, match="boom"), module.budget(900):
        raise RuntimeError("boom")
    assert module.budget_bytes is None


def test_rotation_is_orthogonal_and_evens_out_variance(generator) -> None:
    for dim in (16, 12, 1, 3):
        weight = torch.randn(500, dim, generator=generator) * torch.logspace(0, -2, dim)
        module = ElasticEmbedding.from_pretrained(weight)
        module.fit_rotation()
        turned = module.rotate(weight)
        torch.testing.assert_close(module.rotation @ module.rotation.T, torch.eye(dim),
                                   atol=1e-5, rtol=0)  # fmt: skip
        variance = turned.square().mean(dim=0)
        before = weight.square().mean(dim=0)
        torch.testing.assert_close(variance, before.mean().expand(dim), rtol=1e-4, atol=0)
        again = ElasticEmbedding.from_pretrained(weight)
        again.fit_rotation()
        assert torch.equal(again.rotation, module.rotation)
    with pytest.raises(ValueError, match="only the planes layout is rotated"):
        ElasticEmbedding(4, 8, layout="columns").fit_rotation()


def test_empty_and_single_tables() -> None:
    for rows in (0, 1):
        for layout in ("planes", "columns"):
            module = ElasticEmbedding(rows, 8, num_groups=2, layout=layout)
            pee = module.generate(1, 100_000)
            assert len(pee.row_ids) == rows
            with module.budget(100_000):
                assert module(torch.arange(rows), 1).shape == (rows, 8)
                assert module(torch.zeros(0, 3, dtype=torch.int64), 0).shape == (0, 3, 8)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda m: ElasticEmbedding(5, -1), ValueError, "embedding_dim must be an integer"),
        (lambda m: ElasticEmbedding(5, 4, num_groups=0), ValueError, "num_groups must be"),
        (lambda m: ElasticEmbedding(5, 4, num_groups=1.5), ValueError, "num_groups must be"),
        (
            lambda m: ElasticEmbedding(5, 4, num_groups=2**70),
            ValueError,
            "num_groups must be below",
        ),
        (lambda m: ElasticEmbedding(5, 4, layout="x"), ValueError, "layout must be"),
        (lambda m: m(torch.tensor([150]), 0), IndexError, ""),
        (lambda m: m(torch.tensor([150]), 1), IndexError, "indices contain 150"),
        (lambda m: m(torch.tensor([1]), 3), IndexError, "groups contain 3"),
        (lambda m: m(torch.tensor([1]), torch.tensor([-1])), IndexError, "groups contain -1"),
        (lambda m: m(torch.tensor([1.5]), 1), TypeError, "indices must be an int32 or int64"),
        (lambda m: m.generate(3, 5000), IndexError, "group must be in [0, 3), got 3"),
        (lambda m: m.generate(-1, 5000), IndexError, "group must be in [0, 3), got -1"),
        (lambda m: m.generate(0, 5000.0), TypeError, "budget_bytes must be an integer, got 5000.0"),
        (lambda m: m.refine_rows(0, torch.tensor([150])), IndexError, "indices contain 150"),
        (lambda m: m.set_row_values(torch.ones(2, 150)), ValueError, "values must have shape"),
        (
            lambda m: m.set_row_values(torch.full((3, 150), -1.0)),
            ValueError,
            "values[0, 0] must be",
        ),
        (
            lambda m: m.set_row_values(torch.full((3, 150), torch.nan)),
            ValueError,
            "values[0, 0] must be finite and not negative, got nan",
        ),
        (lambda m: m.set_item_groups(torch.zeros(150)), ValueError, "item groups of the planes"),
        (
            lambda m: ElasticEmbedding(5, 8, layout="columns").set_item_groups(
                torch.full((5,), 1.5)
            ),
            TypeError,
            "item_group must be a tensor of integers, got torch.float32",
        ),
        (
            lambda m: ElasticEmbedding(5, 8, layout="columns").set_item_groups([0, 1, 2, 3, 4]),
            TypeError,
            "item_group must be a tensor of integers, got list",
        ),
    ],
)
def test_rejects(call, error: type[Exception], named: str, generator) -> None:
    with pytest.raises(error) as caught:
        call(make("planes", generator))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("values", lambda m: m.set_row_values(_freed(3, 150))),
        ("shares", lambda m: m.blend(_freed(2, 3))),
        ("row_values", lambda m: m.blend(torch.ones(2, 3), _freed(2, 150))),
        ("indices", lambda m: m.refine_rows(0, _freed(5, dtype=torch.int64))),
        ("vectors", lambda m: ElasticEmbedding.from_vectors(_freed(5, 8))),
        ("vectors", lambda m: m.rotate(_freed(5, 8))),
        ("embeddings", lambda m: ElasticEmbedding.from_pretrained(_freed(5, 8))),
        (
            "item_group",
            lambda m: ElasticEmbedding(5, 8, layout="columns").set_item_groups(
                _freed(5, dtype=torch.int64)
            ),
        ),
    ],
)
def test_rejects_tensors_without_memory(call, name: str, generator) -> None:
    with pytest.raises(ValueError, match=f"^{name} must have memory, got shape"):
        call(make("planes", generator))


def test_what_is_traced_needs_no_memory(generator) -> None:
    module = make("planes", generator)
    vectors = torch.rand(5, module.embedding_dim, generator=generator)
    turned = torch.func.vmap(module.rotate)(vectors)
    assert torch.equal(
        torch.compile(module.rotate, backend="eager", fullgraph=True)(vectors), turned
    )
    with FakeTensorMode():
        fake = ElasticEmbedding.from_pretrained(torch.ones(5, 8))
        assert fake.rotate(torch.ones(3, 8)).shape == (3, 8)


def _freed(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor whose memory was given back, which torch would read all the same."""
    made = torch.ones(*shape, dtype=dtype)
    made.untyped_storage().resize_(0)
    return made


def test_groups_are_required_under_a_budget(generator) -> None:
    module = make("planes", generator)
    with (
        module.budget(5000),
        pytest.raises(ValueError, match="groups must be given under a budget when there are 3"),
    ):
        module(torch.tensor([1]))
    with module.budget(5000):
        assert torch.equal(module(torch.tensor([1]), np.int64(2)), module(torch.tensor([1]), 2))
    single = ElasticEmbedding(20, 8)
    with single.budget(5000):
        assert single(torch.tensor([1])).shape == (1, 8)


def test_nan_block_weights_are_refused(generator) -> None:
    module = make("planes", generator)
    module.block_weights[1, 1, 3] = float("nan")
    with pytest.raises(ValueError, match=r"block_weights\[0, 1, 3\] is NaN"):
        module.generate(1, 5000)
