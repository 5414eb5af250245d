"""What is in force for a module belongs to the context that entered it, and cannot be edited in vain."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import CheckpointError, checkpoint

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout

ROWS, DIM, GROUPS, BUDGET = 60, 12, 3, 900
EVERY = torch.arange(ROWS)
LAYOUTS = [PlanesLayout(rows_per_block=8), ColumnsLayout(4, "int8", 6)]


def make(generator: torch.Generator, layout=LAYOUTS[0]) -> ElasticEmbedding:
    weight = torch.randn(ROWS, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(
        weight, freeze=False, num_groups=GROUPS, layout=layout
    )
    module.refine_rows(1, torch.tensor([3, 9]))
    nn.init.normal_(module.refinement, generator=generator)
    module.set_row_values(torch.rand(GROUPS, ROWS, generator=generator))
    return module


# ---- contexts ----


def test_threads_have_a_budget_each(generator) -> None:
    module = make(generator)
    meet = threading.Barrier(2)
    seen: dict[int, list[int | None]] = {}

    def run(budget: int) -> None:
        with module.budget(budget):
            meet.wait(10)
            seen[budget] = [module.budget_bytes]
            meet.wait(10)
        seen[budget].append(module.budget_bytes)

    threads = [threading.Thread(target=run, args=(budget,)) for budget in (900, 1500)]
    with module.budget(1200):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert module.budget_bytes == 1200
    assert seen == {900: [900, None], 1500: [1500, None]}
    assert module.budget_bytes is None


def test_tasks_have_a_budget_each(generator) -> None:
    module = make(generator)
    seen: list[bool] = []

    async def run(budget: int, group: int) -> None:
        with module.budget(budget), module.use_groups(group):
            want = module(EVERY)
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(module.budget_bytes == budget and torch.equal(module(EVERY), want))

    async def run_all() -> None:
        await asyncio.gather(*(run(900 + 100 * at, at % GROUPS) for at in range(5)))

    asyncio.run(run_all())
    assert seen == [True] * 15
    assert module.budget_bytes is None


def test_a_context_may_end_in_another_context_than_it_began_in(generator) -> None:
    module = make(generator)

    async def begin():
        with module.budget(900):
            yield module.budget_bytes

    async def run() -> None:
        opened = begin()
        assert await anext(opened) == 900
        await asyncio.create_task(opened.aclose())

    asyncio.run(run())
    assert module.budget_bytes is None


def test_a_generator_that_ends_elsewhere_leaves_budgets_alone(generator) -> None:
    module = make(generator)

    def begin():
        with module.budget(900):
            yield

    opened = begin()
    thread = threading.Thread(target=next, args=(opened,))
    thread.start()
    thread.join()
    with module.budget(1500):
        opened.close()
        assert module.budget_bytes == 1500
    assert module.budget_bytes is None


def test_compiled_code_is_free_once_all_tasks_have_ended(generator) -> None:
    module = make(generator)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager")

    async def run(budget: int, wait: float) -> None:
        await asyncio.sleep(wait)
        with module.budget(budget), module.use_groups(1):
            await asyncio.sleep(0.02)

    async def run_all() -> None:
        await asyncio.gather(run(900, 0), run(1500, 0.01))

    asyncio.run(run_all())
    assert torch.equal(compiled(EVERY, 1), module(EVERY, 1))


# ---- checkpoints, which compute again in the backward ----


def gradient_of(module: ElasticEmbedding, call: Callable[[], Tensor]) -> Tensor:
    module.zero_grad()
    call().square().sum().backward()
    return module.get_parameter("weight").grad


@pytest.mark.parametrize("is_entered", ["budget", "groups", "both"])
def test_reentrant_checkpoints_are_refused_inside_a_context(is_entered: str, generator) -> None:
    module = make(generator)
    factor = torch.ones((), requires_grad=True)

    def call(factor: Tensor) -> Tensor:
        return module(EVERY, 1 if is_entered == "budget" else None) * factor

    with contextlib.ExitStack() as stack:
        if is_entered != "groups":
            stack.enter_context(module.budget(BUDGET))
        if is_entered != "budget":
            stack.enter_context(module.use_groups(1))
        with pytest.raises(RuntimeError, match="pass use_reentrant=False to checkpoint"):
            checkpoint(call, factor, use_reentrant=True)
        want = gradient_of(module, lambda: call(factor))
        got = gradient_of(module, lambda: checkpoint(call, factor, use_reentrant=False))
        assert torch.equal(got, want)
        with torch.no_grad():
            assert module(EVERY, 1).shape == (ROWS, DIM)
    if is_entered == "budget":
        with module.budget(BUDGET):
            rows = checkpoint(call, factor, use_reentrant=False)
        with pytest.raises(CheckpointError):  # torch sees that it is another computation
            rows.sum().backward()


def test_reentrant_checkpoints_may_enter_a_context_themselves(generator) -> None:
    module = make(generator)
    factor = torch.ones((), requires_grad=True)

    def call(factor: Tensor) -> Tensor:
        with module.budget(BUDGET), module.use_groups(1):
            return module(EVERY) * factor

    want = gradient_of(module, lambda: call(factor))
    assert torch.equal(
        gradient_of(module, lambda: checkpoint(call, factor, use_reentrant=True)), want
    )


def test_a_context_may_be_entered_inside_itself(generator) -> None:
    module = make(generator)
    within = module.budget(BUDGET)
    with within, module.budget(1500), within:
        assert module.budget_bytes == BUDGET
    assert module.budget_bytes is None

    @within
    def call() -> int | None:
        return module.budget_bytes

    assert call() == BUDGET
    assert module.budget_bytes is None


def test_a_copy_is_in_no_context(generator) -> None:
    module = make(generator)
    with module.budget(BUDGET), module.use_groups(1):
        for twin in (copy.copy(module), copy.deepcopy(module)):
            assert twin.budget_bytes is None
            with twin.budget(1500):
                assert module.budget_bytes == BUDGET


def test_a_replica_for_another_thread_sees_what_is_in_force(generator) -> None:
    module = make(generator)
    with module.budget(BUDGET), module.use_groups(1):
        want = module(EVERY)
        replica = module._replicate_for_data_parallel()
    replica._parameters = dict(module._parameters)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(replica(EVERY)))
    thread.start()
    thread.join()
    assert torch.equal(seen[0], want)
    assert not torch.equal(module(EVERY), want)


def test_reading_the_weight_renormalises_nothing(generator) -> None:
    rows = 5 * torch.randn(ROWS, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(rows.clone(), max_norm=1.0)
    with module.budget(10**6):
        assert module.weight.norm(dim=1).max() > 1
    assert torch.equal(module.weight, rows)
    with module.budget(10**6):
        module(EVERY[:3])
    assert (module.weight[:3].norm(dim=1) < 1.001).all()
    assert torch.equal(module.weight[3:], rows[3:])


def test_the_table_may_be_given_to_what_is_compiled(generator) -> None:
    module = make(generator)
    hidden = torch.randn(5, DIM, generator=generator)
    torch.compiler.reset()
    multiply = torch.compile(
        lambda hidden, weight: (hidden @ weight.T, weight.clone()), backend="eager"
    )
    with module.budget(BUDGET), module.use_groups(1):
        with torch.no_grad():
            scores, seen = multiply(hidden, module.weight)
            assert torch.equal(seen, module.table())
            assert torch.equal(scores, hidden @ module.table().T)
        gradient = torch.func.grad(lambda hidden: (hidden @ module.weight.T).sum())(hidden)
        # Sums near zero keep the roundings of their terms.
        wanted = module.table().sum(dim=0).expand(5, -1)
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-4)


# ---- training beside inference ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_inference_mode_computed_serves_training(layout, generator) -> None:
    module = make(generator, layout)
    for _ in range(2):
        with torch.inference_mode(), module.budget(BUDGET):
            want = module(EVERY, 1).clone()
        with module.budget(BUDGET):
            rows = module(EVERY, 1)
            assert torch.equal(rows, want)
            rows.sum().backward()
        with torch.inference_mode():
            module(EVERY, 1)
            module(torch.zeros(20_000, dtype=torch.int64))
        module(EVERY, 1).sum().backward()
        module(torch.zeros(20_000, dtype=torch.int64)).sum().backward()
        with torch.no_grad():
            module.weight.add_(0.01)


def test_values_set_in_inference_mode_serve_training(generator) -> None:
    module = ElasticEmbedding.from_pretrained(
        torch.randn(ROWS, DIM, generator=generator), freeze=False, num_groups=GROUPS
    )
    with torch.inference_mode():
        module.set_row_values(torch.rand(GROUPS, ROWS, generator=generator))
        module.refine_rows(1, torch.tensor([3]))
        module.fit_rotation()
    with module.budget(10**5):
        module(EVERY, 1).sum().backward()
    assert module.refinement.grad.abs().sum() > 0


# ---- edits ----

EDITS: dict[str, Callable[[Tensor], object]] = {
    "initialised": lambda weight: nn.init.constant_(weight, 7.0),
    "assigned": lambda weight: weight.__setitem__(3, 0.0),
    "in place": lambda weight: weight.mul_(2),
    "augmented": lambda weight: weight.__iadd__(1),
    "a view": lambda weight: weight[2:5].T.zero_(),
    "data": lambda weight: weight.data.fill_(1),
    "an output": lambda weight: torch.add(torch.ones_like(weight), 1, out=weight),
    "frozen": lambda weight: weight.requires_grad_(False),
    "a setter": lambda weight: setattr(weight, "requires_grad", False),
    "one of its rows": lambda weight: weight.unbind()[0].add_(1),
    "a row of a loop": lambda weight: [row.zero_() for row in weight],
    "a part": lambda weight: weight.split(7)[1].fill_(3),
    "foreach": lambda weight: torch._foreach_add_([weight], 1),
    "a function in place": lambda weight: nn.functional.relu(weight, inplace=True),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_in_vain_is_an_error(edit: str, generator) -> None:
    module = make(generator)
    before = module.weight.detach().clone()
    for context in (module.budget(10**6), module.use_groups(1)):
        with context, module.use_groups(1):
            with torch.no_grad(), pytest.raises(RuntimeError, match="leave the context"):
                EDITS[edit](module.weight)
            assert torch.equal(module.get_parameter("weight"), before)
    with torch.no_grad():
        module.weight.mul_(2)
    assert torch.equal(module.weight, 2 * before)


def test_a_table_that_is_read_gives_ordinary_tensors(generator) -> None:
    module = make(generator)
    hidden = torch.randn(5, DIM, generator=generator)
    with module.budget(BUDGET), module.use_groups(1):
        weight, table = module.weight, module.table()
        assert torch.equal(weight, table)
        scores = hidden @ weight.T
        assert type(scores) is Tensor
        scores.masked_fill_(scores < 0, 0)
        assert torch.equal(nn.functional.linear(hidden, weight), hidden @ table.T)
        weight.square().sum().backward()
    assert module.weight.grad.abs().sum() > 0


def test_the_parameter_can_be_had_and_replaced_in_a_context(generator) -> None:
    module = make(generator)
    with module.budget(BUDGET), module.use_groups(0):
        parameter = module.get_parameter("weight")
        assert parameter is dict(module.named_parameters())["weight"]
        assert module.get_parameter("refinement") is module.refinement
        with torch.no_grad():
            parameter.neg_()
        changed = module.weight
        module.weight = nn.Parameter(-parameter.detach())
        assert not torch.equal(module.weight, changed)
    with pytest.raises(AttributeError):
        module.get_parameter("none")


# ---- weights that are no Parameter ----


def halve(module: nn.Embedding) -> None:
    half = module.weight.detach() / 2
    del module.weight
    module.weight = half


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


CHANGES: dict[str, Callable[[nn.Embedding], object]] = {
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "weight norm": lambda module: nn.utils.weight_norm(module),
    "spectral norm": lambda module: nn.utils.spectral_norm(module),
    "parametrized": lambda module: parametrize.register_parametrization(
        module, "weight", Doubled()
    ),
    "a plain tensor": halve,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_computed(change: str, generator) -> None:
    module = make(generator)
    plain = nn.Embedding.from_pretrained(module.weight.detach().clone(), freeze=False)
    for each in (module, plain):
        torch.manual_seed(0)
        CHANGES[change](each)
    assert torch.equal(module(EVERY), plain(EVERY))
    assert torch.equal(module.weight, plain.weight)
    twin = ElasticEmbedding.from_pretrained(
        plain(EVERY).detach(), num_groups=GROUPS, layout=LAYOUTS[0]
    )
    twin.block_weights, twin.item_group = module.block_weights, module.item_group
    with module.budget(BUDGET), twin.budget(BUDGET):
        assert torch.equal(module(EVERY, 0), twin(EVERY, 0))
    if change != "a plain tensor":
        module(EVERY).square().sum().backward()  # after a lookup under a budget
    if change == "pruned":
        prune.remove(module, "weight")
        assert torch.equal(module.weight, plain.weight)
        assert isinstance(module.weight, nn.Parameter)
