from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext import ElasticEmbedding
from peel_ext.data import ItemLists
from peel_ext.device.fold_in import RowSample
from peel_ext.evaluation.protocols import halve, offline_users
from peel_ext.evaluation.ranking import Audience, held_lists, rank_elastic, rank_rival
from peel_ext.evaluation.rivals import build_rivals


def fold_in(rows: np.ndarray, histories: ItemLists, *, sample=None) -> np.ndarray:
    """Sums of rows, and 10 for each row of a sample: easy to follow."""
    more = 0 if sample is None else 10 * len(sample[0])
    parts = [rows[items].sum(axis=0) + more for items in histories]
    return np.array(parts, dtype=np.float32).reshape(-1, rows.shape[1])


@pytest.mark.parametrize(
    ("counts", "early"), [([], []), ([0, 1, 2, 3, 4], [0, 0, 1, 1, 2]), ([7], [3])]
)
def test_histories_are_halved_in_order(counts: list[int], early: list[int]) -> None:
    histories = ItemLists.from_counts(counts, np.arange(sum(counts)) * 3 % 7)
    first, second = halve(histories)
    assert first.counts.tolist() == early
    for start, rest, whole in zip(first, second, histories, strict=True):
        assert [*start, *rest] == whole.tolist()


@pytest.mark.parametrize("ids", [[], [4], [0, 2, 3, 5], list(range(9))])
def test_held_lists_point_at_what_is_held(ids: list[int]) -> None:
    lists = [[3, 1, 8], [], [2], [5, 5, 0]]
    found = held_lists(ItemLists.from_lists(lists), np.array(ids, dtype=np.int64))
    for own, wanted in zip(found, lists, strict=True):
        assert [ids[at] for at in own] == [item for item in wanted if item in ids]


def test_the_device_knows_what_came_after_only_through_its_rows() -> None:
    rows = np.eye(4, dtype=np.float32)
    histories = ItemLists.from_lists([[0], [1, 2], [0, 1, 2, 3]])
    targets = ItemLists.from_lists([[3], [3], [3]])
    asked: list[int] = []

    def assign(vectors: np.ndarray) -> np.ndarray:
        asked.append(len(vectors))
        return vectors.argmax(axis=1)

    offline = offline_users(rows, histories, targets, fold_in, assign)
    # The first user has one item and no offline life.
    assert len(offline.server.vectors) == 2
    assert offline.server.vectors.tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    assert offline.stale.vectors.tolist() == [[0, 1, 0, 0], [1, 1, 0, 0]]
    assert offline.stale.groups.tolist() == [1, 0]
    assert offline.stale.update is None
    assert offline.device.exclude.items.tolist() == [1, 2, 0, 1, 2, 3]
    assert offline.device.update is not None
    shipped, ids = offline.device.vectors[[1]], np.array([0, 1, 2])  # item 3 is not held
    for sample, more in ((None, 0), ((np.array([0]), np.ones(1, dtype=np.float32)), 10)):
        updated = offline.device.update(ids, rows[ids], sample, shipped, np.array([1]))
        expected = 0.5 * np.array([1, 1, 0, 0]) + 0.5 * (np.array([0, 0, 1, 0]) + more)
        assert updated[0] == pytest.approx(expected / np.linalg.norm(expected))


def test_a_device_folds_in_over_a_sample_and_a_rival_over_all_it_holds() -> None:
    num_rows, dim = 3_000, 8
    rows = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0))
    embedding = ElasticEmbedding.from_pretrained(rows)
    embedding.set_row_values(1.0 / torch.arange(1, num_rows + 1)[None])
    samples: list[RowSample | None] = []

    def update(ids, held, sample, vectors, members):
        samples.append(sample)
        return vectors

    nothing = ItemLists.empty(1)
    audience = Audience(
        np.ones((1, dim), dtype=np.float32), np.zeros(1, dtype=np.int64), nothing, nothing, update
    )
    for budget in (1_000, 1 << 30):
        rank_elastic([audience], embedding, [budget], 5)
        pee = embedding.generate(0, budget)
        assert samples[-1] is not None
        positions, weights = samples[-1]
        assert len(positions) == min(2_048, len(pee.row_ids))
        assert weights.sum() == pytest.approx(len(pee.row_ids))
        # The rows worth most are all among them.
        assert set(range(min(1_000, len(pee.row_ids)))) <= set(pee.row_ids[positions].tolist())
    rivals, _ = build_rivals(rows.numpy(), np.ones((1, num_rows)), np.ones((1, num_rows)))
    rank_rival(audience, rivals[0], 1 << 30, 5, np.arange(1))
    assert samples[-1] is None
