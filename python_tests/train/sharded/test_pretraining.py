"""Steps by two processes are those of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rank_processes import RankProcesses

from peel_ext.config import PretrainingConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.models import table_of
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.train import pretraining
from peel_ext.train.sharded import pretraining as sharded
from peel_ext.train.sharded.pretraining import scale_weights
from peel_ext.train.vector_training import VectorTraining


def _steps(ranks: Collectives, seed: int, settings: dict[str, Any], weighted: bool) -> None:
    made = make_interactions(
        SyntheticConfig(num_users=90, num_items=70, mean_interactions=12, seed=seed)
    )
    lists = made.csr()
    weights = np.random.default_rng(seed).uniform(1, 9, len(lists.items)) if weighted else None
    config = PretrainingConfig(embedding_dim=9, epochs=1, steps_per_epoch=4, **settings)
    users = Partition(90, ranks.size)
    own = users.own(ranks.rank)
    part = slice(lists.indptr[own.start], lists.indptr[own.stop])
    local = lists.take(np.arange(own.start, own.stop))
    shares = scale_weights(None if weights is None else weights[part], local, config.weight_scale)
    shard = ItemShard.of_users(local, shares, users, Partition(70, ranks.size), ranks)
    one = VectorTraining(
        torch.from_numpy(lists.indptr), torch.from_numpy(lists.items), 70, config,
        None if weights is None else pretraining._scaled(weights, config),
    )  # fmt: skip
    two = sharded._Training(shard, config, ranks)
    one.start()
    two.start()
    assert torch.equal(one.generator.get_state(), two.generator.get_state())
    tables = table_of(one.model.user_embedding), table_of(one.model.item_embedding)
    rows = own, shard.items.own(ranks.rank)
    with torch.no_grad():  # the singular vectors have arbitrary signs, the noise has not
        for table, mine, where in zip(tables, (two.users, two.items), rows, strict=True):
            mine.copy_(table[where])
    for done in range(one.num_steps):
        assert two.step(done) == pytest.approx(one.step(done), rel=1e-4)
    for table, mine, where in zip(tables, (two.users, two.items), rows, strict=True):
        error = (mine - table[where]).norm() / table[where].norm()
        assert error < 1e-3, float(error)


@pytest.mark.parametrize(
    ("settings", "weighted"),
    [
        ({}, False),
        ({"num_layers": 0}, True),
        ({"softmax": "sampled", "num_negatives": 20}, True),
        ({"softmax": "sampled", "num_negatives": 200}, False),
    ],
)
def test_steps_by_two_processes_are_those_of_one(
    rank_processes: RankProcesses, seed: int, settings: dict[str, Any], weighted: bool
) -> None:
    rank_processes.run(_steps, seed, settings, weighted)


def _vectors(ranks: Collectives, seed: int) -> tuple[Any, ...]:
    made = make_interactions(
        SyntheticConfig(num_users=90, num_items=70, mean_interactions=12, seed=seed)
    )
    lists = made.csr()
    users = Partition(90, ranks.size)
    own = users.own(ranks.rank)
    local = lists.take(np.arange(own.start, own.stop))
    shard = ItemShard.of_users(local, None, users, Partition(70, ranks.size), ranks)
    config = PretrainingConfig(embedding_dim=9, epochs=2, steps_per_epoch=4, seed=seed)
    told: list[tuple[int, int, float]] = []
    found = sharded.pretrain(shard, config, ranks, on_progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(done, 8) for done in range(1, 9)]
    expected = pretraining.pretrain(lists, 70, config)
    assert found.prior == pytest.approx(expected.prior, abs=1e-3)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0.02)
    rows = ranks.join(torch.from_numpy(found.items)).numpy()
    scores = found.users @ rows.T, expected.users[own] @ expected.items.T
    assert np.corrcoef(*(each.ravel() for each in scores))[0, 1] > 0.99
    return found


def test_a_training_is_that_of_one_process_and_repeats_bit_by_bit(
    rank_processes: RankProcesses, seed: int
) -> None:
    first, again = (rank_processes.run(_vectors, seed) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
