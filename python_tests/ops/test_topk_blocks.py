"""topk_blocks against its reference, and its contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from peel_ext import _core, ops, reference
from peel_ext.ops import _bridge

SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000]


def tied_weights(generator: torch.Generator, groups: int, n: int, dtype: torch.dtype):
    values = torch.randint(-3, 4, (groups, n), generator=generator).to(dtype) / 2
    signs = torch.randint(0, 2, (groups, n), generator=generator) * 2 - 1
    return values * signs  # both zeros, many ties


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_count_equals_reference(n: int, dtype: torch.dtype, generator) -> None:
    weights = tied_weights(generator, 3, n, dtype)
    for k in {0, n // 3, max(n - 1, 0), n}:
        assert torch.equal(ops.topk_blocks(weights, k), reference.topk_blocks(weights, k))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shared", [True, False])
def test_by_budget_equals_reference(n: int, shared: bool, generator) -> None:
    weights = tied_weights(generator, 3, n, torch.float32)
    costs = torch.randint(1, 5, (1 if shared else 3, n), generator=generator)
    for budget in (0, 1, n, 2 * n, 10 * n):
        got = ops.topk_blocks(weights, costs=costs, budget_bytes=budget)
        want = reference.topk_blocks(weights, costs=costs, budget_bytes=budget)
        assert torch.equal(got, want)
    each = torch.tensor([0, n, 10 * n])
    got = ops.topk_blocks(weights, costs=costs, budget_bytes=each)
    assert torch.equal(got, reference.topk_blocks(weights, costs=costs, budget_bytes=each))


@pytest.mark.parametrize("n", [4096, 10_000, 300_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_weights_equal_reference(n: int, dtype: torch.dtype, generator) -> None:
    spread = torch.randn(2, n, generator=generator).to(dtype)
    for weights in (spread, tied_weights(generator, 2, n, dtype), spread.sort(dim=1).values):
        for k in (0, 1, n // 100, n // 10, n):
            for in_order in (True, False):
                got = ops.topk_blocks(weights, k, sorted=in_order)
                assert torch.equal(got, reference.topk_blocks(weights, k, sorted=in_order))


@pytest.mark.parametrize("n", [65, 300, 1000, 4097, 20_000])
@pytest.mark.parametrize("told", [-math.inf, -9.0, 0.0, 9.0, math.inf])
def test_values_that_mislead_samples_change_nothing(n: int, told: float, generator) -> None:
    """A threshold is guessed from 32 values that lie equally far apart."""
    weights = torch.randn(4, n, generator=generator)
    weights[0, torch.arange(32) * n // 32] = told
    weights[1, torch.arange(32) * n // 32 + torch.arange(32) % 2] = told
    weights[2, torch.rand(n, generator=generator) < 0.4] = told
    weights[3] = weights[3].sort().values
    weights[3, n // 3 :] = told
    for k in (1, 2, 31, n // 10, n // 3, n - 1, n):
        for in_order in (True, False):
            got = ops.topk_blocks(weights, k, sorted=in_order)
            assert torch.equal(got, reference.topk_blocks(weights, k, sorted=in_order))


@pytest.mark.parametrize("n", SIZES)
def test_unsorted_is_the_same_selection_in_ascending_order(n: int, generator) -> None:
    weights = tied_weights(generator, 3, n, torch.float32)
    costs = torch.randint(1, 5, (n,), generator=generator)
    for arguments in ({"k": n // 2}, {"costs": costs, "budget_bytes": n}):
        got = ops.topk_blocks(weights, sorted=False, **arguments)
        assert torch.equal(got, reference.topk_blocks(weights, sorted=False, **arguments))
        ordered = ops.topk_blocks(weights, **arguments)
        assert torch.equal(got.sort(dim=1).values, ordered.sort(dim=1).values)


def test_smaller_budget_keeps_a_prefix(generator) -> None:
    weights = torch.rand(4, 200, generator=generator)
    costs = torch.randint(1, 100, (200,), generator=generator)
    before = ops.topk_blocks(weights, costs=costs, budget_bytes=0)
    assert (before == -1).all()
    for budget in range(0, 11_000, 500):
        now = ops.topk_blocks(weights, costs=costs, budget_bytes=budget)
        kept = before >= 0
        assert torch.equal(now[kept], before[kept])
        spent = torch.where(now >= 0, costs[now.clamp(min=0)], 0).sum(dim=1)
        assert (spent <= budget).all()
        before = now


def test_stops_at_the_first_that_does_not_fit() -> None:
    weights, costs = torch.tensor([9.0, 8.0, 1.0]), torch.tensor([3, 4, 1])
    # Per byte: 3, 2, 1. With 5 bytes block 1 does not fit; block 2 would, but comes after it.
    got = ops.topk_blocks(weights, costs=costs, budget_bytes=5)
    assert got.tolist() == [0, -1, -1]


def test_ties_go_to_the_lower_index() -> None:
    assert ops.topk_blocks(torch.tensor([0.0, -0.0, 1.0, -0.0]), 4).tolist() == [2, 0, 1, 3]
    got = ops.topk_blocks(
        torch.tensor([2.0, 4.0, 1.0]), costs=torch.tensor([2, 4, 1]), budget_bytes=6
    )
    assert got.tolist() == [0, 1, -1]


def test_infinite_weights_are_ordered() -> None:
    weights = torch.tensor([0.0, -math.inf, math.inf])
    assert ops.topk_blocks(weights, 3).tolist() == [2, 0, 1]


def test_strided_views(generator) -> None:
    wide = torch.rand(6, 40, generator=generator)
    for view in (wide[::2], wide[:, 5:25], wide[:, ::2], wide.T):
        assert torch.equal(ops.topk_blocks(view, 5), reference.topk_blocks(view, 5))
    costs = torch.randint(1, 9, (80,), generator=generator)[::2]
    got = ops.topk_blocks(wide, costs=costs, budget_bytes=50)
    assert torch.equal(got, reference.topk_blocks(wide, costs=costs, budget_bytes=50))


def test_repeats_and_threads_agree(generator) -> None:
    weights = tied_weights(generator, 9, 5000, torch.float32)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            _core.set_num_threads(threads)
            results += [ops.topk_blocks(weights, 100) for _ in range(2)]
    finally:
        _core.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


W = torch.rand(2, 5)
C = torch.ones(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (dict(weights=W, k=6), ValueError, "k must be between 0 and 5, got 6"),
        (dict(weights=W, k=-1), ValueError, "k must be"),
        (dict(weights=W, k=2.0), TypeError, "k must be an integer, got 2.0"),
        (dict(weights=W, k=True), TypeError, "k must be an integer"),
        (dict(weights=W.half(), k=1), TypeError, "weights must be float32 or float64, got float16"),
        (dict(weights=[1.0], k=1), TypeError, "weights must be a tensor, got list"),
        (dict(weights=W[None], k=1), ValueError, "weights must have 2 dimensions"),
        (dict(weights=W), ValueError, "either k, or costs and budget_bytes"),
        (dict(weights=W, k=1, costs=C, budget_bytes=1), ValueError, "k cannot be combined"),
        (dict(weights=W, costs=C[:3], budget_bytes=1), ValueError, "costs must have shape"),
        (dict(weights=W, costs=C.int(), budget_bytes=1), TypeError, "costs must be int64"),
        (
            dict(weights=W, costs=C * 0, budget_bytes=1),
            ValueError,
            "costs must be at least 1, got 0",
        ),
        (dict(weights=W, costs=C, budget_bytes=-1), ValueError, "budget_bytes must be"),
        (dict(weights=W, costs=C, budget_bytes=1.5), TypeError, "budget_bytes must be an integer"),
        (dict(weights=W, costs=C, budget_bytes=C), ValueError, "budget_bytes must have shape"),
        (
            dict(weights=W, costs=C, budget_bytes=torch.tensor([1, -2])),
            ValueError,
            "budget_bytes must be at least 0, got -2",
        ),
    ],
)
def test_rejects(arguments: dict, error: type[Exception], named: str) -> None:
    with pytest.raises(error) as caught:
        ops.topk_blocks(**arguments)
    assert named in str(caught.value)


WIDE = torch.arange(48.0).reshape(6, 8) % 5


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("weights", "k", "adjacent"),
    [
        (W, 3, True),
        (W, 0, True),
        (W.double(), 5, True),
        (W[0], 3, True),
        (torch.nn.Parameter(W), 3, True),
        (W[:0], 3, True),
        (W[:, :0], 0, True),
        (WIDE[::2, 2:7], 4, True),
        (WIDE[:, 3:4], 1, True),
        (WIDE[:1].expand(3, 8), 4, True),
        (torch.arange(9000.0).reshape(2, 4500), 7, True),
        (WIDE[:, ::2], 2, False),
        (WIDE.T, 2, False),
        (WIDE[0, ::2], 2, False),
        (W, np.int32(3), False),
    ],
)
def test_what_is_read_natively_is_what_the_reference_gives(
    native: bool, weights, k, adjacent: bool, on_cpu, monkeypatch
) -> None:
    if not native:  # as where torch does not offer it
        monkeypatch.setattr(_bridge, "_READER", None)
    plain = weights.detach()
    for in_order in (True, False):
        with on_cpu():
            indices = _bridge.adjacent_topk(weights, k, in_order)
            assert (indices is not None) == (adjacent and native)
            got = ops.topk_blocks(weights, k, sorted=in_order)
        assert torch.equal(got, reference.topk_blocks(plain, int(k), sorted=in_order))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("weights", "k", "error"),
    [
        (W, 6, "k must be between 0 and 5, got 6"),
        (W, -1, "k must be between 0 and 5, got -1"),
        (W, 1 << 70, "k must be between 0 and 5"),
        (W, True, "k must be an integer, got True"),
        (W, None, "either k, or costs and budget_bytes must be given"),
        (W.half(), 1, "weights must be float32 or float64, got float16"),
        (W.long(), 1, "weights must be float32 or float64, got int64"),
        (W[None], 1, "weights must have 2 dimensions"),
        (W[0, 0], 0, "weights must have 2 dimensions"),
        (W.tolist(), 1, "weights must be a tensor, got list"),
        (torch._efficientzerotensor(2, 3), 1, "weights must have memory"),
        (W / 0 * 0, 1, r"weights\[0, 0\] is NaN"),
        (W[0] / 0 * 0, 1, r"weights\[0, 0\] is NaN"),
    ],
)
def test_what_is_not_read_natively_is_told_by_the_longer_way(
    native: bool, weights, k, error: str, on_cpu, monkeypatch
) -> None:
    if not native:
        monkeypatch.setattr(_bridge, "_READER", None)
    with on_cpu(), pytest.raises((TypeError, ValueError), match=error):
        ops.topk_blocks(weights, k)


def test_refuses_nan_and_names_it() -> None:
    weights = torch.rand(3, 4)
    weights[2, 1] = math.nan
    weights[2, 3] = math.nan
    with pytest.raises(ValueError, match=r"weights\[2, 1\] is NaN"):
        ops.topk_blocks(weights, 2)
    with pytest.raises(ValueError, match=r"weights\[2, 1\] is NaN"):
        ops.topk_blocks(weights, costs=torch.ones(4, dtype=torch.int64), budget_bytes=3)


@pytest.mark.parametrize("n", [64, 65, 1000, 10_000, 300_000])
def test_the_first_nan_is_found_wherever_it_is(n: int, generator) -> None:
    """Among them the values that a guess of the threshold is made from, and a vector's rest."""
    spread = torch.randn(n, generator=generator)
    for first in (0, 1, n // 32, n // 2, n - 1):
        for last in (first, n - 1):
            weights = spread.clone()
            weights[first : last + 1] = math.nan
            for k in (0, 1, n // 2, n):
                with pytest.raises(ValueError, match=rf"weights\[0, {first}\] is NaN"):
                    ops.topk_blocks(weights, k)


def test_what_is_selected_can_be_differentiated() -> None:
    gradient = torch.func.grad(lambda w: (w * w).gather(1, ops.topk_blocks(w, 2)).sum())(W)
    want = torch.zeros_like(W).scatter(1, reference.topk_blocks(W, 2), 2.0) * W
    assert torch.equal(gradient, want)


@pytest.mark.once
def test_opcheck() -> None:
    op = torch.ops.peel_ext.topk_blocks.default
    torch.library.opcheck(op, (W, 2, None, None, True))
    torch.library.opcheck(op, (W, None, C[None], torch.tensor([2, 3]), False))


@pytest.mark.once
def test_compiles() -> None:
    compiled = torch.compile(lambda w: ops.topk_blocks(w, 3), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(W), ops.topk_blocks(W, 3))
