"""Copies and pickles of what the device side gives out."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext.device import DeviceRecommender, PersonalizedElasticEmbedding
from peel_ext.errors import BudgetError
from peel_ext.format import Layout, pack_prefix

ROWS, DIM = 200, 20


def make(layout: Layout, budget: int | None = None) -> PersonalizedElasticEmbedding:
    buffer = pack_prefix(draw_table(layout, np.random.default_rng(0), ROWS, DIM))
    return PersonalizedElasticEmbedding(buffer, budget)


def answers(pee: PersonalizedElasticEmbedding) -> list[Any]:
    """What it says of itself, its rows, and its scores of a user."""
    user = np.linspace(-1, 1, DIM)[None]
    arrays = [pee.lookup(np.arange(ROWS)), *pee.score(user, 50), pee.row_ids, pee.buffer]
    return [pee.nbytes, pee.num_embeddings, *(array.tobytes() for array in arrays)]


def round_trips() -> list[Any]:
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    pickled = [
        pytest.param(lambda it, p=p: pickle.loads(pickle.dumps(it, p)), id=f"pickle-{p}")
        for p in protocols
    ]
    return [
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        *pickled,
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("again", round_trips())
def test_a_copy_is_the_same(layout: Layout, again: Callable[[Any], Any]) -> None:
    for budget in (None, 4_000):
        pee = make(layout, budget)
        want = answers(pee)
        twin = again(pee)
        assert twin is not pee
        assert answers(twin) == want
        assert answers(pee) == want
        assert answers(again(twin)) == want
        assert not twin.buffer.flags.writeable


def test_copies_are_of_what_is_held() -> None:
    whole, part = make(LAYOUTS[0]), make(LAYOUTS[0], 3_000)
    assert len(pickle.dumps(part)) < part.nbytes + 500 < len(pickle.dumps(whole))
    assert np.shares_memory(copy.copy(part).buffer, part.buffer)
    assert not np.shares_memory(copy.deepcopy(part).buffer, part.buffer)


def test_another_process_gets_the_same() -> None:
    pee = make(LAYOUTS[0], 4_000)
    user = np.linspace(-1, 1, DIM)[None]
    # A fresh process imports no test: what it runs is the package's.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(PersonalizedElasticEmbedding.score, (pee, user, 50))
        for got, want in zip(there, pee.score(user, 50), strict=True):
            assert np.array_equal(got, want)
        assert answers(pool.apply(copy.copy, (pee,))) == answers(pee)
        with pytest.raises(BudgetError, match="budget_bytes is 10") as caught:
            pool.apply(PersonalizedElasticEmbedding, (pee.buffer, 10))
        assert caught.value.minimum_bytes > 10


@pytest.mark.parametrize("again", round_trips())
def test_a_recommender_has_no_copies(again: Callable[[Any], Any], tmp_path: Path) -> None:
    data = make(LAYOUTS[0]).buffer.tobytes()
    path = tmp_path / "a.peel"
    path.write_bytes(data)
    server = Server(data)
    try:
        for recommender in (
            DeviceRecommender.open(path),
            DeviceRecommender.open(data),
            DeviceRecommender.open(io.BytesIO(data)),
            DeviceRecommender.open(server.url),
            DeviceRecommender.open(server.url, cache=tmp_path / "cache"),
        ):
            with recommender:
                with pytest.raises(TypeError) as caught:
                    again(recommender)
                assert str(caught.value) == (
                    "a DeviceRecommender cannot be pickled or copied: it holds an open file; "
                    "pickle its path and open it again"
                )
                assert len(recommender.recommend(user=np.ones(DIM), n=3)[0]) == 3
    finally:
        server.close()
