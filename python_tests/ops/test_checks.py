"""What every op does with arguments that are unusual, but not wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext import ops

TABLE = torch.arange(40.0).reshape(10, 4)
USERS = torch.ones(2, 4)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_numpy_integers_are_integers(integer) -> None:
    three = integer(3)
    assert ops.topk_blocks(TABLE, three).shape == (10, 3)
    costs = torch.ones(4, dtype=torch.int64)
    assert torch.equal(
        ops.topk_blocks(TABLE, costs=costs, budget_bytes=three),
        ops.topk_blocks(TABLE, costs=costs, budget_bytes=3),
    )
    assert ops.gathered_score(USERS, TABLE, three)[0].shape == (2, 3)


def test_numpy_booleans_are_no_integers() -> None:
    with pytest.raises(TypeError, match="k must be an integer"):
        ops.topk_blocks(TABLE, np.bool_(True))


def test_meta_tensors_give_meta_results() -> None:
    table, users = TABLE.to("meta"), USERS.to("meta")
    assert ops.topk_blocks(table, 3).shape == (10, 3)
    assert ops.topk_blocks(table, 3).is_meta
    indices, scores = ops.gathered_score(users, table, 5)
    assert indices.is_meta
    assert scores.shape == (2, 5)
    rows = ops.grouped_lookup(table, torch.zeros(2, 3, dtype=torch.int64, device="meta"))
    assert rows.is_meta
    assert rows.shape == (2, 3, 4)


def test_a_meta_tensor_among_others_is_an_error() -> None:
    with pytest.raises(ValueError, match="one on meta and others on the CPU"):
        ops.gathered_score(USERS, TABLE.to("meta"), 5)


INDICES = torch.tensor([1, 2])
EXCLUDED = dict(exclude=INDICES, exclude_indptr=torch.tensor([0, 1, 2]))
COSTS = dict(costs=torch.tensor([1, 2, 3, 4]), budget_bytes=torch.tensor([3, 4]))

#: Every tensor that an op takes, by its name.
TENSORS = [
    (ops.grouped_lookup, dict(weight=TABLE, indices=INDICES), "weight"),
    (ops.grouped_lookup, dict(weight=TABLE, indices=INDICES), "indices"),
    (
        ops.grouped_lookup,
        dict(weight=TABLE, indices=INDICES, groups=INDICES, num_groups=3),
        "groups",
    ),
    (ops.gathered_score, dict(users=USERS, table=TABLE, n=3), "users"),
    (ops.gathered_score, dict(users=USERS, table=TABLE, n=3), "table"),
    (ops.gathered_score, dict(users=USERS, table=TABLE, n=3, candidates=INDICES), "candidates"),
    (ops.gathered_score, dict(users=USERS, table=TABLE, n=3) | EXCLUDED, "exclude"),
    (ops.gathered_score, dict(users=USERS, table=TABLE, n=3) | EXCLUDED, "exclude_indptr"),
    (ops.topk_blocks, dict(weights=USERS, k=2), "weights"),
    (ops.topk_blocks, dict(weights=USERS) | COSTS, "costs"),
    (ops.topk_blocks, dict(weights=USERS) | COSTS, "budget_bytes"),
]
every_tensor = pytest.mark.parametrize(("op", "arguments", "name"), TENSORS)


@every_tensor
def test_a_sparse_tensor_is_named(op, arguments: dict, name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a dense tensor, got one of torch.sparse"):
        op(**arguments | {name: arguments[name].to_sparse()})


@pytest.mark.parametrize(
    ("op", "arguments", "name"), TENSORS[:-2]
)  # torch itself refuses the others
def test_a_tensor_without_memory_is_named(op, arguments: dict, name: str) -> None:
    freed = arguments[name].clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"^{name} must have memory, got shape"):
        op(**arguments | {name: freed})


@every_tensor
def test_a_tensor_kept_with_the_other_sign_is_read_with_its_own(
    op, arguments: dict, name: str
) -> None:
    negated = torch._neg_view(-arguments[name])
    assert negated.is_neg()
    try:
        got = op(**arguments | {name: negated})
    except ValueError as error:  # of integers torch's own functions make none
        assert not arguments[name].is_floating_point()
        assert str(error) == f"{name} must have its values in memory: call its resolve_neg()"  # noqa: PT017
    else:
        want = op(**arguments)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
