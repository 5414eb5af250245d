"""What two processes send each other arrives, in order and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rank_processes import RankProcesses

from peel_ext.errors import DataError
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.draws import draw_normal
from peel_ext.scale.exchange import RowExchange
from peel_ext.scale.partition import Partition


def _sums(ranks: Collectives) -> tuple[Any, ...]:
    before = ranks.sent_bytes
    values = torch.tensor([1.5, -2.0]) * (ranks.rank + 1)
    made = ranks.sum(values), ranks.max(values), ranks.stack(values)
    assert values.tolist() == [1.5 * (ranks.rank + 1), -2.0 * (ranks.rank + 1)]
    return *(each.tolist() for each in made), ranks.sent_bytes - before


def test_sums_and_stacks_are_the_same_on_every_rank(rank_processes: RankProcesses) -> None:
    expected = ([4.5, -6.0], [3.0, -2.0], [[1.5, -2.0], [3.0, -4.0]], 8 + 8 + 8)
    assert rank_processes.run(_sums) == [expected, expected]


def _messages(ranks: Collectives) -> Any:
    return ranks.tell({"from": "first", "some": [1, None]} if ranks.is_first else None)


def test_the_first_rank_tells_the_others(rank_processes: RankProcesses) -> None:
    assert rank_processes.run(_messages) == [{"from": "first", "some": [1, None]}] * 2


def _rows(ranks: Collectives) -> dict[str, Any]:
    own = torch.arange(6, dtype=torch.int64).view(3, 2)[: 2 + ranks.rank] + 100 * ranks.rank
    before = ranks.sent_bytes
    found: dict[str, Any] = {"exchanged": ranks.exchange([own[:0], own[1:]])}
    found["bytes"] = ranks.sent_bytes - before
    found["joined"], found["collected"] = ranks.join(own), ranks.collect(own)
    found["dealt"] = ranks.deal(own if ranks.is_first else own[:0], [0, 1, 2])
    return {
        name: each if isinstance(each, int) else [part.tolist() for part in each]
        for name, each in found.items()
    }


def test_rows_go_where_they_are_sent(rank_processes: RankProcesses) -> None:
    first, second = rank_processes.run(_rows)
    everything = [[0, 1], [2, 3], [100, 101], [102, 103], [104, 105]]
    assert first["exchanged"] == [[], []]
    assert second["exchanged"] == [[[2, 3]], [[102, 103], [104, 105]]]
    # Two counts of 8 bytes; and of rows the one that rank 0 sends to rank 1.
    assert (first["bytes"], second["bytes"]) == (16 + 16, 16)
    assert first["joined"] == second["joined"] == first["collected"] == everything
    assert second["collected"] == []
    assert (first["dealt"], second["dealt"]) == ([[0, 1]], [[2, 3]])


def _needed_rows(ranks: Collectives, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(11, 3, generator=generator)
    needed = [torch.randperm(11, generator=generator)[:count].sort().values for count in (4, 7)]
    weights = [torch.randn(len(each), 3, generator=generator) for each in needed]
    partition = Partition(11, 2)
    plan = RowExchange(needed[ranks.rank], partition, ranks)
    own = partition.own(ranks.rank)
    sums = torch.zeros(11, 3)
    for rows, values in zip(needed, weights, strict=True):
        sums.index_add_(0, rows, values)
    torch.testing.assert_close(plan.fetch(table[own]), table[needed[ranks.rank]], rtol=0, atol=0)
    torch.testing.assert_close(plan.give(weights[ranks.rank]), sums[own])
    nothing = RowExchange(needed[0][:0], partition, ranks)
    assert nothing.fetch(table[own]).shape == (0, 3)
    return {}


def test_needed_rows_are_fetched_and_given_back(rank_processes: RankProcesses, seed: int) -> None:
    rank_processes.run(_needed_rows, seed)


@pytest.mark.parametrize("size", [1, 7, 4097, 12_288, 12_289])
@pytest.mark.parametrize("dim", [3, 16])
def test_draws_of_parts_are_the_draw_of_the_whole(size: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(size, dim, generator=generator)
    after = torch.rand(1, generator=generator)
    for num_ranks in (1, 3):
        partition, parts = Partition(size, num_ranks), []
        for rank in range(num_ranks):
            if partition.count(rank) == 0:
                continue
            generator = torch.Generator().manual_seed(seed)
            parts.append(draw_normal(partition, rank, dim, generator))
            assert torch.rand(1, generator=generator) == after
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("size", "num_ranks"), [(0, 2), (10, 1), (10, 3), (10, 4), (7, 7)])
def test_a_partition_is_that_of_torch(size: int, num_ranks: int) -> None:
    partition, rows = Partition(size, num_ranks), torch.arange(size)
    parts = [rows[partition.own(rank)] for rank in range(num_ranks)]
    expected = list(rows.chunk(num_ranks)) if size else []
    expected += [rows[:0]] * (num_ranks - len(expected))
    assert all(map(torch.equal, parts, expected))
    assert partition.edges[-1] == size
    owners = partition.owners(np.arange(size))
    assert [int((owners == rank).sum()) for rank in range(num_ranks)] == list(map(len, parts))


def test_every_rank_must_own_something() -> None:
    assert Partition.of("users", 4, 4).count(3) == 1
    for size, num_ranks in ((3, 4), (5, 4), (0, 1)):
        with pytest.raises(DataError, match=rf"{size} users cannot be dealt out to {num_ranks} r"):
            Partition.of("users", size, num_ranks)
