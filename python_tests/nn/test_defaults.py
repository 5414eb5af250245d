"""ElasticEmbedding whatever torch's default dtype and device are."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout, replace_embeddings
from peel_ext.format import Layout
from peel_ext.optim import RowwiseAdagrad, SparseAdam

ROWS, GROUPS, BUDGET = 120, 3, 2_500
LAYOUTS = [
    (PlanesLayout(rows_per_block=8), 16),
    (PlanesLayout(rows_per_block=8), 12),  # of no power of two, which the rotation treats its way
    (ColumnsLayout(4, "int8", 8), 16),
    (ColumnsLayout(4, "float16", 8, keep_one_block=True), 16),
]
OTHER = Callable[[], AbstractContextManager[None]]


class Given:
    """Tensors made under the usual defaults, as a caller has them."""

    def __init__(self, dim: int, generator: torch.Generator, rows: int = ROWS) -> None:
        self.weight = torch.randn(rows, dim, generator=generator)
        self.values = torch.rand(GROUPS, rows, generator=generator)
        self.refined = torch.tensor([3, 9, 40])
        self.additions = torch.randn(3, dim, generator=generator)
        self.item_group = torch.randint(0, 8, (rows,), generator=generator)
        self.indices = torch.randint(0, rows, (4, 9), generator=generator)
        self.groups = torch.randint(0, GROUPS, (4,), generator=generator)
        self.shares = torch.rand(2, GROUPS, generator=generator)

    def module(self, layout: Layout, sparse: bool = False) -> ElasticEmbedding:
        """With all state that a module may have."""
        module = ElasticEmbedding.from_pretrained(
            self.weight.clone(), freeze=False, num_groups=GROUPS, layout=layout, sparse=sparse
        )
        module.refine_rows(1, self.refined)
        with torch.no_grad():
            module.refinement.copy_(self.additions)
        if layout.nested:
            module.fit_rotation()
        else:
            module.set_item_groups(self.item_group)
        module.set_row_values(self.values)
        return module

    def seen(self, module: ElasticEmbedding) -> list[Tensor]:
        """What calls give, with their gradients."""
        found = []

        def look(*call: Tensor | int) -> None:
            rows = module(*call)
            parameters = [each for each in module.parameters() if each.requires_grad]
            grads = torch.autograd.grad(rows.square().sum(), parameters, allow_unused=True)
            found.extend([rows.detach(), *(each for each in grads if each is not None)])

        look(self.indices)
        look(self.indices, 1)
        look(self.indices, self.groups)
        with module.budget(BUDGET):
            look(self.indices, self.groups)
            found.append(module.table(1).detach())
        return found


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert one.device.type == "cpu"
        dense = [each.to_dense() if each.is_sparse else each for each in (one, other)]
        assert torch.equal(*dense)


@pytest.mark.parametrize(("layout", "dim"), LAYOUTS)
@pytest.mark.parametrize("sparse", [False, True])
def test_rows_and_gradients(
    layout: Layout, dim: int, sparse: bool, other_defaults: OTHER, generator
) -> None:
    given = Given(dim, generator)
    usual = given.module(layout, sparse)
    state, want = list(usual.state_dict().values()), given.seen(usual)
    with other_defaults():
        seen_there = given.seen(usual)
        module = given.module(layout, sparse)
        got = given.seen(module)
    assert_same(list(module.state_dict().values()), state)
    assert_same(got, want)
    assert_same(seen_there, want)


@pytest.mark.parametrize(("layout", "dim"), LAYOUTS)
def test_packed_exported_and_blended(
    layout: Layout, dim: int, other_defaults: OTHER, generator, tmp_path: Path
) -> None:
    given = Given(dim, generator)
    module = given.module(layout)

    def make(name: str) -> list[bytes]:
        module.export(tmp_path / name, 1)
        blended = module.blend(given.shares)
        packed = [each.generate(1, BUDGET).buffer.tobytes() for each in (module, blended)]
        sizes = bytes([module.minimum_budget_bytes(0) % 251])
        return [(tmp_path / name).read_bytes(), *packed, sizes]

    want = make("usual.peel")
    module._begin()
    with other_defaults():
        got = make("other.peel")
    assert got == want


def test_a_table_without_rows(other_defaults: OTHER) -> None:
    module = ElasticEmbedding(0, 8)
    want = module.minimum_budget_bytes(0)
    with other_defaults():
        assert module.minimum_budget_bytes(0) == want


@pytest.mark.parametrize("groups", [None, 1])
def test_calls_of_many_indices(groups: int | None, other_defaults: OTHER, generator) -> None:
    given = Given(8, generator, rows=300)
    module = given.module(PlanesLayout())
    many = torch.arange(20_000) % 300

    def look() -> list[Tensor]:
        rows = module(many, groups)
        return [rows.detach(), *torch.autograd.grad(rows.square().sum(), module.weight)]

    want = look()
    with other_defaults():
        got = look()
    assert_same(got, want)


def test_transforms_under_a_budget(other_defaults: OTHER, generator) -> None:
    given = Given(16, generator)
    module = given.module(ColumnsLayout(4, "int8", 8))
    parameters = {name: each.detach() for name, each in module.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        rows = torch.func.functional_call(module, parameters, (given.indices, given.groups))
        return rows.square().sum()

    def differentiate() -> list[Tensor]:
        with module.budget(BUDGET):
            return list(torch.func.grad(loss)(parameters).values())

    want = differentiate()
    with other_defaults():
        got = differentiate()
    assert_same(got, want)


@pytest.mark.parametrize("layout", [PlanesLayout(rows_per_block=8), ColumnsLayout(4, "int8", 8)])
def test_compiled_calls(layout: Layout, other_defaults: OTHER, generator) -> None:
    given = Given(16, generator)
    module = given.module(layout)

    def look(call: Callable[..., Tensor]) -> list[Tensor]:
        with module.budget(BUDGET):
            rows = call(given.indices, given.groups)
            grads = torch.autograd.grad(rows.square().sum(), module._parameters["weight"])
        return [rows.detach(), *grads, call(given.indices, 1).detach()]

    want = look(module)
    torch.compiler.reset()
    with other_defaults():
        got = look(torch.compile(module, backend="aot_eager", fullgraph=True))
    assert_same(got, want)


def test_a_checkpoint_is_loaded(other_defaults: OTHER, generator) -> None:
    given = Given(16, generator)
    layout = PlanesLayout(rows_per_block=8)
    usual = given.module(layout)
    want = given.seen(usual)
    file = io.BytesIO()
    torch.save(usual.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    with other_defaults():
        module = ElasticEmbedding.from_pretrained(
            torch.zeros_like(given.weight), freeze=False, num_groups=GROUPS, layout=layout
        )
        module.load_state_dict(state)
        got = given.seen(module)
    assert_same(got, want)


def test_state_of_another_dtype_is_loaded_as_that_of_the_module(generator) -> None:
    given = Given(16, generator)
    usual = given.module(PlanesLayout())
    state = {
        name: each.double() if each.is_floating_point() else each.long()
        for name, each in usual.state_dict().items()
    }
    module = ElasticEmbedding(ROWS, 16, num_groups=GROUPS)
    module.load_state_dict(state)
    assert_same(list(module.state_dict().values()), list(usual.state_dict().values()))
    assert_same(given.seen(module), given.seen(usual))


def test_a_model_made_elastic(other_defaults: OTHER, generator) -> None:
    given = Given(16, generator)

    def make() -> list[Tensor]:
        model = nn.Sequential(nn.Embedding.from_pretrained(given.weight.clone(), freeze=False))
        module = replace_embeddings(model, num_groups=GROUPS)["0"]
        module.refine_rows(1, given.refined)
        module.set_row_values(given.values)
        return given.seen(module)

    want = make()
    with other_defaults():
        got = make()
    assert_same(got, want)


@pytest.mark.parametrize("optimiser", [RowwiseAdagrad, SparseAdam])
def test_optimisers_of_rows(optimiser: type, other_defaults: OTHER, generator) -> None:
    given = Given(16, generator)

    def train() -> list[Tensor]:
        module = given.module(PlanesLayout(rows_per_block=8), sparse=True)
        stepping = optimiser([module._parameters["weight"]], lr=0.05)
        for _ in range(3):
            stepping.zero_grad()
            with module.budget(BUDGET):
                module(given.indices, given.groups).square().sum().backward()
            stepping.step()
        return [module._parameters["weight"].detach()]

    want = train()
    with other_defaults():
        got = train()
    assert_same(got, want)


# ---- what nn.Embedding takes from the defaults ----


def test_a_fresh_module_is_what_a_fresh_embedding_is(other_defaults: OTHER) -> None:
    with other_defaults():
        torch.manual_seed(5)
        theirs = nn.Embedding(40, 8)
        torch.manual_seed(5)
        ours = ElasticEmbedding(40, 8, num_groups=2)
    assert ours.weight.dtype == theirs.weight.dtype
    assert ours.weight.device == theirs.weight.device
    assert ours.block_weights.dtype == torch.float32
    assert ours.item_group.dtype == torch.int32
    # Blocks have values even where rows have none yet.
    where = torch.device("cpu") if theirs.weight.is_meta else theirs.weight.device
    assert ours.block_weights.device == ours.item_group.device == where
    if not theirs.weight.is_meta:
        assert torch.equal(ours.weight, theirs.weight)
        indices = torch.arange(40)
        assert torch.equal(ours(indices, 1), theirs(indices))


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
def test_a_default_that_cannot_be_encoded_is_named(name: str) -> None:
    from torch_defaults import torch_defaults

    with torch_defaults(name):
        module = ElasticEmbedding(40, 8)
        with (
            pytest.raises(TypeError, match=f"must be float32 to be encoded, got torch.{name}"),
            module.budget(1_000),
        ):
            pass
        with pytest.raises(TypeError, match=f"must be float32 to be encoded, got torch.{name}"):
            module.generate(0, 1_000)
        with pytest.raises(TypeError, match=f"must be float32 to be refined, got torch.{name}"):
            module.refine_rows(0, torch.tensor([1]))


def test_a_module_made_on_meta_gets_its_values_later(generator) -> None:
    given = Given(16, generator)
    layout = PlanesLayout(rows_per_block=8)
    usual = given.module(layout)
    with torch.device("meta"):
        module = ElasticEmbedding(ROWS, 16, num_groups=GROUPS, layout=layout)
    with pytest.raises(
        ValueError, match="weight must have values to be refined, got one on the meta"
    ):
        module.refine_rows(1, given.refined)
    module.to_empty(device="cpu")
    module.load_state_dict(usual.state_dict())
    assert_same(given.seen(module), given.seen(usual))
