"""Items' priors, which lie along the mean of their rows' values: files, devices and their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tables import draw_table

from peel_ext.device import (
    DeviceRecommender,
    PersonalizedElasticEmbedding,
    continue_vectors,
    fold_in_mean,
    fold_in_softmax,
    fold_in_users,
    similar_rows,
)
from peel_ext.device.item_prior import add_component, join_prior, part_tastes
from peel_ext.errors import FormatError
from peel_ext.format import (
    ColumnsLayout,
    FoldInSettings,
    Layout,
    PlanesLayout,
    read_header,
    unpack_embedding,
    write_file,
)
from peel_ext.nn.rotation import fit_rotation

LAYOUTS = [PlanesLayout(), ColumnsLayout(6, "int8"), ColumnsLayout(8)]
ROWS, DIM, PRIOR = 300, 20, 0.4


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


def write_with_prior(layout: Layout, path: Path, seed: int, rows: int = ROWS) -> None:
    print(f"seed {seed}")
    table = draw_table(layout, np.random.default_rng(seed), rows, DIM)
    write_file(path, table, fold_in=FoldInSettings(prior=PRIOR))


def held_rows(path: Path, budget: int | None) -> np.ndarray:
    """Decoded rows, zero where not held."""
    plain = unpack_embedding(path.read_bytes(), budget)
    rows = np.zeros((plain.num_embeddings, DIM), np.float32)
    rows[plain.ids] = plain.rows
    return rows


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# ---- where a prior lies ----


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 63, 64])
def test_a_product_is_that_of_the_tastes_and_the_prior(dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = (rng.normal(size=(n, dim - 1)).astype(np.float32) for n in (5, 7))
    prior = rng.normal(size=7).astype(np.float32)
    made_users = join_prior(users, np.full(5, PRIOR, np.float32))
    made_items = join_prior(items, prior / PRIOR)
    assert made_users.shape == (5, dim)
    np.testing.assert_allclose(
        made_users @ made_items.T, users @ items.T + prior, rtol=1e-4, atol=1e-5
    )
    tastes = part_tastes(made_users), part_tastes(made_items)
    np.testing.assert_allclose(tastes[0] @ tastes[1].T, users @ items.T, rtol=1e-4, atol=1e-5)
    if dim > 1:
        np.testing.assert_allclose(add_component(tastes[0], PRIOR), made_users, atol=1e-6)


def test_a_zero_vector_stays_zero() -> None:
    assert not add_component(np.zeros((2, 8), np.float32), PRIOR).any()
    assert not fold_in_softmax(np.zeros((4, 8)), [1, 2], prior=PRIOR).any()
    assert not fold_in_mean(np.zeros((4, 8)), prior=PRIOR).any()


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 20, 64])
@pytest.mark.parametrize("rows", [0, 1, 5, 200])
def test_a_rotation_that_keeps_the_mean(dim: int, rows: int, seed: int) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, dim)).astype("f"))
    rotation = fit_rotation(weight, keep_mean=True).double()
    torch.testing.assert_close(
        rotation @ rotation.T, torch.eye(dim, dtype=torch.float64), atol=1e-6, rtol=0
    )
    ones = torch.ones(dim, dtype=torch.float64)
    torch.testing.assert_close(ones @ rotation, ones, atol=1e-5, rtol=0)
    if dim == 64 and rows == 200:  # what else varies is spread over all values
        tastes = (weight - weight.mean(dim=1, keepdim=True)).double() @ rotation
        variances = tastes.square().mean(dim=0)
        assert variances.max() < 1.5 * variances.mean()


# ---- a device ----


@pytest.mark.parametrize("budget", [None, 9_000])
def test_a_device_folds_in_tastes_and_adds_the_component(
    layout: Layout, budget: int | None, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.peel"
    write_with_prior(layout, path, seed)
    rows = held_rows(path, budget)
    held = np.flatnonzero(rows.any(axis=1))
    history = [*held[:6], held[0]]
    with DeviceRecommender.open(path, budget) as recommender:
        user = recommender.fold_in(history)
        server = fold_in_softmax(rows, history, prior=PRIOR)
        np.testing.assert_allclose(user, server, atol=3e-5)
        # By the tastes alone, as a table without a prior would have it.
        tastes = np.where(rows.any(axis=1, keepdims=True), part_tastes(rows), 0)
        plain = fold_in_softmax(tastes, history)
        np.testing.assert_allclose(user, plain + PRIOR / DIM**0.5, atol=3e-5)

        continued = recommender.continue_vector(user, 5, held[10:13])
        folded = fold_in_softmax(rows, held[10:13], prior=PRIOR)
        np.testing.assert_allclose(
            continued, continue_vectors(user, folded, 3 / 8, prior=PRIOR), atol=3e-5
        )
        mixed = unit(5 / 8 * part_tastes(user) + 3 / 8 * part_tastes(folded))
        np.testing.assert_allclose(continued, mixed + PRIOR / DIM**0.5, atol=3e-5)


def test_the_sample_of_a_large_table_is_of_tastes(
    layout: Layout, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.peel"
    write_with_prior(layout, path, seed, rows=4_000)
    pee = PersonalizedElasticEmbedding(path.read_bytes())
    rows = pee.lookup(pee.row_ids)
    with DeviceRecommender.open(path) as recommender:
        user = recommender.fold_in(pee.row_ids[:9])
    server = fold_in_users(rows, [0, 9], np.arange(9), prior=PRIOR, sample=pee.row_sample)[0]
    np.testing.assert_allclose(user, server, atol=3e-5)


def test_items_are_not_alike_for_being_popular(layout: Layout, seed: int, tmp_path: Path) -> None:
    path = tmp_path / "a.peel"
    write_with_prior(layout, path, seed)
    for budget in (None, 9_000):
        rows = held_rows(path, budget)
        held = np.flatnonzero(rows.any(axis=1))
        ids, cosines = similar_rows(part_tastes(rows[held].astype(np.float64)), np.arange(9), 20)
        with DeviceRecommender.open(path, budget) as recommender:
            for at in range(9):
                items, scores = recommender.similar(int(held[at]), n=20)
                np.testing.assert_allclose(scores, cosines[at], atol=1e-5)
                assert np.mean(np.asarray(items) == held[ids[at]]) > 0.8  # but for near ties


# ---- the file ----


def test_a_prior_is_in_the_header(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "a.peel"
    write_with_prior(layout, path, 0)
    data = path.read_bytes()
    assert data[5] & 2
    assert read_header(data).fold_in.prior == np.float32(PRIOR)
    write_file(path, draw_table(layout, np.random.default_rng(0), ROWS, DIM))
    assert path.read_bytes()[5] & 2 == 0
    assert read_header(path.read_bytes()).fold_in.prior == 0


@pytest.mark.parametrize(
    ("has_prior", "value"),
    [(True, 0.0), (True, -1.0), (True, np.nan), (True, np.inf), (False, 0.5), (False, -0.0)],
)
def test_a_prior_that_cannot_be_is_refused(
    has_prior: bool, value: float, layout: Layout, tmp_path: Path
) -> None:
    import zlib

    path = tmp_path / "a.peel"
    write_with_prior(layout, path, 0)
    data = bytearray(path.read_bytes())
    data[5] = (data[5] & ~2) | 2 * has_prior
    data[56:60] = np.float32(value).tobytes()
    data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
    for read in (read_header, DeviceRecommender.open):
        with pytest.raises(FormatError, match="prior out of range"):
            read(bytes(data))


@pytest.mark.parametrize("prior", [-0.1, np.nan, np.inf])
def test_settings_out_of_range(prior: float) -> None:
    with pytest.raises(ValueError, match="prior must be at least 0 and finite"):
        FoldInSettings(prior=prior)
    with pytest.raises(ValueError, match="prior must be at least 0 and finite"):
        fold_in_softmax(np.ones((3, 4)), [0], prior=prior)
    with pytest.raises(ValueError, match="prior must be at least 0 and finite"):
        continue_vectors(np.ones(4), np.ones(4), 0.5, prior=prior)
