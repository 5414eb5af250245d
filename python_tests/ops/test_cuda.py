"""The ops on a GPU against the CPU: results, mistakes, streams, graphs and memory.

Where there is no GPU the shim runs what it can: it has no streams and no graphs.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from lookup_tables import LAYOUTS, NUM_GROUPS, make_table
from scored_tables import PACKED, integers, lists, make_packed
from torch import Tensor

from peel_ext import ops
from peel_ext.ops.lookup import BlockStore

pytestmark = pytest.mark.gpu


def moved(value: Any, device: torch.device) -> Any:
    """Tensors on the device, in whatever they are."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(moved(part, device) for part in value)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, BlockStore):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **moved(parts, device))
    return value


def assert_same(got: Any, want: Any) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours.cpu(), theirs)


# ---- results ----


@pytest.mark.parametrize(
    ("layout", "rotated"),
    [*((layout, False) for layout in LAYOUTS)]
    + [(layout, True) for layout in LAYOUTS if LAYOUTS[layout] is not None],
)
@pytest.mark.parametrize("dim", [5, 16, 31, 64])
def test_rows_have_the_bits_of_the_cpu(
    layout: str, rotated: bool, dim: int, device, on_cpu, generator
) -> None:
    weight, table = make_table(LAYOUTS[layout], generator, dim, rotated=rotated)
    weight_there, table_there = moved((weight, table), device)
    for count, dtype in ((0, torch.int64), (1, torch.int32), (7, torch.int64), (600, torch.int32)):
        indices = torch.randint(0, 23, (count,), generator=generator, dtype=dtype)
        groups = torch.randint(0, NUM_GROUPS, (count,), generator=generator)
        for of_each in (groups, 1):
            got = ops.grouped_lookup(
                weight_there, indices.to(device), moved(of_each, device), **table_there
            )
            assert got.device == device
            with on_cpu():
                want = ops.grouped_lookup(weight, indices, of_each, **table)
            assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("layout", ["dense", "planes", "columns-int8"])
@pytest.mark.parametrize(
    "options", [{}, dict(padding_idx=2), dict(scale_grad_by_freq=True)], ids=str
)
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_have_the_bits_of_the_cpu(
    layout: str, options: dict, sparse: bool, device, on_cpu, generator
) -> None:
    weight, table = make_table(LAYOUTS[layout], generator, rotated=layout == "planes")
    indices = torch.randint(0, 23, (200, 3), generator=generator)  # runs of a row, long ones, too
    indices[:150] = 4
    groups = torch.randint(0, NUM_GROUPS, (200,), generator=generator)
    upstream = torch.randn(200, 3, 10, generator=generator)

    def gradients(where: torch.device) -> list[Tensor]:
        leaves = [
            leaf.to(where).detach().requires_grad_() for leaf in (weight, table["refinement"])
        ]
        own = moved(table, where) | {"refinement": leaves[1]}
        rows = ops.grouped_lookup(
            leaves[0], indices.to(where), groups.to(where), **own, **options, sparse=sparse
        )
        found = torch.autograd.grad(rows, leaves, upstream.to(where))
        if not sparse:
            return list(found)
        return [part for one in found for part in (one._indices(), one._values())]

    got = gradients(device)
    with on_cpu():
        want = gradients(torch.device("cpu"))
    assert_same(got, want)
    assert sum(part.double().abs().sum() for part in want) > 0


@pytest.mark.parametrize("n", [0, 1, 33, 1000, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_selections_equal_the_cpu(n: int, dtype: torch.dtype, device, on_cpu, generator) -> None:
    weights = torch.randint(-3, 4, (3, n), generator=generator).to(dtype) / 2
    shared = torch.randint(1, 5, (n,), generator=generator)
    costs = torch.randint(1, 5, (3, n), generator=generator)
    budgets = torch.tensor([0, n, 10 * n])
    cases: list[dict[str, Any]] = [dict(k=0), dict(k=n // 3), dict(k=n)]
    cases += [dict(costs=shared, budget_bytes=2 * n), dict(costs=costs, budget_bytes=budgets)]
    for case in cases:
        for in_order in (True, False):
            got = ops.topk_blocks(weights.to(device), **moved(case, device), sorted=in_order)
            with on_cpu():
                want = ops.topk_blocks(weights, **case, sorted=in_order)
            assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("rule", ["rowwise_adagrad", "adam"])
@pytest.mark.parametrize(
    ("rows", "dim", "count"), [(0, 4, 0), (1, 1, 9), (7, 8, 20), (300, 17, 1000), (40, 64, 3000)]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_steps_have_the_bits_of_the_cpu(
    rule: str, rows: int, dim: int, count: int, dtype: torch.dtype, device, on_cpu, generator
) -> None:
    adam = rule == "adam"
    shape = (rows, dim) if adam else (rows,)
    weight = torch.randn(rows, dim + 3, generator=generator)
    state = [torch.rand(shape, generator=generator) for _ in range(1 + adam)]
    indices = torch.randint(0, max(rows, 1), (count,), generator=generator, dtype=dtype)
    gradients = torch.randn(count, dim, generator=generator)

    def step(where: torch.device) -> list[Tensor]:
        own = [part.to(where, copy=True) for part in (weight, *state)]
        ops.update_rows(
            own[0][:, :dim], indices.to(where), gradients.to(where), own[1:],
            rule=rule, learning_rate=0.1, eps=1e-6, step=3,
        )  # fmt: skip
        return own

    got = step(device)
    with on_cpu():
        want = step(torch.device("cpu"))
    assert_same(got, want)
    assert torch.equal(want[0][:, dim:], weight[:, dim:])


@pytest.mark.parametrize("users", [0, 1, 5, 40, 130])
@pytest.mark.parametrize("rows", [0, 1, 33, 200])
def test_best_rows_equal_the_cpu_ties_and_all(
    users: int, rows: int, device, on_cpu, generator
) -> None:
    vectors, table = integers(generator, users, 9), integers(generator, rows, 9)
    indptr, seen = lists(generator, users, rows)
    cases: list[dict[str, Any]] = [{}, dict(exclude_indptr=indptr, exclude=seen)]
    if rows:
        cases += [dict(candidates=torch.tensor([rows - 1, 0, rows - 1])), dict(candidates=seen[:0])]
    for n in (1, 20):
        for case in cases:
            got = ops.gathered_score(*moved((vectors, table), device), n, **moved(case, device))
            with on_cpu():
                assert_same(got, ops.gathered_score(vectors, table, n, **case))


@pytest.mark.parametrize("users", [1, 4, 64, 200])
def test_scores_agree_to_rounding(users: int, device, on_cpu, generator) -> None:
    vectors = torch.randn(users, 33, generator=generator)
    wide = torch.randn(700, 40, generator=generator)
    got = ops.gathered_score(vectors.to(device), wide.to(device)[:, :33], 15)
    with on_cpu():
        want = ops.gathered_score(vectors, wide[:, :33], 15)
    torch.testing.assert_close(got[1].cpu(), want[1], rtol=1e-5, atol=1e-5)
    own = torch.einsum("und,ud->un", wide[got[0].cpu(), :33].double(), vectors.double())
    torch.testing.assert_close(own.float(), got[1].cpu(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("users", [1, 40])
def test_a_packed_embedding_is_scored_where_the_users_are(
    name: str, users: int, device, on_cpu, generator
) -> None:
    pee = make_packed(PACKED[name], generator)
    vectors = torch.randn(users, pee.embedding_dim, generator=generator)
    indptr, seen = lists(generator, users, pee.num_embeddings)
    for case in ({}, dict(exclude_indptr=indptr, exclude=seen)):
        got = ops.gathered_score(vectors.to(device), pee, 25, **moved(case, device))
        with on_cpu():
            want = ops.gathered_score(vectors, pee, 25, **case)
        assert got[0].device == device
        assert torch.equal(got[0].cpu() < 0, want[0] < 0)
        torch.testing.assert_close(got[1].cpu(), want[1], rtol=1e-5, atol=1e-5)


def test_registered_ops_have_the_results_of_the_plain_ones(device, generator) -> None:
    weight, table = moved(make_table(LAYOUTS["planes"], generator), device)
    indices = torch.randint(0, 23, (40,), generator=generator).to(device)

    def call(weight: Tensor) -> tuple[Tensor, ...]:
        rows = ops.grouped_lookup(weight, indices, 2, **table)
        return rows, *ops.gathered_score(rows, weight, 5), ops.topk_blocks(rows.detach(), 3)

    results = []
    for each in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        leaf = weight.clone().requires_grad_()
        rows, *others = each(leaf)
        results.append([rows.detach(), *others, *torch.autograd.grad(rows.square().sum(), leaf)])
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


# ---- mistakes ----


def told(
    device: torch.device, call: Callable[[], object], error: type[Exception], text: str
) -> None:
    """The mistake is an error of the call under the shim, and of waiting for a GPU."""

    def wait() -> None:
        call()
        ops.check_device(device)

    with pytest.raises(error, match=text):
        wait()
    ops.check_device(device)  # told once, and the device is not lost


def test_every_mistake_in_the_data_is_told_once(device, generator) -> None:
    weight, table = moved(make_table(LAYOUTS["planes"], generator), device)
    pair = torch.tensor([3, 1], device=device)
    bad = torch.tensor([3, 23], device=device)
    before = weight.clone()
    index = r"indices contain 23 at flat position 1, expected values in \[0, 23\)"
    told(device, lambda: ops.grouped_lookup(weight, bad), IndexError, index)
    told(
        device, lambda: ops.grouped_lookup(weight, pair, bad - 1, **table), IndexError,
        r"groups contain 22, expected values in \[0, 3\)",
    )  # fmt: skip
    told(
        device, lambda: ops.gathered_score(weight[:2], weight, 4, candidates=bad), IndexError,
        r"(indices|candidates) contain 23",
    )  # fmt: skip
    told(
        device,
        lambda: ops.update_rows(
            weight, bad, weight[:2].clone(), [weight.new_zeros(23)], rule="rowwise_adagrad",
            learning_rate=1.0, eps=1e-8,
        ),
        IndexError, index,
    )  # fmt: skip
    assert torch.equal(weight, before)
    holed = weight.clone()
    holed[2, 5] = torch.nan
    told(device, lambda: ops.topk_blocks(holed, 2), ValueError, r"weights\[2, 5\] is NaN")
    assert torch.equal(ops.grouped_lookup(weight, pair), weight[pair])


def test_a_later_call_tells_and_the_other_rows_are_right(gpu, generator) -> None:
    weight = torch.randn(23, 10, generator=generator).to(gpu)
    rows = ops.grouped_lookup(weight, torch.tensor([3, 23, -1, 4], device=gpu))
    torch.cuda.synchronize()
    with pytest.raises(IndexError, match="indices contain 23 at flat position 1"):
        ops.topk_blocks(weight, 1)
    assert torch.equal(rows[[0, 3]], weight[[3, 4]])
    assert rows[1:3].isnan().all()
    ops.check_device()
    assert ops.topk_blocks(weight, 1).shape == (23, 1)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("wrong", ["indices", "groups", "group"])
def test_a_backward_of_a_mistake_leaves_the_device_usable(
    sparse: bool, wrong: str, gpu, generator
) -> None:
    weight, table = moved(make_table(LAYOUTS["columns-int8"], generator), gpu)
    weight.requires_grad_()
    table["refinement"].requires_grad_()
    indices = torch.tensor([3, 23 if wrong == "indices" else 4, 2], device=gpu)
    groups = (
        7 if wrong == "group" else torch.tensor([0, 5 if wrong == "groups" else 1, 2], device=gpu)
    )

    def train() -> None:
        ops.grouped_lookup(weight, indices, groups, **table, sparse=sparse).sum().backward()

    told(gpu, train, IndexError, r"(indices contain 23|groups contain)")
    assert torch.equal(ops.grouped_lookup(weight.detach(), indices[:1]), weight.detach()[[3]])


def run_alone(code: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_the_first_call_cannot_be_captured(gpu) -> None:
    run_alone(
        "import torch; from peel_ext import ops\n"
        "table = torch.ones(4, 4, device='cuda')\n"
        "indices = torch.zeros(3, dtype=torch.int64, device='cuda')\n"
        "try:\n"
        "    with torch.cuda.graph(torch.cuda.CUDAGraph()): ops.grouped_lookup(table, indices)\n"
        "except RuntimeError as error: assert 'cannot be captured' in str(error), error\n"
        "else: raise SystemExit('captured')\n"
        "assert ops.grouped_lookup(table, indices).shape == (3, 4)"
    )


def test_a_forked_process_gets_the_error_of_torch(gpu) -> None:
    run_alone(
        "import os, torch; from peel_ext import ops\n"
        "table, state = torch.ones(4, 4, device='cuda'), torch.zeros(4, device='cuda')\n"
        "rows = torch.zeros(1, dtype=torch.int64, device='cuda'), table[:1].clone()\n"
        "def step():\n"
        "    ops.update_rows(table, *rows, [state], rule='rowwise_adagrad', learning_rate=1., eps=1.)\n"
        "step()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: step()\n"
        "    except RuntimeError as error: os._exit(0 if 'forked' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0"
    )


def test_the_launch_is_on_the_device_of_the_tensors(gpu, generator) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    other = torch.device("cuda", 1 - gpu.index)
    weights = torch.randn(2, 300_000, generator=generator)
    assert torch.equal(ops.topk_blocks(weights.to(other), 9).cpu(), ops.topk_blocks(weights, 9))


# ---- streams ----


def test_work_goes_to_the_current_stream(gpu, generator) -> None:
    table = torch.randn(1000, 64, generator=generator).to(gpu)
    indices = torch.zeros(5000, dtype=torch.int64, device=gpu)
    right = torch.randint(0, 1000, (5000,), generator=generator).to(gpu)
    ops.grouped_lookup(table, indices)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # a kernel of another stream would run before
        indices.copy_(right)
        rows = ops.grouped_lookup(table, indices)
    assert not stream.query()  # and nobody has waited
    stream.synchronize()
    assert torch.equal(rows, table[right])


def test_threads_with_streams_of_their_own_do_not_meet(gpu, generator) -> None:
    """Workspaces and temporaries are freed while kernels still need them."""
    table = torch.randn(5000, 32, generator=generator).to(gpu)
    users = torch.randn(4, 90, 32, generator=generator).to(gpu)
    indices = torch.randint(0, 5000, (4, 3000), generator=generator).to(gpu)
    upstream = torch.randn(3000, 32, generator=generator).to(gpu)

    def work(turn: int) -> list[Tensor]:
        leaf = table.clone().requires_grad_()
        rows = ops.grouped_lookup(leaf, indices[turn])
        (grad,) = torch.autograd.grad(rows, leaf, upstream)
        stepped, sums = table.clone(), table.new_zeros(5000)
        ops.update_rows(
            stepped, indices[turn].int(), upstream.T.contiguous().T, [sums],
            rule="rowwise_adagrad", learning_rate=0.1, eps=1e-8,
        )  # fmt: skip
        return [rows.detach(), grad, stepped, sums, *ops.gathered_score(users[turn], table, 20)]

    want = [work(turn) for turn in range(4)]
    torch.cuda.synchronize()
    wrong: list[int] = []

    def repeat(turn: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(30):
                got = work(turn)
                if not all(map(torch.equal, got, want[turn])):
                    wrong.append(turn)

    threads = [threading.Thread(target=repeat, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- graphs and memory ----


def test_a_captured_step_replays_as_a_call(gpu, generator) -> None:
    start = torch.randn(3000, 32, generator=generator).to(gpu)
    batches = torch.randint(0, 3000, (5, 4000), generator=generator).to(gpu)
    upstream = torch.randn(4000, 32, generator=generator).to(gpu)
    users = torch.randn(70, 32, generator=generator).to(gpu)

    def step(weight: Tensor, sums: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        leaf = weight.detach().requires_grad_()
        rows = ops.grouped_lookup(leaf, indices)
        (grad,) = torch.autograd.grad(rows, leaf, upstream)
        ops.update_rows(
            weight, indices, upstream, [sums], rule="rowwise_adagrad", learning_rate=0.1, eps=1e-8
        )
        return rows.detach(), grad, *ops.gathered_score(users, weight, 20)

    weight, sums, indices = start.clone(), start.new_zeros(3000), batches[0].clone()
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        step(weight, sums, indices)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(weight, sums, indices)
    weight.copy_(start)
    sums.zero_()
    plain, plain_sums = start.clone(), start.new_zeros(3000)
    for batch in batches:
        indices.copy_(batch)
        graph.replay()
        want = step(plain, plain_sums, batch)
        assert all(map(torch.equal, captured, want))
        assert torch.equal(weight, plain)
        assert torch.equal(sums, plain_sums)
    indices[7] = 3000
    graph.replay()
    with pytest.raises(IndexError, match=r"indices contain 3000 at flat position 7, .*\[0, 3000\)"):
        ops.check_device(gpu)
    assert torch.equal(weight, plain)  # nothing was written


def test_scoring_takes_no_memory_of_users_times_rows(gpu, generator) -> None:
    table = torch.randn(1_000_000, 64, device=gpu)
    users = torch.randn(4096, 64, device=gpu)
    ops.gathered_score(users[:1], table, 20)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    indices, _ = ops.gathered_score(users, table, 20)
    assert torch.cuda.max_memory_allocated() - before < 300e6
    few = torch.topk(users[:8].double() @ table.double().T, 20).indices
    assert (indices[:8] == few).float().mean() > 0.95  # but for neighbours within rounding
