"""Tables of another model's vectors: what is nearest to a query, from the module and on a device."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from peel_ext import ElasticEmbedding
from peel_ext.device import DeviceRecommender
from peel_ext.errors import FormatError

ROWS, DIM = 1_500, 48


def near_vectors(generator: torch.Generator, *, even: bool = True) -> tuple[Tensor, Tensor]:
    """Rows around some centres, far from zero, and queries among them; uneven: few axes have most."""
    centres = torch.randn(60, DIM, generator=generator)
    which = torch.randint(0, 60, (ROWS + 200,), generator=generator)
    vectors = centres[which] + 0.7 * torch.randn(ROWS + 200, DIM, generator=generator)
    if not even:
        vectors *= torch.logspace(0, -1.5, DIM)
    vectors += torch.linspace(1, 3, DIM)
    return vectors[:ROWS], vectors[ROWS:]


def recall(found: np.ndarray, exact: Tensor) -> float:
    return float((torch.from_numpy(found)[:, :, None] == exact[:, None]).any(dim=1).double().mean())


def recall_under(table: ElasticEmbedding, queries: Tensor, exact: Tensor, budget: int) -> float:
    found, _ = table.generate(0, budget).score(table.rotate(queries).numpy(), exact.shape[1])
    return recall(found, exact)


@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
def test_finds_more_than_the_plain_table_and_more_with_every_byte(even, generator) -> None:
    vectors, queries = near_vectors(generator, even=even)
    exact = (queries @ vectors.T).topk(10).indices
    table = ElasticEmbedding.from_vectors(vectors)
    plain = ElasticEmbedding.from_pretrained(vectors)
    plain.fit_rotation()
    shares = (0.02, 0.05, 0.1, 0.25)
    budgets = [int(share * 4 * vectors.numel()) for share in shares]
    ours = [recall_under(table, queries, exact, budget) for budget in budgets]
    others = [recall_under(plain, queries, exact, budget) for budget in budgets]
    assert all(more > less - 0.02 for less, more in itertools.pairwise(ours))
    assert ours[-1] > 0.97
    assert sum(ours) > sum(others) + 0.1


def test_turned_where_few_axes_have_most(generator) -> None:
    """A matrix costs bytes: it is kept where values of a row are far from alike, and only there."""
    steep = torch.randn(ROWS, DIM, generator=generator) * torch.logspace(0, -3, DIM)
    assert ElasticEmbedding.from_vectors(steep).rotation is not None
    signs = torch.randn(ROWS, DIM, generator=generator).sign()
    noise = 0.01 * torch.randn(ROWS, DIM, generator=generator)
    assert ElasticEmbedding.from_vectors(signs + noise).rotation is None


def test_a_device_answers_raw_queries_with_true_scores(generator, tmp_path: Path) -> None:
    for even in (True, False):
        vectors, queries = near_vectors(generator, even=even)
        table = ElasticEmbedding.from_vectors(vectors, queries, metric="cosine")
        table.export(tmp_path / "vectors.peel", 0)
        units = torch.nn.functional.normalize(vectors, dim=1)
        for query in torch.nn.functional.normalize(queries[:5], dim=1):
            wanted, best = (units @ query).topk(5)
            with DeviceRecommender.open(tmp_path / "vectors.peel") as device:
                ids, scores = device.recommend(user=query.numpy(), rotated=False, n=5)
                own = device.mean_score(query.numpy(), rotated=False)
                turned = device.mean_score(table.rotate(query).numpy(), rotated=True)
                one = device.score_items(ids[:1], user=query.numpy(), rotated=False)
            assert len(set(ids) & set(best.tolist())) >= 4
            np.testing.assert_allclose(scores + own, wanted, atol=0.01)
            assert turned == pytest.approx(own, abs=1e-5)
            assert one == pytest.approx(scores[:1], abs=1e-5)


def test_what_queries_ask_for_is_kept_first(generator) -> None:
    vectors, _ = near_vectors(generator)
    asked = vectors[:40] + 0.05 * torch.randn(40, DIM, generator=generator)
    table = ElasticEmbedding.from_vectors(vectors, asked, metric="cosine")
    held = table.generate(0, 6_000).row_ids
    assert len(held) < ROWS / 2
    assert (held < 40).sum() / 40 > 2 * len(held) / ROWS


def test_the_mean_is_kept_by_checkpoints_and_blends(generator) -> None:
    vectors, _ = near_vectors(generator)
    table = ElasticEmbedding.from_vectors(vectors)
    torch.testing.assert_close(table.get_parameter("weight") + table.row_mean, vectors)
    other = ElasticEmbedding(ROWS, DIM, layout=table.layout)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.row_mean, table.row_mean)
    assert torch.equal(table.blend(torch.ones(1, 1)).row_mean, table.row_mean)
    assert ElasticEmbedding(3, 4).row_mean is None


def test_small_and_odd_tables_are_tables(generator) -> None:
    for shape in ((1, 3), (2, 1), (11, 5)):
        vectors = torch.randn(shape, generator=generator).double()
        table = ElasticEmbedding.from_vectors(vectors)
        ids, _ = table.generate(0, 1 << 20).score(table.rotate(vectors.float()).numpy(), shape[0])
        assert sorted(ids[0]) == list(range(shape[0]))
    same = torch.ones(4, 8)
    assert torch.equal(ElasticEmbedding.from_vectors(same).row_mean, same[0])
    zero = ElasticEmbedding.from_vectors(
        torch.eye(3, 8) * torch.tensor([0.0, 1, 2])[:, None], metric="cosine"
    )
    assert zero.row_mean is not None


def test_a_mistake_is_told(generator, tmp_path: Path) -> None:
    vectors, queries = near_vectors(generator)
    with pytest.raises(ValueError, match="metric must be one of ip, cosine, got 'l2'"):
        ElasticEmbedding.from_vectors(vectors, metric="l2")
    with pytest.raises(
        ValueError, match=r"queries must have shape \(at least 1, 48\), got \(200, 47\)"
    ):
        ElasticEmbedding.from_vectors(vectors, queries[:, :-1])
    with pytest.raises(ValueError, match=r"vectors must have shape .* got \(0, 48\)"):
        ElasticEmbedding.from_vectors(vectors[:0])
    with pytest.raises(TypeError, match="vectors must be a tensor of real numbers, got list"):
        ElasticEmbedding.from_vectors([[1.0]])  # type: ignore[arg-type]
    vectors[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"vectors\[7\] must be finite"):
        ElasticEmbedding.from_vectors(vectors)
    table = ElasticEmbedding.from_vectors(queries)
    table.row_mean = table.row_mean[:5]
    with pytest.raises((ValueError, RuntimeError)):
        table.export(tmp_path / "bad.peel", 0)


def test_a_damaged_mean_is_told(generator, tmp_path: Path) -> None:
    vectors, queries = near_vectors(generator)
    path = tmp_path / "vectors.peel"
    ElasticEmbedding.from_vectors(vectors).export(path, 0)
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    with DeviceRecommender.open(path) as device, pytest.raises(FormatError, match="checksum"):
        device.mean_score(queries[0].numpy())
