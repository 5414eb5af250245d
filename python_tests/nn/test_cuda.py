"""ElasticEmbedding on a GPU: what a user does there, beside the same on the CPU.

Where there is no GPU the shim runs what it can: it has no streams and no graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elastic_modules import LAYOUTS, make
from torch import Tensor, nn

from peel_ext import ElasticEmbedding, ops
from peel_ext.errors import BudgetError
from peel_ext.optim import RowwiseAdagrad, SparseAdam

pytestmark = pytest.mark.gpu

ROWS, DIM, GROUPS = 150, 16, 3
EVERY = [(layout, False) for layout in LAYOUTS] + [("planes", True), ("planes-small", True)]


def make_exact(layout: str, generator: torch.Generator) -> ElasticEmbedding:
    """A module whose squares add up without rounding, so that all devices encode it alike."""
    module = make(LAYOUTS[layout], generator)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 4)
        module.weight[:, 0] = 3  # no row is zero
    return module


def budgets(module: ElasticEmbedding) -> list[int]:
    least = max(module.minimum_budget_bytes(group) for group in range(GROUPS))
    return [least, least + 700, 100_000]


# ---- the full table ----


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7, 20_000])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_and_gradients_have_the_bits_of_the_cpu(
    refined: bool, count: int, dtype: torch.dtype, device, on_cpu, generator
) -> None:
    here = make("planes", generator, refined=refined)
    there = copy.deepcopy(here).to(device)
    indices = torch.randint(0, ROWS, (count,), generator=generator, dtype=dtype)
    groups = torch.randint(0, GROUPS, (count,), generator=generator)
    upstream = torch.randn(count, DIM, generator=generator)
    for where in (None, 1, groups):
        here.zero_grad()
        there.zero_grad()
        with on_cpu():
            want = here(indices, where)
            want.backward(upstream)
        got = there(indices.to(device), where.to(device) if isinstance(where, Tensor) else where)
        assert got.device == device
        assert torch.equal(got.cpu(), want)
        got.backward(upstream.to(device))
        ours = count >= 20_000 or (refined and where is not None)  # else torch's own kernels
        for name, parameter in here.named_parameters():
            grad = there.get_parameter(name).grad
            assert (grad is None) == (parameter.grad is None), name
            if grad is not None:
                tolerance = 0 if ours else 1e-4
                torch.testing.assert_close(
                    grad.cpu(), parameter.grad, rtol=tolerance, atol=tolerance
                )


@pytest.mark.parametrize("options", [dict(padding_idx=3), dict(sparse=True), dict(max_norm=1.0)])
def test_options_of_nn_embedding(options: dict, device, generator) -> None:
    weight = torch.randn(ROWS, DIM, generator=generator).to(device)
    ours = ElasticEmbedding.from_pretrained(weight.clone(), freeze=False, **options)
    theirs = nn.Embedding.from_pretrained(weight.clone(), freeze=False, **options)
    indices = torch.randint(0, ROWS, (20_000,), generator=generator).to(device)
    got, want = ours(indices), theirs(indices)
    assert torch.equal(got, want)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())


def test_indices_elsewhere_than_the_weight_are_an_error(gpu, generator) -> None:
    module = make("planes", generator).to(gpu)
    for count in (5, 20_000):
        with pytest.raises((RuntimeError, ValueError), match=r"device|CPU|cuda"):
            module(torch.arange(count) % ROWS)


# ---- under a budget ----


@pytest.mark.parametrize(("layout", "rotated"), EVERY)
@pytest.mark.parametrize("refined", [False, True])
def test_rows_under_a_budget_are_those_of_the_packed_embedding(
    layout: str, rotated: bool, refined: bool, device, generator
) -> None:
    module = make(LAYOUTS[layout], generator, rotated=rotated, refined=refined).to(device)
    everything = torch.arange(ROWS, device=device)
    for budget_bytes in budgets(module):
        with module.budget(budget_bytes):
            for group in range(GROUPS):
                pee = module.generate(group, budget_bytes)
                assert pee.nbytes <= budget_bytes
                rows = torch.from_numpy(pee.lookup(np.arange(ROWS))).to(device)
                got = module(everything, group)
                if rotated:
                    torch.testing.assert_close(got @ module.rotation, rows, rtol=1e-4, atol=1e-4)
                else:
                    assert torch.equal(got, rows)
                assert torch.equal(module(everything, torch.full_like(everything, group)), got)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_that_is_made_of_the_same_rows_is_the_same(
    layout: str, device, on_cpu, generator, tmp_path: Path
) -> None:
    here = make_exact(layout, generator)
    there = copy.deepcopy(here).to(device)
    everything = torch.arange(ROWS)
    for budget_bytes in budgets(here):
        for group in range(GROUPS):
            with on_cpu():
                pee = here.generate(group, budget_bytes)
                with here.budget(budget_bytes):
                    want = here(everything, group)
            assert np.array_equal(there.generate(group, budget_bytes).buffer, pee.buffer)
            with there.budget(budget_bytes):
                assert torch.equal(there(everything.to(device), group).cpu(), want)
    for name, module in (("here", here), ("there", there)):
        module.export(tmp_path / name, 1)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_the_worth_of_rows_is_the_same(device, on_cpu, generator) -> None:
    here, values = make_exact("planes", generator), torch.rand(GROUPS, ROWS, generator=generator)
    there = copy.deepcopy(here).to(device)
    here.set_row_values(values)
    there.set_row_values(values.to(device))
    assert torch.equal(there.item_group.cpu(), here.item_group)
    torch.testing.assert_close(there.block_weights.cpu(), here.block_weights)
    with pytest.raises(BudgetError, match="needs at least"), there.budget(1):
        pass


@pytest.mark.parametrize("layout", ["planes", "columns", "columns-int8"])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_go_straight_through_as_on_the_cpu(
    layout: str, sparse: bool, device, on_cpu, generator
) -> None:
    here = make_exact(layout, generator)
    here.sparse = sparse
    there = copy.deepcopy(here).to(device)
    indices = torch.randint(0, ROWS, (600,), generator=generator)
    groups = torch.randint(0, GROUPS, (600,), generator=generator)
    upstream = torch.randn(600, DIM, generator=generator)
    budget_bytes = budgets(here)[1]
    with on_cpu(), here.budget(budget_bytes):
        here(indices, groups).backward(upstream)
    with there.budget(budget_bytes):
        there(indices.to(device), groups.to(device)).backward(upstream.to(device))
    assert here.weight.grad.to_dense().abs().sum() > 0
    for name, parameter in here.named_parameters():
        got, want = there.get_parameter(name).grad, parameter.grad
        if not sparse:
            assert torch.equal(got.cpu(), want)
            continue
        assert torch.equal(got._indices().cpu(), want._indices())
        assert torch.equal(got._values().cpu(), want._values())


@pytest.mark.parametrize(("layout", "rotated"), EVERY)
def test_rows_are_encoded_anew_when_they_change(
    layout: str, rotated: bool, device, generator
) -> None:
    module = make(LAYOUTS[layout], generator, rotated=rotated).to(device)
    everything = torch.arange(ROWS, device=device)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    with module.budget(100_000):
        for group in range(GROUPS):
            optimizer.zero_grad()
            (module(everything, group) - 1).square().mean().backward()
            optimizer.step()
            twin = copy.deepcopy(module)
            with twin.budget(100_000):
                assert torch.equal(module(everything, group), twin(everything, group))


def test_goes_from_device_to_device_and_to_disk(device, generator, tmp_path: Path) -> None:
    module = make_exact("planes", generator)
    everything, budget_bytes = torch.arange(ROWS), budgets(module)[1]

    def seen(module: ElasticEmbedding) -> Tensor:
        with module.budget(budget_bytes):
            rows: Tensor = module(everything.to(module.get_parameter("weight").device), 1)
        return rows.detach().cpu()

    want = seen(module)
    assert torch.equal(seen(module.to(device)), want)
    torch.save(module.state_dict(), tmp_path / "state")
    again = ElasticEmbedding(ROWS, DIM, num_groups=GROUPS).to(device)
    again.load_state_dict(torch.load(tmp_path / "state", map_location=device, weights_only=True))
    assert torch.equal(seen(again), want)
    assert torch.equal(seen(copy.deepcopy(module)), want)
    assert torch.equal(seen(module.cpu()), want)


def test_packed_embeddings_are_scored_with_users_of_the_device(device, generator) -> None:
    module = make("planes", generator, rotated=True).to(device)
    pee = module.generate(1, budgets(module)[1])
    users = module.rotate(torch.randn(9, DIM, generator=generator).to(device))
    indices, scores = ops.gathered_score(users, pee, 20)
    assert indices.device == device
    want_ids, want_scores = pee.score(users.cpu().numpy(), 20)
    torch.testing.assert_close(scores.cpu(), torch.from_numpy(want_scores), rtol=1e-5, atol=1e-5)
    assert (indices.cpu() == torch.from_numpy(want_ids)).float().mean() > 0.95


# ---- training ----


@pytest.mark.parametrize("kind", [SparseAdam, RowwiseAdagrad])
@pytest.mark.parametrize("refined", [False, True])
def test_optimisers_step_as_on_the_cpu(kind: Any, refined: bool, device, on_cpu, generator) -> None:
    here = make("planes", generator, refined=refined)
    here.sparse = True
    there = copy.deepcopy(here).to(device)
    batches = torch.randint(0, ROWS, (4, 800), generator=generator)
    groups = torch.randint(0, GROUPS, (800,), generator=generator)
    upstream = torch.randn(800, DIM, generator=generator)

    def train(module: ElasticEmbedding, where: torch.device) -> None:
        optimizer = kind(module.parameters(), lr=0.1)
        for batch in batches:
            optimizer.zero_grad()
            module(batch.to(where), groups.to(where)).backward(upstream.to(where))
            optimizer.step()

    before = here.weight.detach().clone()
    with on_cpu():
        train(here, torch.device("cpu"))
    train(there, device)
    assert not torch.equal(here.weight, before)
    for name, parameter in here.named_parameters():
        assert torch.equal(there.get_parameter(name).cpu(), parameter)


@pytest.mark.parametrize("budget_bytes", [None, 4_000])
def test_autocast_leaves_rows_as_they_are(budget_bytes: int | None, device, generator) -> None:
    module = make("planes", generator, rotated=True).to(device)
    indices = torch.randint(0, ROWS, (64,), generator=generator).to(device)

    def seen() -> Tensor:
        twin = copy.deepcopy(module)
        if budget_bytes is None:
            return twin(indices, 1)
        with twin.budget(budget_bytes):
            return twin(indices, 1)

    want = seen()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = seen()
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("budget_bytes", [None, 4_000])
def test_compiled_is_eager(backend: str, budget_bytes: int | None, device, generator) -> None:
    if backend == "inductor" and device.type != "cuda":
        pytest.skip("says the same as on the CPU")
    module = make("planes", generator).to(device)
    indices = torch.randint(0, ROWS, (64,), generator=generator).to(device)
    groups = torch.randint(0, GROUPS, (64,), generator=generator).to(device)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    results = []
    for each in (module, compiled):
        module.zero_grad()
        if budget_bytes is None:
            rows = each(indices, groups)
        else:
            with module.budget(budget_bytes):
                rows = each(indices, groups)
        rows.square().sum().backward()
        results.append([rows.detach(), module.weight.grad, module.refinement.grad])
    for eager, made in zip(*results, strict=True):
        torch.testing.assert_close(made, eager, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0][0], results[1][0])


def test_an_index_out_of_range_is_told(device, generator) -> None:
    module = make("planes", generator).to(device)

    def look_up() -> None:
        module(torch.tensor([3, ROWS], device=device), 1)
        ops.check_device(device)

    with (
        module.budget(4_000),
        pytest.raises(IndexError, match=rf"indices contain {ROWS} at flat position 1"),
    ):
        look_up()
    ops.check_device(device)


# ---- streams and graphs ----


def test_streams_may_read_what_another_one_encoded(gpu, generator) -> None:
    module = ElasticEmbedding.from_pretrained(
        torch.randn(200_000, 64, generator=generator).to(gpu), freeze=False
    )
    indices = torch.randint(0, 200_000, (20_000,), generator=generator).to(gpu)
    with module.budget(4_000_000):
        want = module(indices).detach()
        for _ in range(5):
            first, second = torch.cuda.Stream(), torch.cuda.Stream()
            with torch.no_grad():
                module.get_parameter("weight").mul_(1)  # what was encoded is of before
            torch.cuda.synchronize()
            with torch.cuda.stream(first):
                torch.cuda._sleep(50_000_000)
                module(indices)  # encodes
            with torch.cuda.stream(second):
                rows = module(indices)
            second.synchronize()
            assert torch.equal(rows, want)


def test_a_captured_training_step_replays_as_a_call(gpu, generator) -> None:
    start = make("planes", generator, rows=3000).to(gpu)
    start.sparse = True
    batches = torch.randint(0, 3000, (4, 20_000), generator=generator).to(gpu)
    upstream = torch.randn(20_000, DIM, generator=generator).to(gpu)

    def trainer(module: ElasticEmbedding) -> Callable[[Tensor], None]:
        optimizer = RowwiseAdagrad([module.weight], lr=0.1)

        def step(indices: Tensor) -> None:
            optimizer.zero_grad()
            module(indices).backward(upstream)
            optimizer.step()

        return step

    captured, plain = copy.deepcopy(start), copy.deepcopy(start)
    step, indices = trainer(captured), batches[0].clone()
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        step(indices)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(indices)
    same = trainer(plain)
    same(batches[0])
    for batch in batches:
        indices.copy_(batch)
        graph.replay()
        same(batch)
        assert torch.equal(captured.weight, plain.weight)


def test_a_graph_under_a_budget_has_the_blocks_of_its_capture(gpu, generator) -> None:
    module = make("planes", generator).to(gpu)
    indices = torch.arange(60, device=gpu)
    with module.budget(4_000):
        want = module(indices, 1).detach()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            rows = module(indices, 1)
        indices.copy_(indices.flip(0))
        graph.replay()
        assert torch.equal(rows, want.flip(0))
        with torch.no_grad():
            module.get_parameter("weight").mul_(2)
        late = pytest.raises(RuntimeError, match="cannot be made while a CUDA graph is captured")
        with late, torch.no_grad(), torch.cuda.graph(torch.cuda.CUDAGraph()):
            indices + 1  # torch warns of graphs of nothing
            module(indices, 1)
        assert not torch.equal(module(indices, 1), rows)
        # Memory let go would be theirs.
        _ = [torch.full((4096,), 77, device=gpu) for _ in range(64)]
        rows.zero_()
        graph.replay()
        assert torch.equal(rows, want.flip(0))
