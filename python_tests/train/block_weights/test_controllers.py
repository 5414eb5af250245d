from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.device.item_prior import part_tastes
from peel_ext.format import ColumnsLayout, PlanesLayout
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.block_weights.bilevel import control_blocks
from peel_ext.train.block_weights.block_controller import BlockController
from peel_ext.train.block_weights.cut import cut_rows
from peel_ext.train.block_weights.expected_hits import (
    ValueRegression,
    fit_value_regression,
    regress_row_values,
)
from peel_ext.train.block_weights.row_features import RowFeatures
from peel_ext.train.population import Population

QUICK = ControlConfig(steps=40, hidden_dim=8, batch_size=256)


def make_features(rng: np.random.Generator, num_groups: int = 4, num_items: int = 400):
    exposure = rng.exponential(size=(num_groups, num_items)) ** 3
    return RowFeatures(
        exposure.astype(np.float32),
        rng.poisson(exposure).astype(np.float32),
        np.array([30, 60, 0, 90])[:num_groups],
        np.linalg.qr(rng.normal(size=(8, num_groups)))[0].T.astype(np.float32),
        rng.normal(size=(num_items, 8)).astype(np.float32),
    )


def test_the_regression_recovers_rates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = make_features(rng)
    sizes = features.group_sizes[:, None]
    rates = 0.02 * (features.exposure / np.maximum(sizes, 1)) ** 0.5
    hits = rng.poisson(rates * sizes).astype(np.float32)
    model = fit_value_regression(features, hits, dataclasses.replace(QUICK, steps=400, seed=1))
    found = model.values(features)
    for group in (0, 1, 3):
        assert np.corrcoef(found[group], rates[group])[0, 1] > 0.8
        assert found[group].sum() == pytest.approx(rates[group].sum(), rel=0.5)


def test_nothing_to_learn_from(seed: int) -> None:
    features = make_features(np.random.default_rng(seed))
    blank = np.zeros_like(features.exposure)
    assert np.isfinite(fit_value_regression(features, blank, QUICK).values(features)).all()
    empty = dataclasses.replace(features, group_sizes=np.zeros(4, np.int64))
    model = fit_value_regression(empty, blank, QUICK)
    assert isinstance(model, ValueRegression)


def test_one_seed_gives_the_same_values_and_leaves_the_global_state(population: Population) -> None:
    before = torch.random.get_rng_state()
    first = regress_row_values(population, ExposureConfig(), QUICK)
    again = regress_row_values(population, ExposureConfig(), QUICK)
    other = regress_row_values(population, ExposureConfig(), dataclasses.replace(QUICK, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (3, 150)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first > 0).all()


def test_values_foretell_held_out_hits_better_than_chance(population: Population) -> None:
    values = regress_row_values(population, ExposureConfig(), dataclasses.replace(QUICK, steps=300))
    counts = np.zeros_like(values)
    lists = population.lists
    np.add.at(counts, (population.user_group[lists.owners()], lists.items), 1)
    for group in range(3):
        best = np.argsort(-values[group])[:20]
        assert counts[group, best].mean() > 1.5 * counts[group].mean()


def test_some_users_as_they_were_earlier(population: Population) -> None:
    earlier, held_out = population.without_some(0.3, 50, seed=3)
    assert len(earlier.user_vectors) == len(earlier.user_group) == len(held_out) == 50
    for user in range(50):
        assert not set(earlier.lists[user]) & set(held_out[user])
        assert len(held_out[user]) > 0
    np.testing.assert_allclose(
        np.linalg.norm(part_tastes(earlier.user_vectors), axis=1), 1, rtol=1e-5
    )
    np.testing.assert_allclose(earlier.user_vectors.sum(axis=1), 4 * population.prior, rtol=1e-4)


LAYOUTS = [
    PlanesLayout(),
    ColumnsLayout(block_dim=4),
    ColumnsLayout(block_dim=5, value_type="int8"),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["planes", "columns", "int8"])
def test_weights_of_0_and_1_give_the_rows_of_the_layers_held(layout, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(9, 16)).astype(np.float32)
    embedding = ElasticEmbedding.from_pretrained(torch.from_numpy(rows), layout=layout)
    cut = cut_rows(embedding, 0)
    store, scales = layout.encode(rows)
    num_layers = layout.num_layers(16)
    for layers in range(1, num_layers + 1):
        expected = layout.decode(store, scales, (1 << layers) - 1, 16)
        weights = torch.zeros(cut.num_item_groups, num_layers)
        weights[:, :layers] = 1
        np.testing.assert_allclose(cut.weighted(weights).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(cut.whole().numpy(), expected, atol=1e-5)


def test_controller_weights_have_mean_one() -> None:
    weights = BlockController(5, 8)(torch.randn(7), torch.rand(7))
    assert weights.shape == (7, 5)
    assert float(weights.detach().mean()) == pytest.approx(1)
    assert bool((weights > 0).all())
    alone = BlockController(5, 8)(torch.zeros(1), torch.zeros(1))
    assert bool(torch.isfinite(alone).all())


@pytest.mark.parametrize("layout", LAYOUTS, ids=["planes", "columns", "int8"])
def test_the_loop_sets_usable_weights(population: Population, layout) -> None:
    def controlled() -> tuple[ElasticEmbedding, list[float]]:
        embedding = ElasticEmbedding.from_pretrained(
            torch.from_numpy(population.item_vectors), num_groups=3, layout=layout
        )
        if embedding.layout.nested:
            embedding.fit_rotation()
        embedding.set_row_values(torch.rand(3, 150, generator=torch.Generator().manual_seed(2)))
        losses: list[float] = []
        control_blocks(
            embedding, population, QUICK, on_progress=lambda done, total, loss: losses.append(loss)
        )
        return embedding, losses

    before = torch.random.get_rng_state()
    embedding, losses = controlled()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(losses) == 40
    assert bool(torch.isfinite(embedding.block_weights).all())
    assert bool((embedding.block_weights >= 0).all())
    assert torch.equal(controlled()[0].block_weights, embedding.block_weights)
    for group in range(3):
        assert embedding.generate(group, 3000).nbytes <= 3000


def test_a_block_of_noise_weighs_less(population: Population, seed: int) -> None:
    items = population.item_vectors.copy()
    items[:, :4] = 0.5 * np.random.default_rng(seed).normal(size=(150, 4))
    noisy = dataclasses.replace(population, item_vectors=items)
    layout = ColumnsLayout(block_dim=4, num_item_groups=5)
    embedding = ElasticEmbedding.from_pretrained(
        torch.from_numpy(items), num_groups=3, layout=layout
    )
    before = embedding.block_weights.clone()
    control_blocks(embedding, noisy, dataclasses.replace(QUICK, steps=200, learning_rate=0.02))
    learned = embedding.block_weights / before  # [3, 5, 4]
    assert learned.mean(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1])
    assert bool((learned[:, :, 0].mean(dim=1) < 0.8 * learned[:, :, 1:].mean(dim=(1, 2))).all())


def test_groups_of_nobody_keep_their_weights(population: Population) -> None:
    empty = dataclasses.replace(population, user_group=np.zeros_like(population.user_group))
    embedding = ElasticEmbedding.from_pretrained(
        torch.from_numpy(population.item_vectors), num_groups=3
    )
    control_blocks(embedding, empty, dataclasses.replace(QUICK, steps=2))
    assert bool(torch.isfinite(embedding.block_weights).all())


def test_memory_does_not_grow_with_groups_times_rows() -> None:
    code = """
import resource, numpy as np, torch
from peel_ext.config import ControlConfig
from peel_ext.data import ItemLists
from peel_ext.format import ColumnsLayout
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.block_weights.bilevel import control_blocks
from peel_ext.train.population import Population

rng = np.random.default_rng(0)
users, items = 120, 20_000
vectors = [rng.normal(size=(count, 32)).astype(np.float32) for count in (users, items)]
own = np.stack([np.sort(rng.choice(items, 10, replace=False)) for _ in range(users)])

def peak_with(groups):
    embedding = ElasticEmbedding.from_pretrained(
        torch.from_numpy(vectors[1]), num_groups=groups, layout=ColumnsLayout()
    )
    population = Population(
        *vectors, np.arange(users) % groups, vectors[0][:groups],
        ItemLists.from_lists(own), 1.0,
    )
    control_blocks(embedding, population, ControlConfig(steps=2))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

print(-peak_with(1) + peak_with(40))
"""
    told = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True
    )
    table = 4 * 20_000 * 32
    assert int(told.stdout) < 10 * table
