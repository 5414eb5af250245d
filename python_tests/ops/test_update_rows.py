"""update_rows against its reference, and its contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peel_ext import _core, ops, reference

RULES = ["rowwise_adagrad", "adam"]


def problem(generator, rows: int, dim: int, count: int, rule: str) -> dict[str, Any]:
    shape = (rows,) if rule == "rowwise_adagrad" else (rows, dim)
    return {
        "weight": torch.randn(rows, dim, generator=generator),
        "indices": torch.randint(0, max(rows, 1), (count,), generator=generator),
        "gradients": torch.randn(count, dim, generator=generator),
        "state": [torch.rand(shape, generator=generator) for _ in range(1 + (rule == "adam"))],
    }


def copied(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [t.clone() for t in value] if isinstance(value, list) else value.clone()
        for name, value in arguments.items()
    }


def step(module: Any, arguments: dict[str, Any], rule: str, **options: Any) -> list[torch.Tensor]:
    options = {"learning_rate": 0.1, "eps": 1e-6, "step": 3, **options}
    module.update_rows(**arguments, rule=rule, **options)
    return [arguments["weight"], *arguments["state"]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("rows", "dim", "count"),
    [
        (0, 4, 0),
        (1, 1, 1),
        (1, 1, 9),
        (5, 3, 0),
        (7, 8, 20),
        (40, 4, 256),
        (40, 4, 257),
        (300, 17, 1000),
        (40, 64, 3000),
    ],
)
def test_equals_reference(rule: str, rows: int, dim: int, count: int, generator) -> None:
    arguments = problem(generator, rows, dim, count, rule)
    got = step(ops, copied(arguments), rule)
    for ours, want in zip(got, step(reference, copied(arguments), rule), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-5)
    untouched = torch.ones(rows, dtype=torch.bool)
    untouched[arguments["indices"]] = False
    assert torch.equal(got[0][untouched], arguments["weight"][untouched])


@pytest.mark.parametrize("rule", RULES)
def test_int32_indices_and_strided_views(rule: str, generator) -> None:
    arguments = problem(generator, 20, 6, 50, rule)
    want = step(ops, copied(arguments), rule)
    wide = torch.zeros(20, 10)
    wide[:, 2:8] = arguments["weight"]
    strided = copied(arguments) | {
        "weight": wide[:, 2:8],
        "indices": arguments["indices"].int().repeat_interleave(2)[::2],
        "gradients": arguments["gradients"].T.contiguous().T,
    }
    for got, expected in zip(step(ops, strided, rule), want, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(wide[:, :2], torch.zeros(20, 2))
    assert torch.equal(wide[:, 8:], torch.zeros(20, 2))


@pytest.mark.parametrize("rule", RULES)
def test_repeats_and_threads_agree(rule: str, generator) -> None:
    arguments = problem(generator, 500, 33, 20_000, rule)
    before = _core.num_threads()
    results = []
    try:
        for threads in (1, 2, 2, 5):
            _core.set_num_threads(threads)
            results.append(step(ops, copied(arguments), rule)[0])
    finally:
        _core.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_stale_views_are_noticed(generator) -> None:
    arguments = problem(generator, 5, 3, 4, "rowwise_adagrad")
    versions = [arguments["weight"]._version, arguments["state"][0]._version]
    step(ops, arguments, "rowwise_adagrad")
    assert arguments["weight"]._version > versions[0]
    assert arguments["state"][0]._version > versions[1]


@pytest.mark.once
@pytest.mark.parametrize("rule", RULES)
def test_opcheck(rule: str, generator) -> None:
    arguments = problem(generator, 6, 4, 9, rule)
    state = [*arguments["state"], None][:2]
    code = {"rowwise_adagrad": 0, "adam": 1}[rule]
    torch.library.opcheck(
        torch.ops.peel_ext.update_rows.default,
        (arguments["weight"], arguments["indices"], arguments["gradients"], *state,
         code, 0.1, 0.1, 0.001, 1e-8),
    )  # fmt: skip


@pytest.mark.parametrize("bad", [-1, 5])
def test_nothing_is_written_when_an_index_is_out_of_range(bad: int, generator) -> None:
    arguments = problem(generator, 5, 3, 4, "adam")
    arguments["indices"][2] = bad
    before = copied(arguments)
    with pytest.raises(IndexError, match=rf"indices contain {bad} at flat position 2.*\[0, 5\)"):
        step(ops, arguments, "adam")
    assert torch.equal(arguments["weight"], before["weight"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(5, 3).double()}, TypeError, "weight must be float32"),
        ({"weight": torch.zeros(3, 5).T}, ValueError, "weight must have adjacent columns"),
        ({"weight": torch.zeros(1, 3).expand(5, 3)}, ValueError, "rows apart"),
        ({"indices": torch.zeros(4)}, TypeError, "indices must be int32 or int64"),
        ({"indices": torch.zeros(3, dtype=torch.int64)}, ValueError, "gradients must have shape"),
        ({"gradients": torch.zeros(4, 2)}, ValueError, "gradients must have shape"),
        ({"state": []}, ValueError, "state must hold 1 tensors"),
        ({"state": [torch.zeros(4)]}, ValueError, r"state\[0\] must have shape \(5,\)"),
        ({"state": [torch.zeros(10)[::2]]}, ValueError, r"state\[0\] must be contiguous"),
        ({"rule": "sgd"}, ValueError, "rule must be"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be finite"),
        ({"eps": -1.0}, ValueError, "eps must be finite"),
        ({"rule": "adam", "state": [torch.zeros(5, 3), torch.zeros(5, 3)], "step": 0},
         ValueError, "step must"),
        ({"rule": "adam", "state": [torch.zeros(5, 3), torch.zeros(5, 3)], "betas": (1.0, 0.9)},
         ValueError,
         "betas must"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, error, message, generator) -> None:
    arguments = {
        **problem(generator, 5, 3, 4, "rowwise_adagrad"),
        "rule": "rowwise_adagrad",
        "learning_rate": 0.1,
        "eps": 1e-8,
        **change,
    }
    with pytest.raises(error, match=message):
        ops.update_rows(**arguments)


def test_arguments_that_share_memory_are_refused(generator) -> None:
    arguments = problem(generator, 5, 3, 5, "adam")
    for change in (
        {"gradients": arguments["weight"]},
        {"state": [arguments["state"][0], arguments["state"][0]]},
        {"state": [arguments["weight"], arguments["state"][0]]},
    ):
        with pytest.raises(ValueError, match="must not share memory"):
            step(ops, arguments | change, "adam")


def test_no_gradient_changes_nothing_even_without_eps() -> None:
    weight = torch.ones(2, 3)
    ops.update_rows(
        weight, torch.tensor([1]), torch.zeros(1, 3), [torch.zeros(2)],
        rule="rowwise_adagrad", learning_rate=0.1, eps=0.0,
    )  # fmt: skip
    assert torch.equal(weight, torch.ones(2, 3))


def test_meta_tensors_are_stepped_by_nobody() -> None:
    weight = torch.empty(4, 8, device="meta")
    ops.update_rows(
        weight, torch.zeros(1, dtype=torch.int64, device="meta"),
        torch.zeros(1, 8, device="meta"), [torch.zeros(4, device="meta")],
        rule="rowwise_adagrad", learning_rate=0.1, eps=1e-8,
    )  # fmt: skip


@pytest.mark.parametrize("beta", [0.999, 0.999999, 0.99999999])
def test_slow_moments_keep_their_digits(beta: float) -> None:
    weight = torch.zeros(1, 4)
    state = [torch.zeros(1, 4), torch.zeros(1, 4)]
    ops.update_rows(
        weight, torch.tensor([0]), torch.ones(1, 4), state,
        rule="adam", learning_rate=1e-3, eps=1e-12, betas=(0.9, beta),
    )  # fmt: skip
    torch.testing.assert_close(weight, torch.full((1, 4), -1e-3), rtol=1e-5, atol=0)
