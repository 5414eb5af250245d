"""What several processes learn for user groups, each for its own, is what one process learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sharded_population
import thread_ranks
import torch
from rank_processes import RankProcesses

from peel_ext.config import ColumnsConfig, ControlConfig, ExposureConfig, RefinementConfig
from peel_ext.data import ItemLists
from peel_ext.device import fold_in_users as fold_in_users_alone
from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.nn import ElasticEmbedding
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition
from peel_ext.scale.transposition import Transposition
from peel_ext.train.block_weights import mixture_trial
from peel_ext.train.block_weights.expected_hits import regress_row_values
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.block_weights.mixture import Mixture
from peel_ext.train.block_weights.tried_users import TriedUsers
from peel_ext.train.population import Population
from peel_ext.train.refinement import refine_tables
from peel_ext.train.sharded import expected_hits, exposure, mixture, refinement
from peel_ext.train.sharded.blocks import cut_blocks
from peel_ext.train.sharded.fold_in import fold_in_users


def _refine(
    ranks: Collectives, population: Population, layout: Layout, config: RefinementConfig
) -> tuple[np.ndarray, ...]:
    own = sharded_population.deal(population, ranks)
    values = exposure.measure_exposure(own, ExposureConfig())
    return (values, *refinement.refine_tables(own, values, layout, config))


@pytest.mark.parametrize(
    ("layout", "rows"), [(PlanesLayout(), 40), (ColumnsLayout(num_item_groups=7), 0)]
)
def test_refinements_are_those_of_one_process(
    rank_processes: RankProcesses, population: Population, layout: Layout, rows: int
) -> None:
    config = RefinementConfig(steps=4, rows_per_group=rows)
    found = rank_processes.run(_refine, population, layout, config)
    values = measure_exposure(population, ExposureConfig())
    expected = (values, *refine_tables(population, values, layout, config))
    assert all(len(part) for parts in found for part in parts)
    for parts, whole in zip(zip(*found, strict=True), expected, strict=True):
        assert np.array_equal(np.concatenate(parts), whole)


def _cut(
    ranks: Collectives, population: Population, values: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    own = sharded_population.deal(population, ranks)
    blocks = cut_blocks(own, values[own.groups.own(ranks.rank)], layout)
    return blocks.block_weights.numpy(), blocks.item_group.numpy()


def _cut_nothing(
    ranks: Collectives, population: Population, layout: Layout
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    own = sharded_population.deal(population, ranks)
    blocks = cut_blocks(own, np.zeros((0, 150)), layout)
    return tuple(blocks.block_weights.shape), tuple(blocks.item_group.shape)


@pytest.mark.parametrize(("layout", "num_rows"), [(PlanesLayout(), 0), (ColumnsLayout(5), 1)])
def test_a_rank_without_groups_has_no_blocks(
    rank_processes: RankProcesses, population: Population, layout: Layout, num_rows: int
) -> None:
    for weights, item_group in rank_processes.run(_cut_nothing, population, layout):
        assert weights[0] == 0
        assert item_group == (num_rows, 150)


@pytest.mark.parametrize(
    "layout", [PlanesLayout(), ColumnsLayout(5, "int8", ColumnsConfig().num_item_groups)]
)
def test_blocks_are_those_of_one_process(
    rank_processes: RankProcesses, population: Population, layout: Layout, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 9, (3, 150)).astype(np.float64)  # many ties
    found = rank_processes.run(_cut, population, values, layout)
    expected = ElasticEmbedding.from_pretrained(
        torch.from_numpy(population.item_vectors), num_groups=3, layout=layout
    )
    expected.set_row_values(torch.from_numpy(values))
    weights, item_groups = zip(*found, strict=True)
    np.testing.assert_allclose(np.concatenate(weights), expected.block_weights.numpy(), rtol=1e-6)
    if layout.nested:
        assert np.array_equal(np.concatenate(item_groups), expected.item_group.numpy())
    else:
        assert all(np.array_equal(each, expected.item_group.numpy()) for each in item_groups)


def _as_earlier(ranks: Collectives, population: Population) -> tuple[np.ndarray, ...]:
    earlier, held_out = sharded_population.deal(population, ranks).without_some(0.3, 50, 3)
    members = earlier.bring_members()
    return (
        earlier.user_vectors, earlier.user_group, earlier.lists.items, held_out.items,
        members.user_group, members.user_vectors, members.lists.items,
    )  # fmt: skip


def test_users_as_they_were_earlier_are_those_of_one_process(
    rank_processes: RankProcesses, population: Population
) -> None:
    found = zip(*rank_processes.run(_as_earlier, population), strict=True)
    vectors, *others = (np.concatenate(parts) for parts in found)
    earlier, held_out = population.without_some(0.3, 50, 3)
    by_owner = np.argsort(earlier.user_group // 2, kind="stable")  # two ranks have 3 groups
    expected = (
        earlier.user_group, earlier.lists.items, held_out.items, earlier.user_group[by_owner],
        vectors[by_owner], earlier.lists.take(by_owner).items,
    )  # fmt: skip
    np.testing.assert_allclose(vectors, earlier.user_vectors, atol=1e-5)
    for own, whole in zip(others, expected, strict=True):
        assert np.array_equal(own, whole)


def _fold_in(ranks: Collectives, population: Population) -> np.ndarray:
    own = sharded_population.deal(population, ranks)
    return fold_in_users(
        own.rows, own.item_vectors, own.seen, ranks, steps=20, temperature=0.1, prior=own.prior
    )


def test_rows_of_zeros_are_no_part_of_a_fold_in(
    rank_processes: RankProcesses, population: Population
) -> None:
    items = population.item_vectors.copy()
    items[:80] = 0  # all that the first rank has
    items[100:120] = 0
    counts = population.lists.counts.copy()
    counts[3] = 0
    lists = ItemLists.from_counts(
        counts, population.lists.items[population.lists.owners() != 3]
    )  # fmt: skip
    some = dataclasses.replace(population, item_vectors=items, lists=lists)
    expected = fold_in_users_alone(
        items, lists.indptr, lists.items, temperature=0.1, prior=population.prior
    )
    found = np.concatenate(rank_processes.run(_fold_in, some))
    np.testing.assert_allclose(found, expected, atol=1e-5)


_MIXTURE = Mixture(0.5, 0.1)
_TRIED = ExposureConfig(), ControlConfig(), PlanesLayout(rows_per_block=8)


def _try(ranks: Collectives, population: Population) -> np.ndarray:
    own = sharded_population.deal(population, ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_trial, "_BUDGET_SHARES", (0.2, 0.1))
        return mixture.make_trial(own, *_TRIED).keep(_MIXTURE)


def test_what_users_keep_of_a_mixture_is_what_one_process_finds(
    rank_processes: RankProcesses, population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture_trial, "_BUDGET_SHARES", (0.2, 0.1))
    values = measure_exposure(population, _TRIED[0])
    tried = TriedUsers.of(population, *_TRIED)
    kept = mixture_trial.Trial(tried, values, population, 16, _TRIED[2]).keep(_MIXTURE)
    assert len(kept) == 200
    for found in rank_processes.run(_try, population):
        # An item whose worth is next to that of another may change places with it.
        assert np.isclose(found, kept, rtol=1e-4).mean() > 0.97


def _regress(ranks: Collectives, population: Population, config: ControlConfig) -> np.ndarray:
    own = sharded_population.deal(population, ranks)
    return expected_hits.regress_row_values(own, ExposureConfig(), config)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_hits_to_be_expected_are_those_of_one_process(
    rank_processes: RankProcesses, population: Population, num_groups: int
) -> None:
    some = dataclasses.replace(
        population,
        user_group=population.user_group % num_groups,
        centroids=population.centroids[:num_groups],
    )
    config = ControlConfig(steps=40, hidden_dim=8, batch_size=256)
    values = regress_row_values(some, ExposureConfig(), config)
    found = np.concatenate(rank_processes.run(_regress, some, config))
    np.testing.assert_allclose(found, values, rtol=1e-3)


def _turn(ranks: Collectives, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    rows, columns = (Partition(size, ranks.size) for size in matrix.shape)
    crossing = Transposition(rows, columns, ranks)
    own = crossing.to_columns(matrix[rows.own(ranks.rank)])
    return own, crossing.to_rows(own)


@pytest.mark.parametrize("shape", [(2, 7), (1, 1), (5, 12), (9, 2)])
def test_rows_and_columns(shape: tuple[int, int], seed: int) -> None:
    matrix = np.random.default_rng(seed).random(shape)
    for size in (1, 3, 4):
        columns, rows = zip(*thread_ranks.run(size, _turn, matrix), strict=True)
        assert np.array_equal(np.concatenate(columns, axis=1), matrix)
        assert np.array_equal(np.concatenate(rows), matrix)
