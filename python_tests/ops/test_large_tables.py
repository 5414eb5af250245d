"""Tables and weights of more than 2^31 elements. Memory never written costs nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext import PlanesLayout, ops
from peel_ext.format.quantizer import level_table
from peel_ext.ops.lookup import BlockStore

pytestmark = pytest.mark.slow

ROWS, DIM = (1 << 25) + 9, 64
FAR = [0, 5, (1 << 25) - 1, ROWS - 1]


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    """[ROWS, DIM], of which only the rows FAR are not zero."""
    table = torch.from_numpy(np.zeros((ROWS, DIM), np.float32))
    for value, row in enumerate(FAR, start=1):
        table[row] = value
    return table


def test_lookup_and_score(table: torch.Tensor) -> None:
    far = torch.tensor(FAR)
    rows = ops.grouped_lookup(table, far)
    assert torch.equal(rows[:, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    indices, scores = ops.gathered_score(torch.ones(1, DIM), table, 3, candidates=far)
    assert indices.tolist() == [FAR[:0:-1]]
    assert scores.tolist() == [[4.0 * DIM, 3.0 * DIM, 2.0 * DIM]]


def test_step_of_far_rows(table: torch.Tensor) -> None:
    far = torch.tensor(FAR)
    before = table[far].clone()
    total = torch.from_numpy(np.zeros(ROWS, np.float32))
    ops.update_rows(
        table, far, torch.ones(4, DIM), [total],
        rule="rowwise_adagrad", learning_rate=0.5, eps=0.0,
    )  # fmt: skip
    assert torch.equal(table[far], before - 0.5)
    assert torch.equal(total[far], torch.ones(4))
    table[far] = before


def test_encoded_rows() -> None:
    rows = (1 << 28) + 9
    layout = PlanesLayout((8,))
    store = torch.from_numpy(np.zeros((rows, 8 * 2), np.uint8))
    store[rows - 1] = 255
    scales = torch.from_numpy(np.zeros((rows, 1), np.float16))
    scales[rows - 1] = 2
    blocks = BlockStore(
        layout=layout,
        store=store,
        scales=scales,
        item_group=torch.from_numpy(np.zeros((1, rows), np.int32)),
        held=torch.ones(1, 1, dtype=torch.int64),
        levels=torch.from_numpy(level_table().copy()),
    )
    weight = torch.from_numpy(np.zeros((rows, 16), np.float32))
    got = ops.grouped_lookup(weight, torch.tensor([rows - 1, 1]), blocks=blocks)
    assert torch.equal(got[0], torch.full((16,), 2 * float(level_table()[-1])))
    assert not got[1].any()


def test_selection_among_more_than_two_billion_weights() -> None:
    n = (1 << 31) + 1000
    weights = torch.from_numpy(np.zeros(n, np.float32))
    places = [n - 1, 3, 1 << 31, (1 << 31) - 1]
    for worth, place in enumerate(reversed(places), start=1):
        weights[place] = worth
    assert ops.topk_blocks(weights, 6).tolist() == [*places, 0, 1]
