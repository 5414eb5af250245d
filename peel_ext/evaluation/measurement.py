"""One method under one budget, measured."""

from __future__ import annotations

from dataclasses import dataclass

from peel_ext.evaluation.ranking import Audience, RankedLists
from peel_ext.metrics import Difference, UserQuality, measure_users, paired_bootstrap


@dataclass(frozen=True, eq=False)
class Measurement:
    """One method under one budget.

    Attributes:
        method: a Personalized Elastic Embedding, the full table, or the family of a rival.
        variant: the options of a rival.
        budget_bytes: None for the full float32 table.
        max_bytes: bytes of the largest table a user of the audience holds, everything counted.
        mean_rows: rows held, averaged over users.
        users: the metrics of every user with targets.
        per_group: whether each user group has a table of its own.
    """

    method: str
    variant: str
    budget_bytes: int | None
    max_bytes: int
    mean_rows: float
    users: UserQuality
    per_group: bool = True

    @classmethod
    def of_lists(
        cls,
        method: str,
        audience: Audience,
        lists: RankedLists,
        budget: int | None = None,
        variant: str = "",
        per_group: bool = True,
    ) -> Measurement:
        """Measures the lists of a whole audience."""
        users = measure_users(lists.indices, audience.targets.indptr, audience.targets.items)
        return cls(method, variant, budget, lists.max_bytes, lists.mean_rows, users, per_group)


def lead(ours: Measurement, other: Measurement, metric: str = "recall") -> Difference:
    """The mean difference in a metric between two methods, with its 95% interval."""
    return paired_bootstrap(getattr(ours.users, metric), getattr(other.users, metric))
