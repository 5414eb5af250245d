"""The offline protocol through ``.peel`` files and the native device library, beside training's own
evaluation: rows for ``bench/results``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quality import circumstances

from peel_ext.cli.arguments import parse_budgets
from peel_ext.device import DeviceRecommender
from peel_ext.evaluation import Evaluation, evaluate_run
from peel_ext.evaluation.plan import BLENDED, blend_of, offline_users_of
from peel_ext.metrics import measure_users
from peel_ext.train.pipeline import TrainedRun

USERS_AT_ONCE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, trained with --new-user-share")
    parser.add_argument("--budgets", default="5%,1%,0.25%", help="as of 'peel evaluate'")
    parser.add_argument("--append", type=Path, help="JSON lines file to add a row to")
    options = parser.parse_args()
    run = TrainedRun.open(options.run)
    names = {
        budget.resolve(run.full_bytes): budget.text for budget in parse_budgets(options.budgets)
    }
    evaluation = evaluate_run(run, "offline", list(names), with_blends=True)
    lines = compare(run, evaluation, names, recommend_from_files(run, list(names)))
    for line in lines:
        print(json.dumps(line))
    if options.append:
        row = {
            "protocol": "offline, through files",
            "target": run.folder.config["split"]["target"],
            "seed": run.folder.config["pretraining"]["seed"],
            "users": len(evaluation.ceiling.users.users),
            "rows": lines,
            **circumstances(),
        }
        with options.append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def recommend_from_files(run: TrainedRun, budgets: list[int]) -> dict[int, NDArray[np.int64]]:
    """Lists [num_users, 20] under each budget, from a file of each user, opened under that budget."""
    offline = offline_users_of(run)
    users, histories = offline.device, offline.server.exclude
    blend = blend_of(run, users.vectors, offline.before)
    shipped = run.embedding.rotate(torch.from_numpy(users.vectors)).numpy()
    assert users.shipped is not None
    listed, scores = users.shipped

    def list_of(user: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        there = listed[user] >= 0
        return listed[user][there], scores[user][there]

    lists = {budget: np.full((len(shipped), 20), -1) for budget in budgets}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user.peel"
        for start in range(0, len(shipped), USERS_AT_ONCE):
            members = np.arange(start, min(start + USERS_AT_ONCE, len(shipped)))
            blended = blend(members)
            for group, user in enumerate(members):
                blended.export(path, group, fold_in=run.fold_in_settings)
                history = histories[user]
                known = len(offline.before[user])
                for budget in budgets:
                    with DeviceRecommender.open(path, budget) as device:
                        assert device.nbytes <= budget
                        vector = device.continue_vector(shipped[user], known, history[known:])
                        items, _ = device.recommend(
                            user=vector,
                            rotated=True,
                            n=20,
                            exclude=history,
                            shipped=list_of(user),
                        )
                        lists[budget][user, : len(items)] = items
    return lists


def compare(
    run: TrainedRun,
    evaluation: Evaluation,
    names: dict[int, str],
    lists: dict[int, NDArray[np.int64]],
) -> list[dict[str, Any]]:
    """Recall of both, and the share of the gap between the shipped list and a fresh server."""
    assert evaluation.floor is not None
    targets = offline_users_of(run).device.targets
    lines = []
    for own in evaluation.others:
        if own.budget_bytes is None or own.method != BLENDED:
            continue
        through = dataclasses.replace(
            own, users=measure_users(lists[own.budget_bytes], targets.indptr, targets.items)
        )
        differ = int((through.users.recall != own.users.recall).sum())
        lines.append({
            "budget": names[own.budget_bytes],
            "floor": float(evaluation.floor.users.recall.mean()),
            "ceiling": float(evaluation.ceiling.users.recall.mean()),
            "recall": float(through.users.recall.mean()),
            "gap_recovered": evaluation.gap_recovered(through),
            "evaluated_recall": float(own.users.recall.mean()),
            "evaluated_gap_recovered": evaluation.gap_recovered(own),
            "users_that_differ": differ,
        })  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
