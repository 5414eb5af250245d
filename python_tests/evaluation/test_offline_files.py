"""The offline protocol through ``.peel`` files and the device library is training's own evaluation."""

from __future__ import annotations

import offline

from peel_ext.evaluation import evaluate_run
from peel_ext.train.pipeline import TrainedRun

BUDGETS = {1200: "small", 4000: "large"}


def test_devices_recommend_what_the_evaluation_says(run: TrainedRun) -> None:
    evaluation = evaluate_run(run, "offline", list(BUDGETS), with_blends=True)
    lists = offline.recommend_from_files(run, list(BUDGETS))
    lines = offline.compare(run, evaluation, BUDGETS, lists)
    assert [line["budget"] for line in lines] == ["small", "large"]
    for line in lines:
        assert line["recall"] > 0
        # Sums in another order may swap near ties at the end of a list.
        assert line["users_that_differ"] <= 3
