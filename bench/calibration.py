"""Statistics of interactions that the synthetic source is held against: no model of ours takes part."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import implicit
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray
from quality import circumstances
from sklearn.cluster import KMeans

from peel_ext.data import Interactions, make_interactions, read_split, split_random
from peel_ext.metrics import rank_quality
from peel_ext.train.held_out import draw_users

NUM_CLUSTERS = 40
#: Of implicit's ALS; the best of them counts.
CONFIDENCES = (1.0, 10.0, 40.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="files or folders of interactions, or 'synthetic'")
    parser.add_argument("--append", type=Path, help="JSON lines file to add the rows to")
    options = parser.parse_args()
    for data in options.data:
        made = make_interactions() if data == "synthetic" else read_whole(Path(data))
        row = {"data": Path(data).name, **measure(made), **circumstances()}
        print(json.dumps(row), flush=True)
        if options.append:
            with options.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def read_whole(path: Path) -> Interactions:
    """All parts of what is read, as one."""
    parts = read_split(path, on_remark=lambda _: None)
    if parts.test is None:
        return parts.train
    return Interactions.joined([parts.train, parts.test])


def measure(data: Interactions, seed: int = 0) -> dict[str, float]:
    """All statistics, on a random 20% of each user's items where something is held out."""
    train, test = split_random(data, test_share=0.2, seed=seed)
    seen, targets = csr(train), csr(test)
    users = draw_users(np.flatnonzero(np.diff(targets.indptr)), 4000, seed)
    recalls = {
        "popularity": recall(np.tile(counts(seen), (len(users), 1)), seen, targets, users),
        "als": max(als_recall(seen, targets, users, each) for each in CONFIDENCES),
        "knn": recall(knn_scores(seen, users), seen, targets, users),
    }
    return {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": len(data),
        "gini_items": round(gini(np.bincount(data.item_rows, minlength=data.num_items)), 3),
        "gini_users": round(gini(np.bincount(data.user_rows, minlength=data.num_users)), 3),
        **{f"recall_{name}": round(value, 4) for name, value in recalls.items()},
        "popularity_share": round(recalls["popularity"] / recalls["knn"], 3),
        "als_share": round(recalls["als"] / recalls["knn"], 3),
        "favourite_share": round(favourite_share(seen, targets, users), 3),
    }


def csr(part: Interactions) -> scipy.sparse.csr_matrix:
    """Ones [num_users, num_items]."""
    ones = np.ones(len(part), dtype=np.float32)
    shape = (part.num_users, part.num_items)
    return scipy.sparse.csr_matrix((ones, (part.user_rows, part.item_rows)), shape=shape)


def counts(matrix: scipy.sparse.csr_matrix) -> NDArray[np.float32]:
    """Interactions of each item."""
    return np.asarray(matrix.sum(axis=0), dtype=np.float32).ravel()


def gini(values: NDArray[np.int64]) -> float:
    """The Gini coefficient of counts."""
    ascending = np.sort(values)
    ranks = np.arange(1, len(values) + 1)
    return float(
        2 * (ranks * ascending).sum() / (len(values) * ascending.sum()) - 1 - 1 / len(values)
    )


def recall(
    scores: NDArray[np.float32], seen: scipy.sparse.csr_matrix, targets: scipy.sparse.csr_matrix,
    users: NDArray[np.int64],
) -> float:  # fmt: skip
    """Recall@20 of some users [m] by scores [m, num_items], without the items seen."""
    scores[seen[users].nonzero()] = -np.inf
    best = np.argpartition(-scores, 20, axis=1)[:, :20]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    wanted = targets[users]
    return rank_quality(
        np.take_along_axis(best, order, axis=1), wanted.indptr, wanted.indices
    ).recall


def als_recall(
    seen: scipy.sparse.csr_matrix, targets: scipy.sparse.csr_matrix, users: NDArray[np.int64],
    confidence: float,
) -> float:  # fmt: skip
    """Of weighted ALS (Hu et al., 2008) with 64 factors."""
    model = implicit.als.AlternatingLeastSquares(
        factors=64, regularization=0.05, alpha=confidence, iterations=12, random_state=0,
        num_threads=1,
    )  # fmt: skip
    model.fit(seen, show_progress=False)
    return recall(model.user_factors[users] @ model.item_factors.T, seen, targets, users)


def knn_scores(seen: scipy.sparse.csr_matrix, users: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of items by their cosines to a user's items [m, num_items]."""
    scale = 1 / np.sqrt(np.maximum(counts(seen), 1))
    scaled = seen @ scipy.sparse.diags_array(scale).tocsr()
    scores = np.empty((len(users), seen.shape[1]), dtype=np.float32)
    for start in range(0, len(users), 250):
        some = users[start : start + 250]
        scores[start : start + 250] = (scaled[some] @ scaled.T @ scaled).toarray()
    return scores


def favourite_share(
    seen: scipy.sparse.csr_matrix, targets: scipy.sparse.csr_matrix, users: NDArray[np.int64]
) -> float:
    """The share of held-out interactions in the item cluster that a user has most of otherwise.

    Clusters are those of k-means of the items' 32 leading singular vectors.
    """
    degrees = np.maximum(np.asarray(seen.sum(axis=1)).ravel(), 1)
    normalised = scipy.sparse.diags_array(degrees**-0.5) @ seen
    normalised = normalised @ scipy.sparse.diags_array(np.maximum(counts(seen), 1) ** -0.5)
    vectors = scipy.sparse.linalg.svds(normalised, 32, rng=np.random.default_rng(0))[2].T
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cluster = KMeans(NUM_CLUSTERS, n_init=1, random_state=0).fit_predict(vectors)
    member = scipy.sparse.csr_matrix(
        (np.ones(len(cluster)), (np.arange(len(cluster)), cluster)), (len(cluster), NUM_CLUSTERS)
    )
    favourite = np.asarray((seen[users] @ member).todense()).argmax(axis=1)
    held = np.asarray((targets[users] @ member).todense())
    return float(np.mean(held[np.arange(len(users)), favourite] / held.sum(axis=1)))


if __name__ == "__main__":
    main()
