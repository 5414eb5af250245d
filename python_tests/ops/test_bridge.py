"""Native code is never given memory that is not what it takes it for: that is an error instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from peel_ext import ops
from peel_ext.ops import _bridge
from peel_ext.ops.lookup import Pairs, Table, gather

WEIGHT = torch.arange(40.0).reshape(10, 4)
INDICES = torch.tensor([3, 1, 4])
# The ops as torch has them registered: a saved program calls them with whatever it is given.
REGISTERED = torch.ops.peel_ext


def look_up(
    weight: Tensor = WEIGHT, indices: Tensor = INDICES, groups: Tensor | None = None,
    refinement: Tensor | None = None, slot: Tensor | None = None,
) -> Tensor:  # fmt: skip
    rows: Tensor = REGISTERED.grouped_lookup(
        weight, 2, refinement, slot, [0, 0, 0], *[None] * 6, indices, groups, 0, -1, False, False
    )
    return rows


def test_the_registered_ops_serve_what_fits() -> None:
    slot = torch.full((10, 2), -1, dtype=torch.int32)
    slot[INDICES, 0] = 2
    turned = slot.T  # not contiguous
    assert torch.equal(look_up(refinement=WEIGHT, slot=turned), WEIGHT[INDICES] + WEIGHT[2])
    assert torch.equal(look_up(), WEIGHT[INDICES])
    assert torch.equal(look_up(indices=INDICES.int()), WEIGHT[INDICES])
    assert torch.equal(look_up(WEIGHT.T.contiguous().T), WEIGHT[INDICES])
    assert torch.equal(look_up(WEIGHT[:, :1]), WEIGHT[INDICES, :1])
    assert look_up(WEIGHT[:, :0]).shape == (3, 0)
    assert look_up(WEIGHT.T[:, :0], INDICES[:0]).shape == (0, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(weight=WEIGHT.double()), "weight must be float32, got float64"),
        (dict(weight=WEIGHT.half()), "weight must be float32, got float16"),
        (dict(indices=INDICES.float()), "indices must be int32 or int64, got float32"),
        (dict(groups=INDICES.int()), "groups must be int64, got int32"),
        (
            dict(refinement=WEIGHT, slot=torch.zeros(2, 10, dtype=torch.int64)),
            "refinement_slot must be int32, got int64",
        ),
        (
            dict(refinement=WEIGHT.bfloat16(), slot=torch.zeros(2, 10, dtype=torch.int32)),
            "refinement must be float32, got bfloat16",
        ),
    ],
)
def test_another_dtype_is_an_error(given: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        look_up(**given)


def test_another_dtype_is_an_error_of_the_other_ops() -> None:
    with pytest.raises(TypeError, match="weights must be float32 or float64, got int64"):
        REGISTERED.topk_blocks(WEIGHT.long(), 2, None, None, True)
    costs = torch.ones(1, 4, dtype=torch.int32)
    with pytest.raises(TypeError, match="costs must be int64, got int32"):
        REGISTERED.topk_blocks(WEIGHT, None, costs, torch.ones(10, dtype=torch.int64), True)
    with pytest.raises(TypeError, match="users must be float32, got float64"):
        REGISTERED.gathered_score(WEIGHT.double(), WEIGHT, 2, None, None, None)
    with pytest.raises(TypeError, match="candidates must be int64, got int32"):
        REGISTERED.gathered_score(WEIGHT, WEIGHT, 2, INDICES.int(), None, None)
    total = torch.zeros(10, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"state\[0\] must be float32, got float64"):
        REGISTERED.update_rows(
            WEIGHT.clone(), INDICES, WEIGHT[:3], total, None, 0, 0.1, 0.1, 0.1, 0.1
        )
    with pytest.raises(TypeError, match="gradient must be float32, got float64"):
        REGISTERED.grouped_lookup_backward(
            WEIGHT[:3].double(), INDICES, None, 0, INDICES, 10, False, 10, 2, [0, 0, 0], None, None
        )


def test_memory_that_is_not_adjacent_is_an_error() -> None:
    with pytest.raises(ValueError, match="values must be adjacent in memory"):
        _bridge.first_out_of_range(torch.arange(6)[::2], 9)
    with pytest.raises(ValueError, match=r"weights must be adjacent .* shape \(4, 10\)"):
        _bridge.topk_blocks(WEIGHT.T, 2, None, None, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(weight=WEIGHT[0]), "weight must have 2 dimensions"),
        (dict(indices=INDICES[None]), "indices must have 1 dimensions"),
        (dict(groups=INDICES[:2] * 0), r"groups must have shape \(3,\), got \(2,\)"),
        (dict(refinement=WEIGHT), "refinement and refinement_slot must be given together"),
        (
            dict(refinement=WEIGHT[:, :2], slot=torch.zeros(2, 10, dtype=torch.int32)),
            "refinement must have shape",
        ),
        (
            dict(refinement=WEIGHT, slot=torch.zeros(2, 9, dtype=torch.int32)),
            "refinement_slot must have shape",
        ),
    ],
)
def test_another_shape_is_an_error(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_up(**given)


def test_another_shape_is_an_error_of_gradients() -> None:
    def gradient(rows: Tensor = WEIGHT[:3], targets: Tensor = INDICES, count: int = 10) -> Tensor:
        result: Tensor = REGISTERED.grouped_lookup_backward(
            rows, INDICES, None, 0, targets, count, False, 10, 2, [0, 0, 0], None, None
        )
        return result

    assert gradient().shape == (10, 4)
    with pytest.raises(ValueError, match=r"gradient must have shape \(3, 'any'\), got \(4, 4\)"):
        gradient(WEIGHT[:4])
    with pytest.raises(ValueError, match="targets must have shape"):
        gradient(targets=INDICES[:2])
    with pytest.raises(IndexError, match=r"targets contain 4, expected values in \[-1, 4\)"):
        gradient(count=4)
    with pytest.raises(IndexError, match="targets contain -2"):
        gradient(targets=torch.tensor([0, -2, 1]))


HOSTILE: dict[str, Callable[[], object]] = {
    "more than there are": lambda: REGISTERED.topk_blocks(WEIGHT, 10**6, None, None, True),
    "short costs": lambda: REGISTERED.topk_blocks(
        WEIGHT, None, torch.ones(1, 2, dtype=torch.int64), torch.ones(10, dtype=torch.int64), True
    ),
    "short budgets": lambda: REGISTERED.topk_blocks(
        WEIGHT, None, torch.ones(1, 4, dtype=torch.int64), torch.ones(1, dtype=torch.int64), True
    ),
    "a far candidate": lambda: REGISTERED.gathered_score(
        WEIGHT, WEIGHT, 2, torch.tensor([10**9]), None, None
    ),
    "no rows asked for": lambda: REGISTERED.gathered_score(WEIGHT, WEIGHT, 0, None, None, None),
    "another width": lambda: REGISTERED.gathered_score(WEIGHT[:, :2], WEIGHT, 2, None, None, None),
    "wild lists": lambda: REGISTERED.gathered_score(
        WEIGHT, WEIGHT, 2, None, torch.arange(11) * 10**6, torch.tensor([1])
    ),
    "half a list": lambda: REGISTERED.gathered_score(
        WEIGHT, WEIGHT, 2, None, torch.zeros(11, dtype=torch.int64), None
    ),
    "short state": lambda: REGISTERED.update_rows(
        WEIGHT.clone(), INDICES, WEIGHT[:3].clone(), torch.zeros(1), None, 0, 0.1, 0.1, 0.1, 0.1
    ),
    "half a state": lambda: REGISTERED.update_rows(
        WEIGHT.clone(), INDICES, WEIGHT[:3].clone(), torch.zeros(10, 4), None, 1, 0.1, 0.1, 0.1, 0.1
    ),
    "few gradients": lambda: REGISTERED.update_rows(
        WEIGHT.clone(), INDICES, WEIGHT[:2].clone(), torch.zeros(10), None, 0, 0.1, 0.1, 0.1, 0.1
    ),
    "no such rule": lambda: REGISTERED.update_rows(
        WEIGHT.clone(), INDICES, WEIGHT[:3].clone(), torch.zeros(10), None, 7, 0.1, 0.1, 0.1, 0.1
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", HOSTILE)
def test_the_registered_ops_refuse_what_does_not_fit(call: str) -> None:
    with pytest.raises((ValueError, IndexError, TypeError)):
        HOSTILE[call]()


def test_the_registered_score_takes_candidates_in_any_order() -> None:
    given = torch.tensor([5, 3, 5])
    found, _ = REGISTERED.gathered_score(WEIGHT[1:2], WEIGHT, 3, given, None, None)
    assert found.tolist() == [[5, 3, -1]]


def test_memory_elsewhere_is_an_error() -> None:
    elsewhere = INDICES.to("meta")
    with pytest.raises(ValueError, match="values must be on the CPU, got meta"):
        _bridge.first_out_of_range(elsewhere, 9)
    with pytest.raises(ValueError, match="weights must be on the CPU, got meta"):
        _bridge.topk_blocks(WEIGHT.to("meta"), 2, None, None, True)
    with pytest.raises(ValueError, match="indices must be on cpu as the table, got meta"):
        gather(Table(WEIGHT), Pairs(elsewhere, None))


def test_what_replaces_the_makers_of_tensors_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some libraries do, so that large models are made in half precision."""

    def halved(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*sizes, **options) -> Tensor:
            tensor = make(*sizes, **options)
            return tensor.half() if tensor.is_floating_point() else tensor

        return made

    def compute() -> list[Tensor]:
        leaf = WEIGHT.clone().requires_grad_()
        rows = ops.grouped_lookup(leaf, INDICES)
        scores = ops.gathered_score(WEIGHT, WEIGHT, 3)
        return [rows.detach(), *torch.autograd.grad(rows.sum(), leaf), *scores]

    want = compute()
    for name in ("empty", "zeros"):
        monkeypatch.setattr(torch, name, halved(getattr(torch, name)))
    for one, other in zip(compute(), want, strict=True):
        assert torch.equal(one, other)
