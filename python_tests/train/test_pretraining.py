from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig
from peel_ext.data import ItemLists
from peel_ext.device.item_prior import part_tastes
from peel_ext.errors import DataError, PeelError
from peel_ext.train.pretraining import doubt_losses, pretrain

SEED = 3
SMALL = PretrainingConfig(embedding_dim=8, epochs=3, steps_per_epoch=4, seed=SEED)


def make_two_tastes(
    num_users: int = 200, num_items: int = 100
) -> tuple[list[list[int]], NDArray[np.int64]]:
    """Users of either taste like one half of the items; the last item of each is held out.

    A few items of both halves are liked by many, so that popularity has something to say.
    """
    print(f"seed {SEED}")
    generator = np.random.default_rng(SEED)
    half = num_items // 2
    popularity = 1 / np.arange(5, 5 + half)
    popularity /= popularity.sum()
    lists, held_out = [], []
    for user in range(num_users):
        taste = user % 2
        liked = taste * half + generator.choice(half, size=9, replace=False, p=popularity)
        lists.append(sorted(liked[:-1].tolist()))
        held_out.append(liked[-1])
    return lists, np.array(held_out)


def recall(
    scores: NDArray[np.floating], lists: Sequence[Sequence[int]], held_out: NDArray[np.int64]
) -> float:
    """Share of users whose held-out item is among the first 10."""
    scores = scores.copy()
    for user, items in enumerate(lists):
        scores[user, items] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :10]
    return float((top == held_out[:, None]).any(axis=1).mean())


def test_held_out_items_rank_above_chance_and_popularity() -> None:
    lists, held_out = make_two_tastes()
    interactions = ItemLists.from_lists(lists)
    popularity = np.bincount(interactions.items, minlength=100).astype(np.float64)

    users, items, *_ = pretrain(
        interactions, 100, PretrainingConfig(embedding_dim=16, temperature=0.2, seed=SEED)
    )

    learned = recall(users @ items.T, lists, held_out)
    popular = recall(np.tile(popularity, (len(lists), 1)), lists, held_out)
    chance = 10 / 92
    print(f"learned {learned:.3f}, popularity {popular:.3f}, chance {chance:.3f}")
    assert learned > 1.3 * popular
    assert learned > 2 * chance


def test_popular_negatives_that_weigh_more_leave_less_of_popularity_in_the_directions() -> None:
    interactions = ItemLists.from_lists(make_two_tastes()[0])
    popularity = np.bincount(interactions.items, minlength=100).astype(np.float64)

    slopes = []
    for exponent in (0.0, 0.5, 1.0):
        config = dataclasses.replace(SMALL, negative_popularity_exponent=exponent)
        users, items, *_ = pretrain(interactions, 100, config)
        cosines = part_tastes(users) @ part_tastes(items).T
        slopes.append(np.corrcoef(cosines.mean(axis=0), np.log(popularity.clip(1)))[0, 1])

    print(f"correlation of mean cosine and log popularity {slopes}")
    assert slopes[0] > slopes[1] > slopes[2]
    assert slopes[0] > slopes[2] + 0.15


def test_one_seed_gives_the_same_bits_and_another_others() -> None:
    interactions = ItemLists.from_lists(make_two_tastes()[0])

    first = pretrain(interactions, 100, SMALL)
    again = pretrain(interactions, 100, SMALL)
    other = pretrain(interactions, 100, PretrainingConfig(embedding_dim=8, epochs=3, seed=SEED + 1))

    assert first.prior == again.prior
    for a, b, c in zip(first[:3], again[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002

    pretrain(ItemLists.from_lists([[0, 1], [1]]), 3, SMALL)

    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002


def test_vectors_have_the_promised_lengths() -> None:
    interactions = ItemLists.from_lists([[0, 1], [], [0, 2], [0]])

    users, items, _, prior = pretrain(interactions, 4, SMALL)

    degrees = np.array([3, 1, 1, 1])  # item 3 has none and counts as 1
    assert users.dtype == items.dtype == np.float32
    tastes = part_tastes(users), part_tastes(items)
    np.testing.assert_allclose(np.linalg.norm(tastes[0], axis=1), [1, 0, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(tastes[1], axis=1), 1, rtol=1e-5)
    # What is left of a product is the prior, but for a constant.
    along = users @ items.T - tastes[0] @ tastes[1].T
    expected = SMALL.negative_popularity_exponent * 0.1 * np.log(degrees)
    np.testing.assert_allclose(
        along[[0, 2, 3]] - along[[0, 2, 3], :1],
        np.tile(expected - expected[0], (3, 1)),
        atol=1e-6,
    )
    assert not along[1].any()
    np.testing.assert_allclose(
        users.sum(axis=1), np.array([1, 0, 1, 1]) * prior * 8**0.5, atol=1e-5
    )


def test_a_prior_that_is_given_is_added_to_the_cosine() -> None:
    print(f"seed {SEED}")
    interactions = ItemLists.from_lists(make_two_tastes()[0])
    wanted = np.random.default_rng(SEED).normal(size=100).astype(np.float32)

    plain = pretrain(interactions, 100, SMALL, prior=np.zeros(100, dtype=np.float32))
    made = pretrain(interactions, 100, SMALL, prior=wanted)

    added = made.users @ made.items.T - plain.users @ plain.items.T
    np.testing.assert_allclose(
        added - added[:, :1], np.tile(wanted - wanted[0], (200, 1)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("lists", "num_items"),
    [
        ([[0]], 1),  # one user, one item
        ([[0, 1, 2]], 20),  # one user, fewer than dimensions
        ([[0], [0], [0], [0], [0], [0], [0], [0], [0], [0]], 1),  # one item
        ([[0, 1], [], [1]], 5),  # nobody touched items 2 to 4
        ([[], []], 3),  # no interactions at all
        ([], 3),  # no users
        ([[], []], 0),  # no items
        ([[1, 0, 1], [2]], 3),  # unsorted and repeated
    ],
)
def test_awkward_sizes(lists: list[list[int]], num_items: int) -> None:
    users, items, *_ = pretrain(ItemLists.from_lists(lists), num_items, SMALL)

    assert users.shape == (len(lists), 8)
    assert items.shape == (num_items, 8)
    assert np.isfinite(users).all()
    assert np.isfinite(items).all()


def test_an_untouched_item_is_hardly_ever_recommended() -> None:
    lists, _ = make_two_tastes()
    config = PretrainingConfig(embedding_dim=16, temperature=0.2, seed=SEED)

    users, items, *_ = pretrain(ItemLists.from_lists(lists), 101, config)

    untouched = np.full(len(lists), 100)
    chance = 10 / 93
    # Rounding, which depends on the number of threads, moves single users: 0 to 0.25 over many seeds.
    assert recall(users @ items.T, lists, untouched) < 0.5 * chance


def test_an_untouched_item_is_below_what_a_user_has() -> None:
    lists = [[0, 1], [1, 2], [0, 2]]
    users, items, *_ = pretrain(ItemLists.from_lists(lists), 4, PretrainingConfig(seed=SEED))

    scores = users @ items.T  # [3, 4]
    assert (scores[:, 3] < np.take_along_axis(scores, np.array(lists), 1).min(axis=1)).all()


def test_progress_counts_every_step() -> None:
    lists, _ = make_two_tastes()
    reports: list[tuple[int, int, float]] = []

    pretrain(
        ItemLists.from_lists(lists), 100, SMALL, on_progress=lambda *report: reports.append(report)
    )

    assert [(done, total) for done, total, _ in reports] == [(n, 12) for n in range(1, 13)]
    assert reports[-1][2] < reports[0][2]


def test_a_small_data_set_takes_no_more_steps_than_users() -> None:
    reports: list[tuple[int, int, float]] = []

    pretrain(
        ItemLists.from_lists([[0], [1], []]),
        2,
        SMALL,
        on_progress=lambda *report: reports.append(report),
    )

    assert reports[-1][:2] == (2 * SMALL.epochs, 2 * SMALL.epochs)


def test_a_diverging_run_says_so() -> None:
    config = PretrainingConfig(embedding_dim=8, learning_rate=1e38, seed=SEED)

    with pytest.raises(PeelError, match=r"diverged.*lower learning rate"):
        pretrain(ItemLists.from_lists(make_two_tastes()[0]), 100, config)


@pytest.mark.parametrize("learning_rate", [1e3, 1e30])
@pytest.mark.parametrize("temperature", [0.1, 0.2])
def test_a_loss_that_does_not_fall_is_doubted(learning_rate: float, temperature: float) -> None:
    config = PretrainingConfig(
        embedding_dim=8, epochs=5, temperature=temperature, learning_rate=learning_rate
    )
    losses = pretrain(ItemLists.from_lists(make_two_tastes()[0]), 100, config).losses
    said = doubt_losses(losses, config)
    assert said is not None
    assert f"{losses[0]:.4f} in the first step" in said
    assert f"lower learning rate than {learning_rate:g}" in said
    # Shorter trainings may well end above their start.
    assert doubt_losses(losses, dataclasses.replace(config, epochs=4)) is None


@pytest.mark.parametrize("change", [{}, {"num_layers": 0}, {"softmax": "sampled"}])
@pytest.mark.parametrize("temperature", [0.1, 0.2])
@pytest.mark.parametrize(
    "lists",
    [[[0]], [[0], [0]], [[0, 1], [1]], [[0, 1, 2], [0, 1, 2]], [[0, 3], [1], [2, 3], []], None],
)
def test_a_loss_of_usual_settings_is_not_doubted(
    lists: list[list[int]] | None, temperature: float, change: dict[str, Any]
) -> None:
    lists = make_two_tastes()[0] if lists is None else lists
    num_items = 1 + max(item for items in lists for item in items)
    for epochs in (0, 1, 5, 15):
        config = PretrainingConfig(
            embedding_dim=8, epochs=epochs, temperature=temperature, seed=SEED, **change
        )
        losses = pretrain(ItemLists.from_lists(lists), num_items, config).losses
        assert doubt_losses(losses, config) is None


def test_an_interruption_goes_through() -> None:
    def interrupt(done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(ItemLists.from_lists([[0, 1], [1]]), 2, SMALL, on_progress=interrupt)


def test_an_item_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match=r"\[0, 3\)"):
        pretrain(ItemLists.from_lists([[3]]), 3, SMALL)


@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 0},
        {"num_layers": -1},
        {"temperature": 0.0},
        {"learning_rate": float("nan")},
        {"user_weight_exponent": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PretrainingConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"num_layers": 0}, {"softmax": "sampled", "num_negatives": 40}])
def test_matrix_factorisation_and_the_sampled_softmax_learn_too(change: dict[str, Any]) -> None:
    lists, held_out = make_two_tastes()
    interactions = ItemLists.from_lists(lists)
    popularity = np.bincount(interactions.items, minlength=100).astype(np.float64)
    config = PretrainingConfig(embedding_dim=16, temperature=0.2, seed=SEED, **change)

    users, items, *_ = pretrain(interactions, 100, config)

    learned = recall(users @ items.T, lists, held_out)
    popular = recall(np.tile(popularity, (len(lists), 1)), lists, held_out)
    print(f"learned {learned:.3f}, popularity {popular:.3f}")
    assert learned > 1.3 * popular


def test_the_softmax_follows_the_size() -> None:
    interactions = ItemLists.from_lists(make_two_tastes()[0])  # 200 users, 100 items

    def losses(**change: Any) -> NDArray[np.float64]:
        config = dataclasses.replace(SMALL, num_negatives=10, **change)
        return pretrain(interactions, 100, config).losses

    full, sampled = losses(softmax="full"), losses(softmax="sampled")
    assert not np.array_equal(full, sampled)
    assert np.array_equal(losses(max_full_scores=20_000), full)
    assert np.array_equal(losses(max_full_scores=19_999), sampled)
