"""What several processes learn for user groups, each for its own, is what one process learns."""

from __future__ import annotations

import numpy as np
import pytest
import sharded_population
import torch
from rank_processes import RankProcesses

from peel_ext.config import ColumnsConfig, ExposureConfig, RefinementConfig
from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.nn import ElasticEmbedding
from peel_ext.scale.collectives import Collectives
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.population import Population
from peel_ext.train.refinement import refine_tables
from peel_ext.train.sharded import exposure, refinement
from peel_ext.train.sharded.blocks import cut_blocks


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
