from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from peel_ext.config import ClusteringConfig, PipelineConfig, PretrainingConfig
from peel_ext.errors import BudgetError, DataError
from peel_ext.evaluation import evaluate_known_users
from peel_ext.metrics import rank_quality
from peel_ext.train.pipeline import SYNTHETIC, TrainedRun, run_pipeline

CONFIG = PipelineConfig(
    pretraining=PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4),
    clustering=ClusteringConfig(num_groups=5),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return run_pipeline(SYNTHETIC, tmp_path_factory.mktemp("run"), CONFIG)


def plain_lists(run: TrainedRun, n: int, budget: int | None) -> np.ndarray:
    """Full ranking with NumPy alone, from the decoded rows."""
    lists = np.full((len(run.users), n), -1)
    every = run.embedding.weight.detach().numpy()
    vectors = run.embedding.rotate(torch_from(run.user_vectors)).numpy()
    tables = {
        group: run.embedding.generate(group, budget)
        for group in range(len(run.centroids) if budget is not None else 0)
    }
    for user in range(len(run.users)):
        held = np.arange(len(run.items))
        scores = every @ run.user_vectors[user]
        if budget is not None:
            pee = tables[int(run.user_group[user])]
            held = np.sort(pee.row_ids)
            scores = pee.lookup(held) @ vectors[user]
        seen = run.train_items[run.train_indptr[user] : run.train_indptr[user + 1]]
        scores[np.isin(held, seen)] = -np.inf
        best = np.argsort(-scores, kind="stable")[:n]
        best = best[np.isfinite(scores[best])]
        lists[user, : len(best)] = held[best]
    return lists


def torch_from(array: np.ndarray):
    import torch

    return torch.from_numpy(array)


def test_equals_a_plain_full_ranking(run: TrainedRun) -> None:
    budgets = [3000, 20_000, 10**6]
    results = evaluate_known_users(run, budgets, n=10)
    for budget, result in zip([None, *budgets], results, strict=True):
        plain = rank_quality(plain_lists(run, 10, budget), run.test_indptr, run.test_items)
        assert result.quality.num_users == plain.num_users > 1900
        # The order of additions differs, which may swap near ties.
        assert result.quality.recall == pytest.approx(plain.recall, abs=2e-4)
        assert result.quality.ndcg == pytest.approx(plain.ndcg, abs=2e-4)


def test_a_run_without_test_interactions_cannot_be_measured(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,2\n2,2\n")
    lonely = run_pipeline(tmp_path / "a.csv", tmp_path / "run", CONFIG)
    with pytest.raises(DataError, match="no test interactions to measure on"):
        evaluate_known_users(lonely, [])


def test_bytes_never_exceed_the_budget(run: TrainedRun) -> None:
    budgets = [3000, 4001, 20_000, 10**6]
    results = evaluate_known_users(run, budgets)
    rows = [result.mean_rows for result in results[1:]]
    assert rows == sorted(rows)
    assert rows[-1] == len(run.items)
    for budget, result in zip(budgets, results[1:], strict=True):
        assert result.budget_bytes == budget
        assert 0 < result.max_bytes <= budget
    assert results[0].max_bytes == run.full_bytes == len(run.items) * 16 * 4


def test_every_budget_is_checked_before_the_first_is_measured(run: TrainedRun) -> None:
    passes: list[int] = []
    with pytest.raises(BudgetError, match="budget_bytes is 9, but user group") as caught:
        evaluate_known_users(run, [3000, 9], on_progress=lambda done, total: passes.append(done))
    assert passes == []
    least = caught.value.minimum_bytes
    evaluate_known_users(run, [least])
    with pytest.raises(BudgetError):
        evaluate_known_users(run, [least - 1])
