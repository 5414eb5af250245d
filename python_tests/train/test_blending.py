"""What a user between groups is given: shares of the nearest, and its own list."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext.config import BlendConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.blending import blend_for_users, own_values, share_groups

ROWS, DIM, GROUPS, USERS = 90, 8, 6, 5
NOTHING_SEEN = ItemLists.empty(USERS)


def draw_units(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("num_groups", [1, 3, 6, 100])
def test_shares_are_a_softmax_over_the_nearest(num_groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, centroids = draw_units(rng, USERS), draw_units(rng, GROUPS)
    shares = share_groups(users, centroids, BlendConfig(num_groups=num_groups, temperature=0.2))
    for user, row in zip(users, shares, strict=True):
        cosines = centroids @ user
        among = np.argsort(-cosines)[:num_groups]
        expected = np.zeros(GROUPS)
        expected[among] = np.exp(cosines[among] / 0.2)
        np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-4)


def test_a_user_of_whom_nothing_is_known_shares_in_all_alike(seed: int) -> None:
    centroids = draw_units(np.random.default_rng(seed), GROUPS)
    shares = share_groups(np.zeros((1, DIM), np.float32), centroids, BlendConfig(num_groups=2))
    np.testing.assert_allclose(shares, 1 / GROUPS)


def test_own_values_are_the_exposure_of_unseen_items(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = draw_units(rng, 2), rng.normal(size=(ROWS, DIM)).astype(np.float32)
    users[1] = 0
    best = np.argsort(-(items @ users[0]), kind="stable")
    seen = ItemLists.from_lists([np.sort(best[[0, 4]]), []])
    values = own_values(users, items, seen, ExposureConfig(depth=10))
    left = best[[at for at in range(ROWS) if at not in (0, 4)]][:10]
    assert set(np.flatnonzero(values[0])) == set(left)
    expected = 1 / (1 + np.exp((np.arange(1, 11) - 20) / 10))
    np.testing.assert_allclose(values[0][left], expected)
    assert not values[1].any()


@pytest.mark.parametrize("layout", ["planes", "columns"])
def test_own_share_is_the_share_of_all_worth(layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, centroids = draw_units(rng, USERS), draw_units(rng, GROUPS)
    users[3] = 0
    embedding = ElasticEmbedding.from_pretrained(
        torch.from_numpy(draw_units(rng, ROWS)), num_groups=GROUPS, layout=layout
    )
    # Groups of other sizes have weights of other sums, which is not to matter.
    sizes = rng.uniform(1, 100, size=(GROUPS, 1))
    embedding.set_row_values(torch.from_numpy(rng.random((GROUPS, ROWS)) * sizes))
    without, half = (
        blend_for_users(
            embedding, users, NOTHING_SEEN, centroids, BlendConfig(2, 0.1, own), ExposureConfig()
        )
        for own in (0.0, 0.5)
    )
    for blend in (without, half):
        worth = blend.block_weights.sum(dim=(1, 2)).numpy()
        np.testing.assert_allclose(worth, np.ones(USERS), rtol=1e-4)
    torch.testing.assert_close(half.block_weights[3], without.block_weights[3])
    if layout == "planes":  # its first run of rows has what the user's own list begins with
        for user in (0, 1, 2, 4):
            scores = embedding.weight.detach().numpy() @ users[user]
            own = half.item_group[user, np.argsort(-scores)[:5].copy()]
            assert (own <= 1).all()


def test_groups_that_are_worth_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    embedding = ElasticEmbedding.from_pretrained(
        torch.from_numpy(draw_units(rng, ROWS)), num_groups=GROUPS
    )
    embedding.set_row_values(torch.zeros(GROUPS, ROWS))
    users, centroids = draw_units(rng, USERS), draw_units(rng, GROUPS)
    blend = blend_for_users(
        embedding, users, NOTHING_SEEN, centroids, BlendConfig(), ExposureConfig()
    )
    assert bool(torch.isfinite(blend.block_weights).all())
    assert bool((blend.block_weights.sum(dim=(1, 2)) > 0).all())


@pytest.mark.parametrize(("settings", "message"), [
    ({"num_groups": 0}, "num_groups must be at least 1, got 0"),
    ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
    ({"own_share": 1.0}, r"own_share must be in \[0, 1\), got 1.0"),
    ({"own_share": float("nan")}, r"own_share must be in \[0, 1\), got nan"),
])  # fmt: skip
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlendConfig(**settings)
