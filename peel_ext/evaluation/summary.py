"""The figures of an evaluation as plain values, for programs that read them."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np

from peel_ext.evaluation.curves import Evaluation
from peel_ext.evaluation.measurement import Measurement
from peel_ext.metrics import bootstrap_means, mean_interval
from peel_ext.train.trained_run import TrainedRun

_METRICS = ("recall", "ndcg")


def summarise(trained: TrainedRun, evaluation: Evaluation, names: dict[int, str]) -> dict[str, Any]:
    """All figures as plain values.

    Args:
        trained: the run.
        evaluation: what was measured on it.
        names: names of the budgets, as they were asked for.
    """
    split = trained.folder.config["split"]
    ceiling = evaluation.ceiling
    methods = [ceiling, *evaluation.curve]

    def lines(measurements: list[Measurement]) -> list[dict[str, Any]]:
        return [describe(evaluation, each, names) for each in measurements]

    return {
        "protocol": evaluation.protocol,
        "target": split["target"],
        "split": trained.folder.stages["data"]["split"],
        "new_user_share": split["new_user_share"],
        "n": evaluation.n,
        "users": len(ceiling.users.users),
        "items": len(trained.items),
        "groups": len(trained.centroids),
        "seed": trained.folder.config["pretraining"]["seed"],
        "training_seconds": round(sum(s["seconds"] for s in trained.folder.stages.values()), 1),
        "rows": lines(methods),
        "floor": None
        if evaluation.floor is None
        else describe(evaluation, evaluation.floor, names),
        "others": lines(evaluation.others),
        "rivals": [
            {**line, **leads}
            for line, leads in zip(lines(evaluation.rivals), _leads(evaluation), strict=True)
        ],
        "choosers": evaluation.num_choosers,
        "left_out": evaluation.left_out,
    }


def describe(
    evaluation: Evaluation, measurement: Measurement, names: dict[int, str]
) -> dict[str, Any]:
    """One measurement as plain values; arguments as of :func:`summarise`."""
    quality, full = measurement.users.mean(), evaluation.ceiling.users.mean()
    budget = measurement.budget_bytes
    line: dict[str, Any] = {
        "method": measurement.method,
        "variant": measurement.variant,
        "per_group": measurement.per_group,
        "budget": "full" if budget is None else names[budget],
        "budget_bytes": budget,
        "max_bytes": measurement.max_bytes,
        "mean_rows": round(measurement.mean_rows, 1),
        "recall": quality.recall,
        "ndcg": quality.ndcg,
        "hit_rate": quality.hit_rate,
        "mrr": quality.mrr,
        "recall_share": _share(quality.recall, full.recall),
        "ndcg_share": _share(quality.ndcg, full.ndcg),
    }
    for metric in _METRICS:
        values = getattr(measurement.users, metric)
        line[f"{metric}_interval"] = list(mean_interval(values)) if len(values) > 1 else None
    if evaluation.floor is not None:
        line["gap_recovered"] = evaluation.gap_recovered(measurement)
    return line


def _leads(evaluation: Evaluation) -> list[dict[str, list[float]]]:
    """The distance of every rival behind us under its budget, with the 95% interval."""
    ours = {each.budget_bytes: each.users for each in evaluation.curve}
    columns = [
        getattr(ours[rival.budget_bytes], metric) - getattr(rival.users, metric)
        for rival in evaluation.rivals
        for metric in _METRICS
    ]
    if not columns:
        return []
    found = iter(bootstrap_means(np.stack(columns, axis=1)))
    return [
        {f"{metric}_lead": list(astuple(next(found))) for metric in _METRICS}
        for _ in evaluation.rivals
    ]


def _share(value: float, full: float) -> float | None:
    return value / full if full > 0 else None
