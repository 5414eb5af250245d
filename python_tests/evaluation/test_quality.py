"""What the README promises, at a size that fits continuous integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from peel_ext.evaluation import evaluate_known_users
from peel_ext.train.pipeline import run_pipeline


@pytest.mark.data
@pytest.mark.slow
def test_ml_100k_keeps_its_quality_under_small_budgets(data_folder: Path, tmp_path: Path) -> None:
    run = run_pipeline(data_folder / "ml-100k", tmp_path / "run")
    budgets = [run.full_bytes * share // 100 for share in (10, 5, 1)]
    full, *under = evaluate_known_users(run, budgets)
    # The most popular items first reach .174 here.
    assert full.quality.recall > 0.32
    for result, share in zip(under, (0.99, 0.99, 0.95), strict=True):
        assert result.quality.recall > share * full.quality.recall
        assert result.quality.ndcg > share * full.quality.ndcg
