from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.format import PlanesLayout
from peel_ext.train.block_weights import mixture_trial
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.block_weights.mixture import Mixture, mix, share_neighbours
from peel_ext.train.block_weights.mixture_trial import Trial, choose_mixture
from peel_ext.train.block_weights.tried_users import TriedUsers
from peel_ext.train.population import Population

LAYOUT = PlanesLayout(rows_per_block=8)


@pytest.fixture
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets that leave rows out of 150."""
    monkeypatch.setattr(mixture_trial, "_BUDGET_SHARES", (0.2, 0.1))


def exposure_of(population: Population) -> np.ndarray:
    return measure_exposure(population, ExposureConfig())


def make_trial(population: Population, own: np.ndarray) -> Trial:
    tried = TriedUsers.of(population, ExposureConfig(), ControlConfig(), LAYOUT)
    return Trial(tried, own, population, population.item_vectors.shape[1], LAYOUT)


def test_neighbours_count_by_their_users_and_cosines(population: Population) -> None:
    sizes = np.bincount(population.user_group, minlength=3)
    near = share_neighbours(population, Mixture(1.0, 0.1))
    assert near @ sizes == pytest.approx(sizes)  # as many users as the group has
    cosines = population.centroids @ population.centroids.T
    for group in range(3):
        by_cosine = np.argsort(cosines[group])
        assert (np.diff(near[group, by_cosine]) > 0).all()
    alone = share_neighbours(population, Mixture(1.0, 1e-4))
    assert alone == pytest.approx(np.eye(3))


def test_the_first_rows_stay_those_of_the_group() -> None:
    own = np.array([[9.0, 4.0, 0.0, 0.0], [0.0, 0.0, 8.0, 2.0]])
    near = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert np.array_equal(mix(own, near @ own, Mixture()), own)
    mixed = mix(own, near @ own, Mixture(0.5, 1.0))
    assert mixed.tolist() == [[9.0, 4.0, 2.0, 0.5], [2.25, 1.0, 8.0, 2.0]]


@pytest.mark.usefixtures("small_budgets")
def test_a_list_keeps_more_with_rows_chosen_well(population: Population, seed: int) -> None:
    own = exposure_of(population)
    kept = make_trial(population, own).keep(Mixture())
    assert kept.shape == (200,)
    assert ((kept > 0) & (kept < 1.05)).all()
    scrambled = np.random.default_rng(seed).permuted(own, axis=1)
    assert kept.mean() > make_trial(population, scrambled).keep(Mixture()).mean() + 0.1
    assert np.array_equal(kept, make_trial(population, own).keep(Mixture()))


@pytest.mark.usefixtures("small_budgets")
def test_nobody_vouches_for_its_own_list(population: Population) -> None:
    # Each user is a group of its own: without its share nothing of its exposure is left, so that
    # only neighbours can tell what a new user in its place would need.
    alone = dataclasses.replace(
        population,
        user_group=np.arange(200),
        centroids=population.user_vectors,
    )
    own = exposure_of(alone)
    trial = make_trial(alone, own)
    gain = trial.keep(Mixture(1.0, 0.1)) - trial.keep(Mixture())
    assert gain.mean() > 2 * gain.std() / np.sqrt(200)
    values, best = choose_mixture(alone, ExposureConfig(), ControlConfig(), LAYOUT)
    assert best.share > 0
    assert np.array_equal(values, mix(own, share_neighbours(alone, best) @ own, best))


def test_exposure_stays_where_nothing_wins(population: Population) -> None:
    # No budget is large enough for a block, so no mixture can be better.
    values, best = choose_mixture(
        population, ExposureConfig(), ControlConfig(), PlanesLayout(rows_per_block=150)
    )
    assert best == Mixture()
    assert np.array_equal(values, exposure_of(population))
