from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from peel_ext.config import ExposureConfig, RefinementConfig
from peel_ext.format import ColumnsLayout, PlanesLayout
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.group_problem import GroupProblem
from peel_ext.train.population import Population
from peel_ext.train.refinement import diversity_penalty, refine_tables

CONFIG = RefinementConfig(steps=30, rows_per_group=40, learning_rate=1e-2, anchor=0.1)


def values_of(population: Population) -> np.ndarray:
    return measure_exposure(population, ExposureConfig(group_popularity_weight=0.1))


def test_the_loss_is_the_plain_cross_entropy(population: Population) -> None:
    rows = np.array([7, 3, 140, 12, 9, 30, 31])
    problem = GroupProblem.of(population, 1, rows)
    table = torch.from_numpy(population.item_vectors[rows])
    losses, weights = [], []
    for user in np.flatnonzero(population.user_group == 1):
        own = [item for item in population.lists[user] if item in rows]
        if not own:
            continue
        scores = torch.from_numpy(population.user_vectors[user]) @ table.T / 0.1
        log_shares = F.log_softmax(scores, dim=0)
        losses.append(-torch.stack([log_shares[rows.tolist().index(i)] for i in own]).mean())
        weights.append(len(own) ** 0.5)
    expected = (torch.stack(losses) * torch.tensor(weights)).sum() / sum(weights)
    torch.testing.assert_close(problem.loss(table), expected)
    torch.testing.assert_close(problem.losses_of_rows(table).sum(), expected)


def test_chunks_of_users_add_up(population: Population) -> None:
    rows = np.arange(len(population.item_vectors))
    whole = GroupProblem.of(population, 1, rows)
    parts = GroupProblem(
        whole.users, whole.indptr, whole.targets, whole.weights, whole.temperature,
        chunk_bytes=7 * 4 * len(rows),
    )  # fmt: skip
    assert len(whole.users) > 14
    table = torch.from_numpy(population.item_vectors)
    dense = torch.zeros(len(whole.users), len(rows))
    for user, own in enumerate(np.split(whole.targets.numpy(), whole.indptr[1:-1])):
        dense[user, own] = 1 / len(own)
    leaf = table.clone().requires_grad_()
    log_shares = F.log_softmax(whole.users @ leaf.T / whole.temperature, dim=1)
    expected = -(dense * log_shares * whole.weights[:, None]).sum(dim=0)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    for problem in (whole, parts):
        own = table.clone().requires_grad_()
        loss = problem.loss(own)
        torch.testing.assert_close(loss, expected.sum())
        torch.testing.assert_close(torch.autograd.grad(3 * loss, own)[0], 3 * gradient)
        torch.testing.assert_close(problem.losses_of_rows(table), expected.detach())


def test_users_lie_in_memory_of_torch(population: Population) -> None:
    # At another alignment, as NumPy's differs from run to run, matrix products round differently.
    for group in range(3):
        for num_rows in (20, 50, 100, 150):
            assert (
                GroupProblem.of(population, group, np.arange(num_rows)).users.data_ptr() % 64 == 0
            )


def test_refined_rows_fit_their_group_better(population: Population) -> None:
    values = values_of(population)
    rows, additions, losses = refine_tables(population, values, PlanesLayout(), CONFIG)
    assert rows.shape == (3, 40)
    assert additions.shape == (3, 40, 16)
    assert (losses[:, -1] < losses[:, 0] - 0.01).all()
    for group in range(3):
        assert values[group, rows[group]].min() >= np.delete(values[group], rows[group]).max()
        problem = GroupProblem.of(population, group, rows[group])
        table = torch.from_numpy(population.item_vectors[rows[group]])
        assert problem.loss(table + torch.from_numpy(additions[group])) < problem.loss(table) - 0.01


def test_the_anchor_holds(population: Population) -> None:
    values = values_of(population)
    sizes = [
        np.abs(
            refine_tables(
                population, values, PlanesLayout(), dataclasses.replace(CONFIG, anchor=anchor)
            )[1]
        ).mean()
        for anchor in (0.0, 1.0, 1000.0)
    ]
    assert sizes[0] > sizes[1] > 10 * sizes[2]


@pytest.mark.parametrize("layout", [PlanesLayout(), ColumnsLayout(block_dim=4)])
def test_diversity_makes_parts_differ(population: Population, layout) -> None:
    values = values_of(population)
    penalties = []
    for diversity in (0.0, 10.0):
        config = dataclasses.replace(CONFIG, diversity=diversity)
        rows, additions, _ = refine_tables(population, values, layout, config)
        table = population.item_vectors[rows[0]] + additions[0]
        penalties.append(float(diversity_penalty(torch.from_numpy(table), layout)))
    assert penalties[1] < 0.9 * penalties[0]


def test_penalties_of_known_tables() -> None:
    columns = ColumnsLayout(block_dim=2)
    same = torch.tensor([[1.0, 2, 2, 4, -1, -2]])
    apart = torch.tensor([[1.0, 0, 0, 3, 9]])  # the last block is not of full width
    assert float(diversity_penalty(same, columns)) == pytest.approx(1)
    assert float(diversity_penalty(apart, columns)) == pytest.approx(0)
    assert float(diversity_penalty(torch.ones(5, 2), columns)) == 0  # a single block
    planes = PlanesLayout()
    assert float(diversity_penalty(torch.eye(4), planes)) == pytest.approx(0)
    assert float(diversity_penalty(torch.ones(5, 4), planes)) == pytest.approx(1)


def test_groups_without_users_stay_global(population: Population) -> None:
    alone = dataclasses.replace(population, user_group=np.zeros_like(population.user_group))
    _, additions, losses = refine_tables(alone, values_of(population), PlanesLayout(), CONFIG)
    assert additions[0].any()
    assert not additions[1:].any()
    assert np.isnan(losses[1:]).all()


def test_progress_and_small_catalogues(population: Population) -> None:
    reports: list[tuple[int, int]] = []
    config = dataclasses.replace(CONFIG, steps=1, rows_per_group=10_000)
    rows, *_ = refine_tables(
        population,
        values_of(population),
        PlanesLayout(),
        config,
        on_progress=lambda done, total, _: reports.append((done, total)),
    )
    assert rows.shape == (3, 150)
    assert reports == [(1, 3), (2, 3), (3, 3)]
