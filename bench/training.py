"""Time to quality: training beside implicit's ALS and BPR on one split, rows for ``bench/results``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from numpy.typing import NDArray
from quality import circumstances
from threadpoolctl import threadpool_limits

from peel_ext import ops, set_num_threads
from peel_ext.config import PipelineConfig, SplitConfig
from peel_ext.metrics import rank_quality
from peel_ext.train.pipeline import TrainedRun, run_pipeline

N, DIM = 20, 64
#: Settings tried, each with the iterations after which quality is measured.
ALS = [{"alpha": alpha, "regularization": 0.1} for alpha in (1.0, 10.0, 40.0)]
ALS_ITERATIONS = (2, 5, 10, 15, 30)
BPR = [{"learning_rate": rate, "regularization": 0.01} for rate in (0.01, 0.05, 0.1)]
BPR_ITERATIONS = (25, 50, 100, 200, 400)

Curve = list[dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="file or folder of interactions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--append", type=Path, help="JSON lines file to add a row per model to")
    options = parser.parse_args()
    for row in measure(options):
        row = {"data": options.data.name, "seed": options.seed, **row, **circumstances()}
        best = max(row["curve"], key=lambda point: point["recall"])
        print(f"{row['model']:24} {json.dumps(row['settings']):46} "
              f"{best['seconds']:7.1f} s  Recall@{N} {best['recall']:.4f}  NDCG@{N} "
              f"{best['ndcg']:.4f}", flush=True)  # fmt: skip
        if options.append:
            with options.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """PEEL with all its stages first, then implicit's models on the same training part."""
    threads = torch.get_num_threads()
    set_num_threads(threads)
    config = PipelineConfig(split=SplitConfig(target="validation", seed=options.seed))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = run_pipeline(options.data, Path(folder) / "run", config)
        seconds = time.perf_counter() - began
        point = quality(run, run.user_vectors, run.embedding.weight.detach().numpy()) | {
            "seconds": seconds
        }
        document = json.loads((Path(folder) / "run" / "run.json").read_text())
        stages = {name: made["seconds"] for name, made in document["stages"].items()}
    yield {"model": "peel_ext", "settings": {}, "curve": [point], "stages": stages}
    shape = (len(run.train), len(run.items))
    values = np.ones(len(run.train.items), dtype=np.float32)
    train = scipy.sparse.csr_matrix((values, run.train.items, run.train.indptr), shape=shape)
    kinds = (("implicit ALS", AlternatingLeastSquares, ALS, ALS_ITERATIONS),
             ("implicit BPR", BayesianPersonalizedRanking, BPR, BPR_ITERATIONS))  # fmt: skip
    for name, kind, tried, iterations in kinds:
        for settings in tried:
            model = kind(
                factors=DIM, iterations=iterations[-1], num_threads=threads,
                random_state=options.seed, **settings,
            )  # fmt: skip
            with threadpool_limits(1, "blas"):  # as implicit asks for
                curve = fit(model, train, iterations, run)
            yield {"model": name, "settings": settings, "curve": curve}


def fit(
    model: Any, train: scipy.sparse.csr_matrix, iterations: tuple[int, ...], run: TrainedRun
) -> Curve:
    """Quality after some of the iterations, and the seconds of training up to there."""
    curve: Curve = []
    resting = 0.0
    began = time.perf_counter()

    def callback(iteration: int, *_: object) -> None:
        nonlocal resting
        if iteration + 1 not in iterations:
            return
        paused = time.perf_counter()
        seconds = paused - began - resting
        point = quality(run, np.asarray(model.user_factors), np.asarray(model.item_factors))
        curve.append(point | {"iterations": iteration + 1, "seconds": seconds})
        resting += time.perf_counter() - paused

    fit_model: Callable[..., None] = model.fit
    fit_model(train, show_progress=False, callback=callback)
    return curve


def quality(
    run: TrainedRun, users: NDArray[np.float32], items: NDArray[np.float32]
) -> dict[str, float]:
    """Of the validation interactions under full ranking, training items excluded."""
    indices, _ = ops.gathered_score(
        torch.from_numpy(np.ascontiguousarray(users)), torch.from_numpy(items), N,
        exclude_indptr=torch.from_numpy(run.train.indptr),
        exclude=torch.from_numpy(run.train.items),
    )  # fmt: skip
    found = rank_quality(indices.numpy(), run.test.indptr, run.test.items)
    return {"recall": found.recall, "ndcg": found.ndcg}


if __name__ == "__main__":
    main()
