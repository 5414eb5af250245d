"""The known-users protocol: full ranking of what each user has not seen, under byte budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.errors import DataError
from peel_ext.metrics import RankingQuality, rank_quality
from peel_ext.ops import gathered_score
from peel_ext.train.pipeline import TrainedRun


@dataclass(frozen=True)
class BudgetQuality:
    """Quality under one budget.

    Attributes:
        budget_bytes: the budget, or None for the full float32 table.
        max_bytes: of the largest Personalized Elastic Embedding, everything counted.
        mean_rows: rows held, averaged over users.
        quality: Recall and NDCG.
    """

    budget_bytes: int | None
    max_bytes: int
    mean_rows: float
    quality: RankingQuality


def evaluate_known_users(
    run: TrainedRun,
    budgets: Sequence[int],
    n: int = 20,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[BudgetQuality]:
    """Recall@n and NDCG@n of the full table, then under each budget.

    Full ranking: every item a user did not train on is a candidate; under a budget only the items
    held are, in the Personalized Elastic Embedding of the user's group.

    Args:
        run: a trained run.
        budgets: bytes.
        n: items returned.
        on_progress: called with the number of passes done and in all.

    Raises:
        BudgetError: a budget too small for a group; names the minimum.
        DataError: the run has no interactions to measure on.
    """
    if len(run.test_items) == 0:
        target = run.folder.config["split"]["target"]
        raise DataError(f"{run.folder.path}: no {target} interactions to measure on")
    for budget in budgets:  # all are checked before the first is measured
        with run.embedding.budget(budget):
            pass
    targets = (run.test_indptr, run.test_items)
    results = [BudgetQuality(None, run.full_bytes, float(len(run.items)), _full(run, n, targets))]
    for done, budget in enumerate(budgets, start=1):
        if on_progress is not None:
            on_progress(done, len(budgets) + 1)
        results.append(_under_budget(run, budget, n, targets))
    if on_progress is not None:
        on_progress(len(budgets) + 1, len(budgets) + 1)
    return results


def _full(
    run: TrainedRun, n: int, targets: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> RankingQuality:
    indices, _ = gathered_score(
        torch.from_numpy(run.user_vectors),
        run.embedding.weight,
        n,
        exclude_indptr=torch.from_numpy(run.train_indptr),
        exclude=torch.from_numpy(run.train_items),
    )
    return rank_quality(indices.numpy(), *targets)


def _under_budget(
    run: TrainedRun, budget: int, n: int, targets: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> BudgetQuality:
    vectors = run.embedding.rotate(torch.from_numpy(run.user_vectors))
    lists = np.full((len(vectors), n), -1, dtype=np.int64)
    largest, held_rows = 0, 0
    for group in range(len(run.centroids)):
        members = np.flatnonzero(run.user_group == group)
        if len(members) == 0:
            continue
        pee = run.embedding.generate(group, budget)
        indptr, seen = _take_lists(run.train_indptr, run.train_items, members)
        indices, _ = gathered_score(
            vectors[torch.from_numpy(members)],
            pee,
            n,
            exclude_indptr=torch.from_numpy(indptr),
            exclude=torch.from_numpy(seen),
        )
        lists[members] = indices.numpy()
        largest = max(largest, pee.nbytes)
        held_rows += len(members) * len(pee.row_ids)
    quality = rank_quality(lists, *targets)
    return BudgetQuality(budget, largest, held_rows / max(len(vectors), 1), quality)


def _take_lists(
    indptr: NDArray[np.int64], values: NDArray[np.int64], members: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The CSR lists of some users, in their order."""
    counts = indptr[members + 1] - indptr[members]
    taken = np.concatenate([[0], np.cumsum(counts)])
    at = np.arange(taken[-1]) + np.repeat(indptr[members] - taken[:-1], counts)
    return taken, values[at]
