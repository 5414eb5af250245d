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
