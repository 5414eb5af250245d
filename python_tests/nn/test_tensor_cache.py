"""What a module keeps is never older than what it was derived from."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.format import Layout
from peel_ext.nn import tensor_cache
from peel_ext.nn.tensor_cache import TensorCache, derive
from peel_ext.optim import RowwiseAdagrad

BUDGET = 600
EVERY = torch.arange(64)
LAYOUTS = [PlanesLayout(rows_per_block=8), ColumnsLayout(4, "int8", 8)]


def make(layout: Layout, generator: torch.Generator, sparse: bool = True) -> ElasticEmbedding:
    module = ElasticEmbedding.from_pretrained(
        torch.randn(64, 8, generator=generator), freeze=False, num_groups=2, layout=layout,
        sparse=sparse,
    )  # fmt: skip
    module.refine_rows(1, torch.tensor([3, 9]))
    nn.init.normal_(module.refinement, generator=generator)
    if layout.nested:
        module.fit_rotation()
    values = torch.rand(2, 64, generator=generator)
    values[:, [3, 9]] += 1
    module.set_row_values(values)
    return module


def seen(module: ElasticEmbedding) -> list[Tensor]:
    """What every kind of call sees."""
    with torch.no_grad():
        full = [module(EVERY), module(EVERY, 1), module(EVERY, EVERY % 2)]
        with module.budget(BUDGET):
            held = [module(EVERY, 0), module(EVERY, 1), module.table(1)]
        decoded = torch.from_numpy(module.generate(1, BUDGET).lookup(EVERY.numpy()))
        if module.rotation is not None:
            decoded = decoded @ module.rotation.T
        torch.testing.assert_close(held[1], decoded)
        return [*full, *held]


def optimizer_step(module: ElasticEmbedding, optimizer: torch.optim.Optimizer) -> None:
    module(EVERY, 1).square().sum().backward()
    if not isinstance(optimizer, RowwiseAdagrad):
        for parameter in module.parameters():
            parameter.grad = parameter.grad.to_dense()
    optimizer.step()


def replace_data(module: ElasticEmbedding) -> None:
    module.weight.data = module.weight.data * 2


def unseen_edit(module: ElasticEmbedding) -> None:
    module.weight.data.mul_(2)
    torch.autograd.graph.increment_version(module.weight)


def load(module: ElasticEmbedding) -> None:
    state = module.state_dict()
    module.load_state_dict({**state, "weight": state["weight"] * 2})


@torch.no_grad()
def write_in_place(module: ElasticEmbedding) -> None:
    module.weight[3].add_(1)


@torch.inference_mode()
def write_in_inference_mode(module: ElasticEmbedding) -> None:
    module.weight[3].add_(1)


def turn(module: ElasticEmbedding) -> None:
    """The same memory, read the other way."""
    if module.rotation is None:
        write_in_place(module)
    else:
        module.rotation = module.rotation.T


CHANGES: dict[str, Callable[[ElasticEmbedding], object]] = {
    "in place": write_in_place,
    "in inference mode": write_in_inference_mode,
    "load_state_dict": load,
    "Adam": lambda m: optimizer_step(m, torch.optim.Adam(m.parameters(), lr=0.1)),
    "foreach Adagrad": lambda m: optimizer_step(
        m, torch.optim.Adagrad(m.parameters(), lr=0.1, foreach=True)
    ),
    "fused Adam": lambda m: optimizer_step(m, torch.optim.Adam(m.parameters(), 0.1, fused=True)),
    "fused SGD": lambda m: optimizer_step(m, torch.optim.SGD(m.parameters(), 0.1, fused=True)),
    "another refinement": lambda m: setattr(m, "refinement", nn.Parameter(m.refinement * 2)),
    "the rotation turned": lambda m: turn(m),
    "RowwiseAdagrad": lambda m: optimizer_step(m, RowwiseAdagrad(m.parameters(), lr=0.1)),
    "new Parameter": lambda m: setattr(m, "weight", nn.Parameter(m.weight.detach() * 2)),
    "other memory": replace_data,
    "unseen edit, then told": unseen_edit,
    "conversion there and back": lambda m: m.to(torch.bfloat16).to(torch.float32),
    "refinement": lambda m: nn.init.zeros_(m.refinement),
    "more refinements": lambda m: m.refine_rows(0, torch.tensor([3])) or nn.init.ones_(m.refinement),
    "block weights": lambda m: m.block_weights.copy_(m.block_weights.flip(0, 1)),
    "row values": lambda m: m.set_row_values(torch.arange(128.0).view(2, 64)),
}  # fmt: skip


@pytest.fixture(params=["native", "plain"])
def marks(request, monkeypatch) -> None:
    """Changes are looked for in native code, or as where torch does not offer what that calls."""
    if request.param == "plain":
        monkeypatch.setattr(tensor_cache, "stamp_of", lambda tensors: None)


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", CHANGES)
def test_follows_every_change(change: str, layout: Layout, generator) -> None:
    module = make(layout, generator)
    before = [one.clone() for one in seen(module)]
    CHANGES[change](module)
    now = seen(module)
    assert any(not torch.equal(one, other) for one, other in zip(now, before, strict=True))
    fresh = copy.deepcopy(module)  # keeps nothing of what was derived
    assert not len(fresh._cache)
    for one, other in zip(now, seen(fresh), strict=True):
        assert torch.equal(one, other)


def test_follows_changes_inside_a_context(generator) -> None:
    module = make(LAYOUTS[0], generator)
    with module.budget(BUDGET):
        for change in ("in place", "more refinements", "block weights", "row values"):
            before = module.table(1)
            CHANGES[change](module) if change != "in place" else _double(module)
            after = module.table(1)
            assert not torch.equal(before, after)
            fresh = copy.deepcopy(module)
            assert fresh.budget_bytes is None
            with fresh.budget(BUDGET):
                assert torch.equal(after, fresh.table(1))


@torch.no_grad()
def _double(module: ElasticEmbedding) -> None:
    dict(module.named_parameters())["weight"].mul_(2)


@pytest.mark.usefixtures("marks")
def test_a_smaller_table_in_the_same_memory(generator) -> None:
    module = ElasticEmbedding.from_pretrained(torch.randn(64, 8, generator=generator), num_groups=2)
    many = torch.zeros(20_000, dtype=torch.int64)  # enough to be looked up by the kernel
    module(many)
    module.weight.data = module.weight.data[:10]
    many[17] = 10
    with pytest.raises(IndexError):
        module(many)


def test_memory_that_is_used_again_is_not_taken_for_the_old(generator) -> None:
    module = make(LAYOUTS[0], generator)
    twin = copy.deepcopy(module)
    for _ in range(6):
        values = torch.randn(64, 8, generator=generator)
        module.weight = None
        gc.collect()
        module.weight = nn.Parameter(values.clone())
        twin.load_state_dict({**twin.state_dict(), "weight": values})
        with module.budget(BUDGET), twin.budget(BUDGET):
            assert torch.equal(module.table(0), twin.table(0))


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("transposed", [False, True])
def test_data_at_an_address_of_before_is_seen(transposed: bool, generator) -> None:
    def values() -> Tensor:
        made = torch.randn(64 * 8, generator=generator)
        return made.view(8, 64).T if transposed else made.view(64, 8)

    module = ElasticEmbedding(64, 8, num_groups=2)
    module.weight = nn.Parameter(values(), requires_grad=False)
    module.refine_rows(1, torch.tensor([3]))
    for _ in range(6):
        module(EVERY, 0)
        where = module.weight.data_ptr()
        module.weight.data = values()  # what was the memory of the weight is free now
        module.weight.data = next(
            (new for new in _some(values) if new.data_ptr() == where), values()
        )
        assert torch.equal(module(EVERY, 0), module.weight)


def _some(make_one: Callable[[], Tensor]) -> list[Tensor]:
    return [make_one() for _ in range(30)]


def test_inference_tensors_that_became_data_are_never_kept(generator) -> None:
    module = make(LAYOUTS[0], generator)
    with torch.inference_mode():
        values = torch.randn(64, 8, generator=generator)
    module.weight.data = values
    first = seen(module)
    with torch.inference_mode():
        values.mul_(3)
    assert not torch.equal(seen(module)[3], first[3])


def test_inference_tensors_are_never_kept(generator) -> None:
    with torch.inference_mode():
        module = make(LAYOUTS[0], generator)
        first = seen(module)
        module.weight.mul_(3)
        assert not torch.equal(seen(module)[3], first[3])
        assert torch.equal(seen(module)[0], 3 * first[0])


def test_unchanged_is_not_computed_again(generator, monkeypatch) -> None:
    module = make(LAYOUTS[0], generator, sparse=False)
    calls = []
    encode = PlanesLayout.encode
    monkeypatch.setattr(
        PlanesLayout, "encode", lambda self, rows: calls.append(1) or encode(self, rows)
    )
    for budget in (BUDGET, BUDGET + 500, BUDGET):
        with module.budget(budget):
            module(EVERY, 1)
            compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
            with torch.no_grad():
                compiled(EVERY, 1)
        module.generate(0, budget)
    assert len(calls) == 1
    _double(module)
    with module.budget(BUDGET):
        module(EVERY, 1)
        module(EVERY, 0)
    assert len(calls) == 2


def test_keeps_the_memory_of_what_it_was_derived_from() -> None:
    cache = TensorCache()
    source = torch.zeros(1000)
    where = source.data_ptr()
    cache.derive("a", (source,), lambda: 1)
    del source
    assert where not in [one.data_ptr() for one in [torch.zeros(1000) for _ in range(50)]]
    del cache
    gc.collect()


def test_conversions_leave_the_worth_of_blocks_exact(generator) -> None:
    module = make(LAYOUTS[0], generator)
    worth, rotation = module.block_weights.clone(), module.rotation.clone()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        assert module.to(dtype).weight.dtype == dtype
        assert module.refinement.dtype == dtype
        assert torch.equal(module.block_weights, worth)
        assert torch.equal(module.rotation, rotation)


def test_values_live_as_long_as_their_owner() -> None:
    source = torch.zeros(3)
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    assert [derive("a", (source,), compute) for _ in range(2)] == [1, 2]  # nobody keeps it
    cache = TensorCache()
    assert [cache.derive("a", (source,), compute) for _ in range(2)] == [3, 3]
    assert derive("a", (source, None), compute) == 4
    assert derive("b", (source,), compute) == 5
    assert derive("a", (source,), compute) == 3  # found where it is kept
    source.add_(1)
    assert derive("a", (source,), compute) == 6  # and brought up to date there
    assert cache.derive("a", (source,), compute) == 6
    assert derive("a", (source[:2],), compute) == 7
    del cache
    gc.collect()
    assert derive("a", (source,), compute) == 8


@torch.no_grad()
def test_counters_that_agree_by_chance_do_not_share_what_is_kept(generator) -> None:
    """Two modules over one memory, each with a counter of its own."""
    one = ElasticEmbedding.from_pretrained(torch.randn(64, 8, generator=generator))
    other = ElasticEmbedding(64, 8)
    other.weight = nn.Parameter(one.weight.data)
    one.weight.mul_(2)
    with one.budget(BUDGET):
        before = one(EVERY)
    for _ in range(one.weight._version - other.weight._version):
        other.weight.mul_(3)
    assert other.weight._version == one.weight._version
    with other.budget(BUDGET):
        assert torch.equal(other.weight, other(EVERY))
        assert not torch.equal(other(EVERY), before)


def test_a_blend_shares_what_is_kept_of_a_trained_weight(generator, monkeypatch) -> None:
    module = make(LAYOUTS[0], generator)
    _double(module)
    with module.budget(BUDGET):
        module(EVERY, 1)
    monkeypatch.setattr(PlanesLayout, "encode", lambda self, rows: pytest.fail("encoded again"))
    blended = module.blend(torch.eye(2))
    blended.refinement_slot = module.refinement_slot
    with blended.budget(BUDGET):
        assert torch.equal(blended(EVERY, 1), blended.table(1))


class OnDevice:
    """A tensor that says it is on a CUDA device."""

    is_cuda, device = True, "cuda:0"

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def detach(self) -> OnDevice:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


def test_what_is_kept_of_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append(f"wait {device}"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    source: Any = OnDevice(torch.ones(3))

    def compute() -> int:
        done.append("compute")
        return 5

    cache = TensorCache()
    for _ in range(2):
        assert cache.derive("kind", (source, None), compute) == 5
    assert done == ["compute", "wait cuda:0"]
    source.add_(1)
    assert cache.derive("kind", (source, None), compute) == 5
    assert done == ["compute", "wait cuda:0"] * 2
    assert derive("other", (source, None), compute) == 5  # for the stream that asks alone
    assert done == [*["compute", "wait cuda:0"] * 2, "compute"]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert cache.derive("kind", (source, None), compute) == 5
    source.add_(1)
    with pytest.raises(RuntimeError, match="cannot be made while a CUDA graph is captured"):
        cache.derive("kind", (source, None), compute)
    assert done[-1] == "compute"
    assert len(done) == 5


def test_gradients_go_to_the_parameters_of_now(generator) -> None:
    module = make(LAYOUTS[0], generator, sparse=False)
    for budget in (None, BUDGET):
        old = module.refinement

        def call(module=module, budget=budget) -> Tensor:
            if budget is None:
                return module(EVERY, 1)
            with module.budget(budget):
                return module(EVERY, 1)

        call().sum().backward()
        old.grad = None
        module.refinement = nn.Parameter(old.detach())  # the same memory
        call().sum().backward()
        assert old.grad is None
        assert module.refinement.grad.abs().sum() > 0
        module.refinement = nn.Parameter(old.detach()[:1])
        with pytest.raises((IndexError, ValueError)):
            call()
        module.refinement = old


def test_values_of_many_budgets_do_not_pile_up(generator) -> None:
    module = make(LAYOUTS[0], generator)
    for budget in range(600, 700):
        with module.budget(budget):
            module(EVERY, 1)
    assert len(module._cache) <= 16


def test_what_every_budget_needs_is_not_made_again(generator, monkeypatch) -> None:
    module, made = make(LAYOUTS[0], generator), []
    encode = PlanesLayout.encode
    monkeypatch.setattr(
        PlanesLayout, "encode", lambda self, rows: made.append(1) or encode(self, rows)
    )
    for budget in range(600, 700):
        with module.budget(budget):
            module(EVERY, 1)
    assert len(made) == 1


def test_which_rows_are_refined_is_looked_for_when_that_changes(generator, monkeypatch) -> None:
    """A device is waited for there: not at every step of training."""
    module, looked = make(LAYOUTS[0], generator), []
    find = Tensor.nonzero
    monkeypatch.setattr(
        Tensor, "nonzero", lambda self, **options: looked.append(1) or find(self, **options)
    )
    for count, change in enumerate([lambda: None, lambda: module.refine_rows(0, EVERY[:1])], 1):
        change()
        for _ in range(3):
            _double(module)
            seen(module)
        assert len(looked) == count


def test_columns_that_lie_apart_are_seen_as_they_are(generator) -> None:
    module = ElasticEmbedding(100, 8)
    module.weight = nn.Parameter(torch.randn(8, 100, generator=generator).t())
    many = torch.arange(20_000) % 100
    module(many)
    module.weight.data.mul_(2)
    assert torch.equal(module(many), nn.functional.embedding(many, module.weight))


def test_memory_of_the_weight_can_still_be_resized(generator) -> None:
    """As what shards parameters does between calls."""
    module = ElasticEmbedding(100, 8, num_groups=2)
    module.set_row_values(torch.rand(2, 100, generator=generator))
    with module.budget(10_000):
        module(torch.arange(3), 1)
    assert module.weight.untyped_storage().resizable()
