"""Bring the vectors of another model, here ALS of `implicit`, and get elastic embeddings of them.

    pip install implicit
    python examples/bring_your_own_vectors.py                    # on made-up data
    python examples/bring_your_own_vectors.py interactions.parquet --out run/

Any model will do that ranks items by dot products: its vectors take the place of pretraining, and user
groups, block weights and files are made as ever. Needs the extra `train` and implicit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from peel_ext.config import PipelineConfig
from peel_ext.data import Interactions
from peel_ext.evaluation import evaluate_run
from peel_ext.train.pipeline import load_split, run_pipeline
from peel_ext.train.vectors import VectorPair

SHARES = (0.2, 0.1, 0.05, 0.025)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", default="synthetic", help="a file of interactions")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bring_your_own_vectors"), help="the run folder"
    )
    options = parser.parse_args(arguments)

    # The same settings split alike here and in run_pipeline, so ALS sees training interactions alone.
    config = PipelineConfig()
    split = load_split(options.data, config.split, config.reading)
    run = run_pipeline(options.data, options.out, config, vectors=train_als(split.train))

    budgets = [int(run.full_bytes * share) for share in SHARES]
    evaluation = evaluate_run(run, "known", budgets)
    full = evaluation.ceiling.users.recall.mean()
    print(f"{'budget':>12} {'bytes held':>12} {'Recall@20':>10} {'kept':>7}")
    print(f"{'ALS, full':>12} {evaluation.ceiling.max_bytes:>12,} {full:>10.4f} {1:>7.1%}")
    for measured in evaluation.curve:
        recall = measured.users.recall.mean()
        kept = recall / full if full > 0 else float("nan")
        print(
            f"{measured.budget_bytes:>12,} {measured.max_bytes:>12,} {recall:>10.4f} {kept:>7.1%}"
        )


def train_als(train: Interactions) -> VectorPair:
    """Vectors of all users and items, in ascending order of their ids."""
    lists = train.csr()
    ones = np.ones(len(lists.items), dtype=np.float32)
    matrix = csr_matrix((ones, lists.items, lists.indptr), shape=(train.num_users, train.num_items))
    model = AlternatingLeastSquares(factors=64, alpha=4, random_state=0, num_threads=1)
    model.fit(matrix, show_progress=False)
    return VectorPair(model.user_factors, model.item_factors)


if __name__ == "__main__":
    main()
