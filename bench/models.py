"""The full table beside other models, each tuned on validation: rows for ``bench/results``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse
import torch
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from numpy.typing import NDArray
from quality import circumstances
from threadpoolctl import threadpool_limits

from peel_ext.config import PipelineConfig, SplitConfig, TuningConfig
from peel_ext.data import ItemLists
from peel_ext.metrics import rank_quality
from peel_ext.train.held_out import TrainingData
from peel_ext.train.pipeline import load_split, run_pipeline

N, DEPTH = 20, 100
#: The model of this package, whose settings are chosen in training.
OWN = "peel_ext"
#: Settings tried of every other model.
TRIED: dict[str, list[dict[str, float]]] = {
    "popularity": [{}],
    "item-kNN": [
        {"neighbours": count, "shrinkage": shrinkage}
        for count in (20, 50, 100, 200, 500) for shrinkage in (0.0, 10.0, 100.0, 1000.0)
    ],
    "EASE": [{"penalty": penalty} for penalty in (20.0, 50.0, 100.0, 200.0, 400.0, 800.0)],
    "implicit ALS": [
        {"factors": factors, "alpha": alpha, "regularization": regularization}
        for factors in (64, 128) for alpha in (1.0, 5.0, 20.0, 60.0)
        for regularization in (0.01, 0.1, 1.0, 10.0)
    ],
    "implicit BPR": [  # which learns the training interactions by heart unless it is stopped
        {"factors": factors, "learning_rate": rate, "iterations": iterations, "regularization": penalty}
        for factors in (64, 128) for penalty in (0.001, 0.01)
        for rate, iterations in ((0.005, 50), (0.005, 100), (0.005, 200), (0.02, 100), (0.02, 300))
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="file or folder of interactions")
    parser.add_argument("--split", choices=("random", "last", "time"), default="random")
    parser.add_argument("--test-share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="folder of a trained run: made, or gone on from")
    parser.add_argument(
        "--models", nargs="+", choices=(OWN, *TRIED), default=[OWN, *TRIED], help="those to measure"
    )
    parser.add_argument("--append", type=Path, help="JSON lines file to add a row per model to")
    options = parser.parse_args()
    for row in measure(options):
        row = {
            "data": options.data.name,
            "split": options.split,
            "test_share": options.test_share,
            "seed": options.seed,
            **row,
            **circumstances(),
        }
        print(f"{row['model']:14} Recall@{N} {row['recall']:.4f}  NDCG@{N} {row['ndcg']:.4f}  "
              f"{json.dumps(row['settings'])}", flush=True)  # fmt: skip
        if options.append:
            with options.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row per model, all of the same training part."""
    split = SplitConfig(method=options.split, test_share=options.test_share, seed=options.seed)
    tuning = TuningConfig(seed=options.seed)
    parts = load_split(options.data, split)
    lists, targets = parts.train.csr(), parts.target.csr()
    if OWN in options.models:
        yield measure_own(options, PipelineConfig(split=split, tuning=tuning), lists, targets)
    data = TrainingData(lists, parts.train.num_items, None, parts.train.csr_timestamps())
    left, held_out = data.hold_out(options.split, tuning.validation_share, options.seed)
    for name in [each for each in options.models if each != OWN]:
        tried, judged = TRIED[name], []
        for settings in tried if len(tried) > 1 else []:
            scores = fit(name, settings, left, options.seed)
            judged.append(quality(scores, left.lists, held_out)[f"ndcg{DEPTH}"])
        best = tried[int(np.argmax(judged))] if judged else tried[0]
        began = time.perf_counter()
        scores = fit(name, best, data, options.seed)
        seconds = round(time.perf_counter() - began, 1)
        found = quality(scores, lists, targets)
        yield {"model": name, "settings": best, "seconds": seconds} | found


def measure_own(
    options: argparse.Namespace, config: PipelineConfig, seen: ItemLists, targets: ItemLists
) -> dict[str, Any]:
    """The row of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_pipeline(options.data, options.run or Path(folder) / "run", config)
        tuned = run.folder.stages["tuning"]
        scores = FactorScores(run.user_vectors, run.item_vectors)
    chosen = {name: tuned[name] for name in ("temperature", "embedding_dim", "prior")}
    return {"model": OWN, "settings": chosen} | quality(scores, seen, targets)


class Scores(Protocol):
    """What a model says of all items to some users."""

    def of(self, users: slice) -> NDArray[np.float32]:
        """Scores [num_users, num_items]."""


class FactorScores:
    """Products of vectors."""

    def __init__(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> None:
        self._users, self._items = users, items

    def of(self, users: slice) -> NDArray[np.float32]:
        return np.asarray(self._users[users] @ self._items.T, dtype=np.float32)


class ItemScores:
    """Products of what a user had with weights [num_items, num_items] of one item for another."""

    def __init__(self, train: scipy.sparse.csr_matrix, weights: Any) -> None:
        self._train, self._weights = train, weights

    def of(self, users: slice) -> NDArray[np.float32]:
        made = self._train[users] @ self._weights
        return np.asarray(made.todense() if scipy.sparse.issparse(made) else made, dtype=np.float32)


def fit(name: str, settings: dict[str, float], data: TrainingData, seed: int) -> Scores:
    """A model of that name."""
    items, shape = data.lists.items, (len(data.lists), data.num_items)
    train = scipy.sparse.csr_matrix(
        (np.ones(len(items), dtype=np.float32), items, data.lists.indptr), shape=shape
    )
    if name == "popularity":
        counts = np.bincount(items, minlength=data.num_items).astype(np.float32)
        return FactorScores(np.ones((shape[0], 1), dtype=np.float32), counts[:, None])
    if name == "item-kNN":
        weights = nearest_items(train, int(settings["neighbours"]), settings["shrinkage"])
        return ItemScores(train, weights)
    if name == "EASE":
        return ItemScores(train, ease_weights(train, settings["penalty"]))
    kinds = {"implicit ALS": AlternatingLeastSquares, "implicit BPR": BayesianPersonalizedRanking}
    model = kinds[name](**settings, random_state=seed, num_threads=torch.get_num_threads())
    with threadpool_limits(1, "blas"):  # as implicit asks for
        model.fit(train, show_progress=False)
    return FactorScores(np.asarray(model.user_factors), np.asarray(model.item_factors))


def nearest_items(train: scipy.sparse.csr_matrix, count: int, shrinkage: float) -> Any:
    """The cosines of the nearest items of each, over lengths that ``shrinkage`` is added to."""
    lengths = np.sqrt(np.asarray(train.sum(axis=0)).ravel())
    together = (train.T @ train).tocsr()
    together.setdiag(0)
    together.eliminate_zeros()
    rows = np.repeat(np.arange(len(lengths)), np.diff(together.indptr))
    divisor = lengths[rows] * lengths[together.indices] + shrinkage
    values = together.data / np.maximum(divisor, 1e-9)
    order = np.lexsort((-values, rows))
    place = np.arange(len(values)) - np.repeat(together.indptr[:-1], np.diff(together.indptr))
    kept = order[place < count]
    nearest = scipy.sparse.csr_matrix(
        (values[kept].astype(np.float32), (together.indices[kept], rows[kept])),
        shape=together.shape,
    )
    return nearest


def ease_weights(train: scipy.sparse.csr_matrix, penalty: float) -> NDArray[np.float32]:
    """The closed form of Steck (2019, arXiv 1905.03375)."""
    gram = np.asarray((train.T @ train).todense(), dtype=np.float32)
    gram[np.diag_indices(len(gram))] += penalty
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram))).numpy()
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.asarray(weights, dtype=np.float32)


def quality(scores: Scores, seen: ItemLists, targets: ItemLists) -> dict[str, float]:
    """Metrics of the n best unseen items of each user, and NDCG at a larger depth."""
    num_users = len(seen)
    lists = []
    for start in range(0, num_users, 512):
        users = slice(start, min(start + 512, num_users))
        made = torch.from_numpy(scores.of(users).copy())
        own = seen.take(np.arange(users.start, users.stop))
        made[torch.from_numpy(own.owners()), torch.from_numpy(own.items)] = -np.inf
        lists.append(made.topk(min(DEPTH, made.shape[1])).indices.numpy())
    ranked = np.concatenate(lists)
    short, long = (
        rank_quality(found, targets.indptr, targets.items) for found in (ranked[:, :N], ranked)
    )
    return {"recall": short.recall, "ndcg": short.ndcg, f"ndcg{DEPTH}": long.ndcg}


if __name__ == "__main__":
    main()
