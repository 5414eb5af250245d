"""ElasticEmbedding under torch.compile, torch.export, torch.func and autocast."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.fx import symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.errors import BudgetError

ROWS, DIM, GROUPS = 60, 12, 3
INPUT = torch.tensor([[1, 3, 3, 59], [9, 40, 7, 3]])
OWNERS = torch.tensor([1, 2])

#: How a module may be made, and the budget that keeps some of its blocks and drops others.
CASES = {
    "planes": (PlanesLayout((2, 1, 1, 2, 2), rows_per_block=8), True, 700),
    "planes, not rotated": (PlanesLayout((2, 1, 1, 2, 2), rows_per_block=8), False, 700),
    "columns": (ColumnsLayout(5, "float32", 6), False, 1400),
    "columns, int8": (ColumnsLayout(4, "int8", 6), False, 700),
}


def make(case: str, generator: torch.Generator, **options: object) -> ElasticEmbedding:
    layout, rotated, _ = CASES[case]
    module = ElasticEmbedding.from_pretrained(
        torch.randn(ROWS, DIM, generator=generator), freeze=False, num_groups=GROUPS,
        layout=layout, **options,
    )  # fmt: skip
    module.refine_rows(1, torch.tensor([3, 9]))
    module.refine_rows(2, torch.tensor([3, 40]))
    nn.init.normal_(module.refinement, generator=generator)
    if rotated:
        module.fit_rotation()
    module.set_row_values(worth(generator))
    return module


def worth(generator: torch.Generator) -> Tensor:
    """Row values under which the refined rows are always among those held."""
    values = torch.rand(GROUPS, ROWS, generator=generator)
    values[:, [3, 9, 40]] += 5
    return values


@contextmanager
def maybe_under(module: ElasticEmbedding, budget: int | None) -> Iterator[None]:
    if budget is None:
        yield
        return
    with module.budget(budget):
        yield


def gradients(module: ElasticEmbedding, call: Callable[[], Tensor]) -> dict[str, Tensor]:
    module.zero_grad()
    out = call()
    (out * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name])
        assert want[name].abs().sum() > 0


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["full table", "budget"])
def budget(request: pytest.FixtureRequest, case: str) -> int | None:
    return CASES[case][2] if request.param else None


# ---- torch.compile ----


def assert_compiles(module: ElasticEmbedding, budget: int | None, backend: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    groups = (OWNERS, OWNERS[:, None].expand(INPUT.shape), 1) + (() if budget else (None,))
    for owners in groups:
        with maybe_under(module, budget):
            want = gradients(module, lambda owners=owners: module(INPUT, owners))
            assert_same(gradients(module, lambda owners=owners: compiled(INPUT, owners)), want)
            assert torch.equal(compiled(INPUT, owners), module(INPUT, owners))
            with torch.no_grad():
                module.get_parameter("refinement").mul_(1.5)
                dict(module.named_parameters())["weight"].mul_(-1.25)
                assert torch.equal(compiled(INPUT, owners), module(INPUT, owners))


def test_compiles(case: str, budget: int | None, generator) -> None:
    assert_compiles(make(case, generator), budget, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["planes"])
@pytest.mark.parametrize("limit", [None, 700])
def test_compiles_with_inductor(case: str, limit: int | None, generator) -> None:
    assert_compiles(make(case, generator), limit, "inductor")


@pytest.mark.parametrize("options", [dict(padding_idx=1), dict(scale_grad_by_freq=True)])
@pytest.mark.parametrize("case", ["planes"])
@pytest.mark.parametrize("limit", [None, 700])
def test_compiles_with_options(options: dict, case: str, limit: int | None, generator) -> None:
    assert_compiles(make(case, generator, **options), limit, "aot_eager")


def test_contexts_may_lie_inside_what_is_compiled(case: str, generator) -> None:
    module, budget = make(case, generator), CASES[case][2]

    def forward(input: Tensor) -> tuple[Tensor, Tensor]:
        with module.budget(budget), module.use_groups(2):
            return module(input), module.weight @ module.weight.T

    torch.compiler.reset()
    got = torch.compile(forward, fullgraph=True, backend="aot_eager")(INPUT)
    for one, other in zip(got, forward(INPUT), strict=True):
        assert torch.equal(one, other)
    read = torch.compile(lambda: module.weight * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(read(), module.weight * 2)
    with module.use_groups(2):
        assert torch.equal(read(), module.table(2) * 2)


def test_a_compiled_module_follows_its_budget_and_block_weights(generator) -> None:
    module = make("planes", generator)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    seen = []
    for budget in (500, 1000):
        with module.budget(budget):
            seen.append(compiled(INPUT, 1))
            assert torch.equal(seen[-1], module(INPUT, 1))
    assert not torch.equal(*seen)
    with module.budget(500):
        module.set_row_values(worth(generator).flip(1))
        assert torch.equal(compiled(INPUT, 1), module(INPUT, 1))
        assert not torch.equal(compiled(INPUT, 1), seen[0])
        module.block_weights.zero_()
        module.block_weights[:, -1] = 1.0
        assert torch.equal(compiled(INPUT, 1), module(INPUT, 1))


def test_errors_reach_the_caller_of_what_is_compiled(generator) -> None:
    module = make("planes", generator)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with module.budget(700):
        with pytest.raises(IndexError, match="groups contain 3"):
            compiled(INPUT, torch.tensor([0, 3]))
        with pytest.raises(IndexError, match="indices contain 60"):
            compiled(INPUT + 1, OWNERS)

    def too_small(input: Tensor) -> Tensor:
        with module.budget(70):
            return module(input, 0)

    with pytest.raises(BudgetError, match="needs at least"):
        torch.compile(too_small, fullgraph=True, backend="aot_eager")(INPUT)


@pytest.mark.parametrize(
    "options", [dict(), dict(padding_idx=3), dict(scale_grad_by_freq=True)], ids=str
)
def test_sparse_gradients_of_what_is_compiled_are_the_dense_ones(
    case: str, budget: int | None, options: dict, generator
) -> None:
    module = make(case, generator, sparse=True, **options)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with maybe_under(module, budget):
        found = gradients(module, lambda: compiled(INPUT, OWNERS))
        assert all(gradient.is_sparse for gradient in found.values())
        module.sparse = False
        want = gradients(module, lambda: module(INPUT, OWNERS))
    assert_same({name: gradient.to_dense() for name, gradient in found.items()}, want)


def test_compiled_sparse_gradients_hold_no_rows_that_took_no_part(generator) -> None:
    module = make("planes", generator, sparse=True, padding_idx=3)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    weights = torch.ones(*INPUT.shape, 1)
    weights[INPUT == 3] = torch.nan  # of the padding, whose gradient is dropped
    found = {}
    for name, call in (("eager", module), ("compiled", compiled)):
        module.zero_grad()
        (call(INPUT, OWNERS) * weights).sum().backward()
        found[name] = [each.grad for each in module.parameters() if each.grad is not None]
    for eager, traced in zip(found["eager"], found["compiled"], strict=True):
        torch.testing.assert_close(traced.to_dense(), eager.to_dense())
        assert set(traced._indices()[0].tolist()) == set(eager._indices()[0].tolist())
        assert traced.to_dense().isfinite().all()


def test_compiled_sparse_gradients_of_a_refinement_without_rows(generator) -> None:
    module = ElasticEmbedding(ROWS, DIM, num_groups=GROUPS, sparse=True)
    module.refine_rows(1, torch.empty(0, dtype=torch.int64))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    compiled(INPUT, OWNERS).sum().backward()
    want = torch.zeros(ROWS, DIM).index_add(0, INPUT.reshape(-1), torch.ones(8, DIM))
    assert torch.equal(module.weight.grad.to_dense(), want)


def test_sparse_gradients_are_refused_under_function_transforms(generator) -> None:
    module = make("planes", generator, sparse=True)
    parameters = {name: each.detach() for name, each in module.named_parameters()}
    with pytest.raises(ValueError, match=r"sparse=True is not supported under torch\.func"):
        grad(lambda values: functional_call(module, values, (INPUT, OWNERS)).sum())(parameters)


# ---- torch.export ----


def test_exports(case: str, budget: int | None, generator) -> None:
    module = make(case, generator)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"input": {0: batch}, "groups": {0: batch}}
    with maybe_under(module, budget):
        program = torch.export.export(module, (INPUT, OWNERS), dynamic_shapes=shapes)
        want = module(INPUT.repeat(3, 1), OWNERS.repeat(3))
    exported = program.module()
    assert torch.equal(exported(INPUT.repeat(3, 1), OWNERS.repeat(3)), want)
    assert {"weight", "refinement"} <= set(dict(exported.named_parameters()))


def test_exports_as_an_embedding_of_torch_where_it_is_one() -> None:
    program = torch.export.export(ElasticEmbedding(9, 4), (torch.tensor([1, 2]),))
    calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert calls == {"aten.embedding.default"}


# ---- torch.func ----


def as_function(
    module: ElasticEmbedding, owners: Tensor | int | None
) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    def loss(parameters: dict[str, Tensor], input: Tensor) -> Tensor:
        out = functional_call(module, parameters, (input, owners))
        return (out * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum()

    return loss


@pytest.mark.parametrize("options", [{}, dict(padding_idx=3), dict(scale_grad_by_freq=True)])
def test_gradients_of_functions(options: dict, case: str, budget: int | None, generator) -> None:
    module = make(case, generator, **options)
    parameters = dict(module.named_parameters())
    for owners in (OWNERS, 1):
        with maybe_under(module, budget):
            want = gradients(module, lambda owners=owners: module(INPUT, owners))
            assert_same(grad(as_function(module, owners))(parameters, INPUT), want)


def test_functional_call_takes_other_parameters(case: str, budget: int | None, generator) -> None:
    module = make(case, generator)
    twin = make(case, generator)
    twin.load_state_dict({**module.state_dict(), "weight": torch.randn(ROWS, DIM)})
    other = {"weight": dict(twin.named_parameters())["weight"].detach()}
    with maybe_under(module, budget), maybe_under(twin, budget):
        before = module(INPUT, OWNERS)
        got = functional_call(module, other, (INPUT, OWNERS))
        assert torch.equal(got, twin(INPUT, OWNERS))
        other["weight"].mul_(2)
        assert torch.equal(
            functional_call(module, other, (INPUT, OWNERS)), twin(INPUT, OWNERS)
        )  # twin's own weight is that memory
        assert torch.equal(module(INPUT, OWNERS), before)


def test_maps_over_pairs(case: str, budget: int | None, generator) -> None:
    module = make(case, generator)
    with maybe_under(module, budget):
        want = module(INPUT, OWNERS)
        assert torch.equal(vmap(module)(INPUT, OWNERS), want)
        assert torch.equal(vmap(module, in_dims=(1, None), out_dims=1)(INPUT, OWNERS), want)
        assert torch.equal(vmap(lambda input: module(input, 1))(INPUT), module(INPUT, 1))
        one = torch.tensor([5])
        rows = vmap(lambda owner: module(one, owner))(torch.arange(3)[:, None])
        assert torch.equal(rows, module(one.expand(3, 1), torch.arange(3)))


def test_gradients_per_sample(case: str, budget: int | None, generator) -> None:
    module = make(case, generator)
    parameters = dict(module.named_parameters())

    def loss(parameters: dict[str, Tensor], input: Tensor, owner: Tensor) -> Tensor:
        return functional_call(module, parameters, (input, owner)).square().sum()

    with maybe_under(module, budget):
        each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, INPUT, OWNERS)
        for sample in range(2):
            alone = grad(loss)(parameters, INPUT[sample], OWNERS[sample])
            for name, value in alone.items():
                torch.testing.assert_close(each[name][sample], value)


def test_forward_mode_and_second_derivatives(case: str, budget: int | None, generator) -> None:
    module = make(case, generator)
    parameters = dict(module.named_parameters())

    def scaled(factor: Tensor) -> Tensor:
        now = {name: value * factor for name, value in parameters.items()}
        return functional_call(module, now, (INPUT, OWNERS)).square().sum()

    one = torch.tensor(1.0)
    with maybe_under(module, budget):
        _, tangent = jvp(scaled, (one,), (one,))
        torch.testing.assert_close(tangent, grad(scaled)(one))
        assert hessian(scaled)(one) > 0


@pytest.mark.parametrize("count", [5, 20_000])
@pytest.mark.parametrize("recorded", [False, True])
def test_forward_mode_follows_tangents(
    count: int, recorded: bool, case: str, budget: int | None, generator
) -> None:
    module = make(case, generator)
    input = torch.arange(count) % ROWS
    weight = module.get_parameter("weight").detach().requires_grad_(recorded)
    tangent = torch.randn(ROWS, DIM, generator=generator)
    module.refinement = None
    module.refinement_slot = None

    def call(weight: Tensor) -> Tensor:
        with maybe_under(module, budget):
            return functional_call(module, {"weight": weight}, (input, 1))

    with forward_ad.dual_level():
        rows = call(forward_ad.make_dual(weight, tangent))
        got = forward_ad.unpack_dual(rows).tangent
        assert torch.equal(forward_ad.unpack_dual(rows).primal, call(weight))
    _, want = jvp(call, (weight,), (tangent,))
    assert torch.equal(got, want)
    assert want.abs().sum() > 0


def test_batches_of_gradients(case: str, budget: int | None, generator) -> None:
    module = make(case, generator)
    for input in (INPUT, torch.arange(20_000) % ROWS):
        with maybe_under(module, budget):
            rows = module(input, 1)
        upstream = torch.randn(2, *rows.shape, generator=generator)
        weight = module.get_parameter("weight")
        batched = torch.autograd.grad(
            rows, weight, upstream, is_grads_batched=True, retain_graph=True
        )[0]
        for one, other in zip(batched, upstream, strict=True):
            want = torch.autograd.grad(rows, weight, other, retain_graph=True)[0]
            torch.testing.assert_close(one, want)


def test_mapping_over_encoded_tables_is_refused(generator) -> None:
    module = make("planes", generator)
    weights = torch.randn(2, ROWS, DIM, generator=generator)

    def call(weight: Tensor) -> Tensor:
        return functional_call(module, {"weight": weight}, (INPUT, OWNERS))

    assert torch.equal(vmap(call)(weights)[1], call(weights[1]))
    with module.budget(700), pytest.raises(ValueError, match="not over the table itself"):
        vmap(call)(weights)


# ---- autocast ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_changes_rows_as_little_as_those_of_torch(
    dtype: torch.dtype, compiled: bool, case: str, budget: int | None, generator
) -> None:
    module = make(case, generator)
    call = module
    if compiled:
        torch.compiler.reset()
        call = torch.compile(module, fullgraph=True, backend="aot_eager")
    with maybe_under(module, budget):
        want = gradients(module, lambda: module(INPUT, OWNERS))
        rows = module(INPUT, OWNERS)
        with torch.no_grad():
            dict(module.named_parameters())["weight"].add_(0)  # what was derived is derived anew
        with torch.autocast("cpu", dtype):
            assert F.embedding(INPUT, torch.rand(60, 4)).dtype == torch.float32
            assert torch.equal(call(INPUT, OWNERS), rows)
            assert (call(INPUT, OWNERS) @ torch.rand(DIM, 2)).dtype == dtype
            assert_same(gradients(module, lambda: call(INPUT, OWNERS)), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_refined_rows_of_other_dtypes(dtype: torch.dtype, compiled: bool, generator) -> None:
    module = make("columns", generator, padding_idx=3).to(dtype)
    call = module
    if compiled:
        torch.compiler.reset()
        call = torch.compile(module, fullgraph=True, backend="aot_eager")
    rows = call(INPUT, OWNERS)
    assert rows.dtype == dtype
    want = module.weight[INPUT]
    slots = module.refinement_slot[OWNERS[:, None], INPUT]
    want = torch.where((slots < 0)[..., None], want, want + module.refinement[slots.clamp(min=0)])
    assert torch.equal(rows, want)
    found = gradients(module, lambda: call(INPUT, OWNERS))
    assert found["weight"][3].abs().sum() == 0
    assert found["refinement"][0].abs().sum() == 0  # of row 3, the padding
    assert found["refinement"][3].abs().sum() > 0
    if not compiled:
        with pytest.raises(IndexError, match="groups contain 3"):
            module(INPUT, torch.tensor([0, 3]))
        with pytest.raises(IndexError, match="group must be in"):
            module(INPUT, 3)


# ---- other tracers ----


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_function_looks_up_what_it_is_given(
    case: str, budget: int | None, generator
) -> None:
    module = make(case, generator)
    many = torch.arange(20_000) % ROWS  # enough for our kernel where nothing is traced
    for first, second in ((INPUT, INPUT.flip(1).repeat(3, 1)), (many, many.flip(0)[:-5])):
        with maybe_under(module, budget), module.use_groups(1), torch.no_grad():
            scripted = torch.jit.trace(module, first)
            assert torch.equal(scripted(second), module(second))
            # A graph of real values has their sizes, but not the values.
            graph = make_fx(lambda input: module(input), tracing_mode="real")(first)
            assert torch.equal(graph(first.flip(0)), module(first.flip(0)))
    with module.use_groups(1), maybe_under(module, budget), torch.no_grad():
        trained = torch.jit.trace(nn.Sequential(module, nn.Linear(DIM, 2)), INPUT)
        file = io.BytesIO()
        torch.jit.save(trained, file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(INPUT.flip(0)), trained(INPUT.flip(0)))


def test_a_traced_gradient_is_that_of_what_it_is_given(
    case: str, budget: int | None, generator
) -> None:
    module = make(case, generator)

    def gradient(input: Tensor, weight: Tensor) -> Tensor:
        with maybe_under(module, budget):
            rows = functional_call(module, {"weight": weight}, (input, 1))
        return torch.autograd.grad(rows.square().sum(), weight)[0]

    weight = module.get_parameter("weight")
    traced = make_fx(gradient)(INPUT, weight)
    other = INPUT.flip(1) // 2
    assert torch.equal(traced(other, weight), gradient(other, weight))


def test_symbolic_traces_are_right_or_refused(generator) -> None:
    module = make("planes", generator)
    model = nn.Sequential(module, nn.Linear(DIM, 2))
    assert torch.equal(symbolic_trace(model)(INPUT), model(INPUT))
    for context in (module.use_groups(1), module.budget(700)):
        with context, module.use_groups(1), pytest.raises(TypeError, match="got Proxy"):
            symbolic_trace(model)


def test_no_graph_depends_on_the_number_of_indices() -> None:
    module = ElasticEmbedding(ROWS, DIM)
    batch = torch.export.Dim("batch")
    for size in (10, 20_000):
        for strict in (False, True):
            program = torch.export.export(
                module, (torch.zeros(size, dtype=torch.int64),), dynamic_shapes=({0: batch},),
                strict=strict,
            )  # fmt: skip
            for other in (3, 30_000):
                assert program.module()(torch.zeros(other, dtype=torch.int64)).shape[0] == other
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, dynamic=True)
    for size in (10, 100, 17_000, 50_000, 3):
        compiled(torch.zeros(size, dtype=torch.int64))
    assert counter.frame_count == 1


@pytest.mark.parametrize("named", [False, True])
def test_no_graph_is_made_for_every_group(case: str, budget: int | None, named: bool) -> None:
    layout, _, _ = CASES[case]
    module = ElasticEmbedding(ROWS, DIM, num_groups=20, layout=layout)
    module.refine_rows(3, torch.tensor([3, 9]))
    nn.init.normal_(module.refinement)
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for group in range(20):
        with maybe_under(module, budget), torch.no_grad():
            if named:
                assert torch.equal(compiled(INPUT, group), module(INPUT, group))
            else:
                with module.use_groups(group):
                    assert torch.equal(compiled(INPUT), module(INPUT))
    assert counter.frame_count <= 3


def test_tensors_of_other_kinds_see_their_lookup(generator) -> None:
    """Quantised weights are subclasses that take F.embedding over; a budget says what to do."""
    module = ElasticEmbedding(ROWS, DIM)
    plain = module.weight.detach().clone()
    module.weight = nn.Parameter(Negated(plain), requires_grad=False)
    assert torch.equal(module(INPUT), -plain[INPUT])
    with pytest.raises(TypeError, match=r"one plain tensor .*, got a Negated: make a module of"):
        module.generate(0, 10**6)
    with pytest.raises(TypeError, match="one plain tensor"), module.budget(10**6):
        module(INPUT)


@pytest.mark.parametrize("groups", [None, 1, torch.arange(8).view(2, 4) % GROUPS])
def test_modes_see_the_lookup_in_the_table_of_all_groups(groups) -> None:
    module = ElasticEmbedding(ROWS, DIM, num_groups=GROUPS)
    with torch.no_grad(), Functions() as mode:
        module(INPUT, groups)
    assert F.embedding in mode.called


class Functions(TorchFunctionMode):
    """Says which functions were called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Callable[..., object]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.called.append(func)
        return func(*args, **(kwargs or {}))


class Negated(Tensor):
    """Stands for minus the values it is made of."""

    @staticmethod
    def __new__(cls, values: Tensor) -> Negated:
        return Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    def __init__(self, values: Tensor) -> None:
        self.values_kept = values

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values_kept"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Negated(args[0].values_kept)
        assert func is torch.ops.aten.embedding.default
        return -func(args[0].values_kept, *args[1:])
