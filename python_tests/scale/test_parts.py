"""Interactions, products and lists in parts are those of one process."""

from __future__ import annotations

import numpy as np
import torch
from rank_processes import RankProcesses

from peel_ext.data import ItemLists, SyntheticConfig, make_interactions
from peel_ext.models import normalised_adjacency
from peel_ext.models.lightgcn import LightGCN
from peel_ext.scale import ranking
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.scale.propagation import Propagation
from peel_ext.scale.svd import factor_rows, truncated_svd
from peel_ext.train import svd
from peel_ext.train.held_out import rank_unseen


def _shard(ranks: Collectives, seed: int) -> tuple[ItemShard, ItemLists]:
    config = SyntheticConfig(num_users=61, num_items=47, mean_interactions=9, seed=seed)
    lists = make_interactions(config).csr()
    indptr = lists.indptr
    users = Partition(61, ranks.size)
    own = users.own(ranks.rank)
    places = np.arange(indptr[own.start], indptr[own.stop], dtype=np.float32)
    part = lists.take(np.arange(own.start, own.stop))
    return ItemShard.of_users(part, places, users, Partition(47, ranks.size), ranks), lists


def _interactions(ranks: Collectives, seed: int) -> None:
    shard, lists = _shard(ranks, seed)
    indptr, items = lists.indptr, lists.items
    own = shard.items.own(ranks.rank)
    mine = (items >= own.start) & (items < own.stop)
    owners = np.repeat(np.arange(61), np.diff(indptr))[mine]
    assert np.array_equal(shard.columns.numpy() + own.start, items[mine])
    assert np.array_equal(np.repeat(np.arange(61), shard.indptr.diff().numpy()), owners)
    assert shard.weights is not None
    assert np.array_equal(shard.weights.numpy(), np.flatnonzero(mine))
    assert np.array_equal(shard.degrees.numpy(), np.diff(indptr))
    assert np.array_equal(shard.counts.numpy(), np.bincount(items, minlength=47)[own])


def _products(ranks: Collectives, seed: int) -> None:
    shard, lists = _shard(ranks, seed)
    indptr, items = lists.indptr, lists.items
    generator = torch.Generator().manual_seed(seed)
    tables = torch.randn(61, 5, generator=generator), torch.randn(47, 5, generator=generator)
    model = LightGCN(
        *map(torch.nn.Embedding.from_pretrained, tables), torch.from_numpy(indptr),
        torch.from_numpy(items), 2,
    )  # fmt: skip
    own = shard.users.own(ranks.rank), shard.items.own(ranks.rank)
    found = Propagation(shard, ranks).smooth(tables[0][own[0]], tables[1][own[1]], 2)
    for part, whole, rows in zip(found, model(), own, strict=True):
        torch.testing.assert_close(part, whole[rows])


def _decompositions(ranks: Collectives, seed: int) -> None:
    shard, lists = _shard(ranks, seed)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(47, 13, generator=generator)
    rows, factor = factor_rows(table[shard.items.own(ranks.rank)], ranks)
    torch.testing.assert_close(rows @ factor, table[shard.items.own(ranks.rank)])
    torch.testing.assert_close(ranks.sum(rows.T @ rows), torch.eye(13), rtol=0, atol=1e-5)
    matrices = normalised_adjacency(
        torch.from_numpy(lists.indptr), torch.from_numpy(lists.items), 47
    )
    expected = svd.truncated_svd(*matrices, 6, torch.Generator().manual_seed(seed))
    found = truncated_svd(
        Propagation(shard, ranks), shard.users, shard.items, 6,
        torch.Generator().manual_seed(seed), ranks,
    )  # fmt: skip
    users, items = map(ranks.join, found)
    # Signs are arbitrary, and columns of near equal values may turn among themselves.
    torch.testing.assert_close(users @ items.T, expected[0] @ expected[1].T, rtol=0, atol=2e-4)


def _lists(ranks: Collectives, seed: int) -> None:
    shard, lists = _shard(ranks, seed)
    rng = np.random.default_rng(seed)
    # Few values, so that there are many ties.
    users, items = (rng.integers(-2, 3, (size, 3)).astype(np.float32) for size in (61, 47))
    expected = rank_unseen(users, items, lists, 40)
    own = shard.users.own(ranks.rank)
    rows = np.arange(own.start, own.stop)[:: 1 + ranks.rank]
    before, ranking._BATCH = ranking._BATCH, 7
    found = ranking.rank_unseen(
        rows, users[rows], items[shard.items.own(ranks.rank)], shard, 40, ranks
    )
    ranking._BATCH = before
    assert np.array_equal(found, expected[rows])


def test_interactions_go_to_the_owners_of_their_items(
    rank_processes: RankProcesses, seed: int
) -> None:
    rank_processes.run(_interactions, seed)


def test_smoothing_in_parts_is_that_of_one_process(
    rank_processes: RankProcesses, seed: int
) -> None:
    rank_processes.run(_products, seed)


def test_decompositions_in_parts_are_those_of_one_process(
    rank_processes: RankProcesses, seed: int
) -> None:
    rank_processes.run(_decompositions, seed)


def test_lists_in_parts_are_those_of_one_process(rank_processes: RankProcesses, seed: int) -> None:
    rank_processes.run(_lists, seed)
