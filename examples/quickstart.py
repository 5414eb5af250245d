"""Train on interactions, measure what budgets keep, and recommend from one file on a device.

    python examples/quickstart.py                                # on made-up data
    python examples/quickstart.py interactions.parquet --out run/

Needs the extra `train`. A second call with the same data and folder goes on where the first one ended.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peel_ext.config import PipelineConfig, PretrainingConfig
from peel_ext.device import DeviceRecommender
from peel_ext.evaluation import Evaluation, evaluate_run
from peel_ext.train.narration import Narration
from peel_ext.train.pipeline import TrainedRun, run_pipeline

SHARES = (0.2, 0.1, 0.05, 0.025)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", default="synthetic", help="a file of interactions")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="the run folder")
    options = parser.parse_args(arguments)

    # Fewer epochs and one temperature, to be quick: without them both are as good as they can be.
    config = PipelineConfig(pretraining=PretrainingConfig(epochs=2, temperature=0.1))
    run = run_pipeline(options.data, options.out, config, progress=Narration())

    budgets = [int(run.full_bytes * share) for share in SHARES]
    print_quality(evaluate_run(run, "known", budgets))
    recommend_on_device(run, options.out / "first-user.peel", budgets)


def print_quality(evaluation: Evaluation) -> None:
    """Prints what is kept of the recall of the full table under each budget."""
    full = evaluation.ceiling.users.recall.mean()
    print(f"{'budget':>12} {'bytes held':>12} {'Recall@20':>10} {'kept':>7}")
    print(f"{'full table':>12} {evaluation.ceiling.max_bytes:>12,} {full:>10.4f} {1:>7.1%}")
    for measured in evaluation.curve:
        recall = measured.users.recall.mean()
        kept = recall / full if full > 0 else float("nan")
        print(
            f"{measured.budget_bytes:>12,} {measured.max_bytes:>12,} {recall:>10.4f} {kept:>7.1%}"
        )


def recommend_on_device(run: TrainedRun, path: Path, budgets: Sequence[int]) -> None:
    """Writes the file of the first user's group, and recommends from it under budgets that shrink."""
    group = int(run.user_group[0])
    run.embedding.export(path, group, fold_in=run.fold_in_settings)
    history = run.train[0]  # rows of the user's items
    with DeviceRecommender.open(path, budgets[0]) as recommender:
        for budget in budgets:
            recommender.resize(budget)
            items, _ = recommender.recommend(history=history, n=5)
            print(f"with {recommender.nbytes:,} bytes: items {', '.join(map(str, items))}")


if __name__ == "__main__":
    main()
