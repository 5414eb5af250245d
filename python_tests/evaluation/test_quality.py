"""What the README promises, at a size that fits continuous integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from peel_ext.config import PipelineConfig, SplitConfig
from peel_ext.errors import DataWarning
from peel_ext.evaluation import evaluate_run
from peel_ext.train.pipeline import run_pipeline


@pytest.mark.data
@pytest.mark.slow
def test_ml_100k_keeps_its_quality_under_small_budgets(data_folder: Path, tmp_path: Path) -> None:
    config = PipelineConfig(split=SplitConfig(new_user_share=0.1))
    with pytest.warns(DataWarning, match="column rating is not used"):
        run = run_pipeline(data_folder / "ml-100k", tmp_path / "run", config)
    budgets = [run.full_bytes * share // 100 for share in (10, 5, 1)]
    known = evaluate_run(run, "known", budgets)
    full = known.ceiling.users.mean()
    # The most popular items first reach .174 here.
    assert full.recall > 0.32
    for row, share in zip(known.curve, (0.99, 0.99, 0.95), strict=True):
        assert row.users.recall.mean() > share * full.recall
        assert row.users.ndcg.mean() > share * full.ndcg
    offline = evaluate_run(run, "offline", budgets[:1])
    assert offline.floor is not None
    assert offline.floor.users.recall.mean() < offline.curve[0].users.recall.mean()
