"""Examples of users, whose lists change as memory shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peel_ext.train.trained_run import TrainedRun


@dataclass(frozen=True)
class ExampleList:
    """A user's list under one budget.

    Attributes:
        budget_bytes: None for the full table.
        nbytes: held.
        rows: rows of the items, best first.
        hits: which of them are among the user's target items.
        kept: which of them the full table's list has, too.
    """

    budget_bytes: int | None
    nbytes: int
    rows: list[int]
    hits: list[bool]
    kept: list[bool]


@dataclass(frozen=True)
class ExampleUser:
    """A user and the lists under every budget.

    Attributes:
        user: id.
        group: user group.
        history: rows of some training items, the most popular first.
        num_interactions: training interactions.
        num_targets: items to be found.
        lists: that of the full table, then those of the budgets.
    """

    user: int | str
    group: int
    history: list[int]
    num_interactions: int
    num_targets: int
    lists: list[ExampleList]


def rank_examples(
    run: TrainedRun, groups: Sequence[int], budgets: Sequence[int], n: int, num_history: int
) -> list[ExampleUser]:
    """The lists of one user of each group: who has the median number of training interactions.

    What a user had in training is left out, as where quality is measured; targets are not.

    Args:
        run: a finished run.
        groups: user groups that have users.
        budgets: bytes, descending; each has room for every one of the groups.
        n: items of a list.
        num_history: training items told of.
    """
    popularity = np.bincount(run.train.items, minlength=len(run.item_vectors))
    users = [_median_user(run, group) for group in groups]
    positions = np.array(users, dtype=np.int64)
    seen = run.train.take(positions)
    found = [
        (budget, run.rank(run.user_vectors[positions], run.user_group[positions], seen, n, budget))
        for budget in (None, *budgets)
    ]
    examples = []
    for at, user in enumerate(users):
        own, targets = run.train[user], run.test[user]
        full = found[0][1].rows[at]
        lists = []
        for budget, ranked_lists in found:
            rows = ranked_lists.rows[at]
            rows = rows[rows >= 0]
            hits, kept = np.isin(rows, targets).tolist(), np.isin(rows, full).tolist()
            lists.append(
                ExampleList(budget, int(ranked_lists.nbytes[at]), rows.tolist(), hits, kept)
            )
        best = own[np.argsort(-popularity[own], kind="stable")][:num_history]
        examples.append(
            ExampleUser(
                run.users.to_ids([user])[0],
                int(run.user_group[user]),
                best.tolist(),
                len(own),
                len(targets),
                lists,
            )
        )
    return examples


def _median_user(run: TrainedRun, group: int) -> int:
    """The user of a group who has the median number of training interactions."""
    members = np.flatnonzero(run.user_group == group)
    ranked = members[np.argsort(run.train.counts[members], kind="stable")]
    return int(ranked[len(ranked) // 2])
