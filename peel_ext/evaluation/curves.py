"""Quality per byte of a trained run under one protocol, beside the rivals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ExposureConfig
from peel_ext.device.fold_in import fold_in_users
from peel_ext.errors import BudgetError, DataError
from peel_ext.evaluation.protocols import (
    FoldHistories,
    fold_on_device,
    known_users,
    new_users,
    offline_users,
)
from peel_ext.evaluation.ranking import (
    Audience,
    RankedLists,
    rank_elastic,
    rank_full,
    rank_rival,
)
from peel_ext.evaluation.rivals import Rival, build_rivals
from peel_ext.metrics import Difference, UserQuality, measure_users, paired_bootstrap
from peel_ext.train.clustering import nearest_group
from peel_ext.train.exposure import measure_exposure
from peel_ext.train.pipeline import TrainedRun

PROTOCOLS = ("known", "new", "offline", "time")

#: The vectors a server would ship to the audience of a protocol if the model were another one, of
#: which it gets the vectors of the known users [num_users, dim] and the item rows [num_items, dim].
Ship = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Measurement:
    """One method under one budget.

    Attributes:
        method: a Personalized Elastic Embedding, the full table, or the family of a rival.
        variant: of a rival, its options.
        budget_bytes: None for the full float32 table.
        max_bytes: of the largest table a user of the audience holds, everything counted.
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        protocol: ``"known"``, ``"new"``, ``"offline"`` or ``"time"``.
        n: items returned.
        ceiling: the full table with everything known of each user.
        floor: in the offline protocol the list shipped at download, without what the user had since.
        curve: the Personalized Elastic Embeddings, one for each budget.
        others: other uses of the same embeddings: in the new-users protocol with vectors folded in
            on the device, in the offline protocol with the vector of the download.
        rivals: every variant of every rival under every budget it can serve.
        left_out: rivals that could not be measured, and why.
    """

    protocol: str
    n: int
    ceiling: Measurement
    floor: Measurement | None
    curve: list[Measurement]
    others: list[Measurement] = field(default_factory=list)
    rivals: list[Measurement] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def best_rivals(self, budget_bytes: int) -> list[Measurement]:
        """The best variant of each family under a budget by the recall measured here.

        That choice looks at the very users that are measured: it flatters rivals, never us.
        """
        best: dict[str, Measurement] = {}
        for rival in self.rivals:
            if rival.budget_bytes != budget_bytes:
                continue
            before = best.get(rival.method)
            if before is None or rival.users.recall.mean() > before.users.recall.mean():
                best[rival.method] = rival
        return list(best.values())

    def gap_recovered(self, measurement: Measurement) -> float | None:
        """Share of the recall between floor and ceiling; None without a gap."""
        if self.floor is None:
            return None
        floor = float(self.floor.users.recall.mean())
        gap = float(self.ceiling.users.recall.mean()) - floor
        return (float(measurement.users.recall.mean()) - floor) / gap if gap > 0 else None


def lead(ours: Measurement, other: Measurement, metric: str = "recall") -> Difference:
    """The mean difference in a metric between two methods, with its 95% interval."""
    return paired_bootstrap(getattr(ours.users, metric), getattr(other.users, metric))


def evaluate_run(
    run: TrainedRun,
    protocol: str,
    budgets: Sequence[int],
    *,
    n: int = 20,
    with_rivals: bool = False,
    more_rivals: Callable[[Ship], Sequence[Rival]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measures a run under each budget.

    Full ranking: every item a user has not had is a candidate; under a budget only the items held
    are.

    Args:
        run: a trained run.
        protocol: one of ``PROTOCOLS``; see :mod:`peel_ext.evaluation.protocols`. ``"time"`` is that
            of known users, for a run split by time.
        budgets: bytes.
        n: items returned.
        with_rivals: whether to measure those of :mod:`peel_ext.evaluation.rivals` too.
        more_rivals: makes further ones, such as models trained anew.
        on_progress: called with the number of passes done and in all.

    Raises:
        BudgetError: a budget too small for a group; names the minimum.
        DataError: the run has nothing to measure this protocol on.
        ValueError: an unknown protocol.
    """
    plan = _Plan.of_run(run, protocol)
    for budget in budgets:  # all are checked before the first is measured
        with run.embedding.budget(budget):
            pass
    rivals, left_out = build_rivals(*_rival_inputs(run)) if with_rivals else ([], [])
    rivals += more_rivals(plan.ship) if more_rivals is not None else []
    full_passes = 1 if plan.floor is None else 2
    steps = _Steps(full_passes + len(budgets) * (1 + len(rivals)), on_progress)
    table = run.embedding.weight.detach().numpy()

    def full(name: str, audience: Audience) -> Measurement:
        lists = rank_full(audience, table, n)
        steps.advance()
        return _measured(name, audience, lists, per_group=False)

    ceiling = full(plan.ceiling_name, plan.ceiling)
    floor = None if plan.floor is None else full("list shipped at download", plan.floor)
    curve, *others = _elastic_curves(run, plan, budgets, n, steps)
    lines = _rival_lines(rivals, plan.device, budgets, n, steps)
    return Evaluation(
        protocol, n, ceiling, floor, curve, [each for other in others for each in other], lines,
        left_out,
    )  # fmt: skip


def _measured(
    method: str,
    audience: Audience,
    lists: RankedLists,
    budget: int | None = None,
    variant: str = "",
    per_group: bool = True,
) -> Measurement:
    users = measure_users(lists.indices, *audience.targets)
    return Measurement(method, variant, budget, lists.max_bytes, lists.mean_rows, users, per_group)


def _elastic_curves(
    run: TrainedRun, plan: _Plan, budgets: Sequence[int], n: int, steps: _Steps
) -> list[list[Measurement]]:
    """One measurement for each budget, of the device first and then of each other use."""
    methods = [("PEE", plan.device), *plan.others]
    curves: list[list[Measurement]] = [[] for _ in methods]
    for budget in budgets:
        made = rank_elastic([audience for _, audience in methods], run.embedding, budget, n)
        for (name, audience), lists, curve in zip(methods, made, curves, strict=True):
            curve.append(_measured(name, audience, lists, budget))
        steps.advance()
    return curves


def _rival_lines(
    rivals: Sequence[Rival], audience: Audience, budgets: Sequence[int], n: int, steps: _Steps
) -> list[Measurement]:
    """Each rival under each budget it can be had under."""
    lines = []
    for rival in rivals:
        for budget in budgets:
            steps.advance()
            try:
                lists = rank_rival(audience, rival, budget, n)
            except BudgetError:
                continue
            lines.append(
                _measured(rival.family, audience, lists, budget, rival.name, rival.per_group)
            )
    return lines


@dataclass(frozen=True, eq=False)
class _Plan:
    """Who is ranked for with what."""

    ceiling_name: str
    ceiling: Audience
    floor: Audience | None
    device: Audience
    others: list[tuple[str, Audience]]
    ship: Ship

    @classmethod
    def of_run(cls, run: TrainedRun, protocol: str) -> _Plan:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
        place = run.folder.path
        method = run.folder.stages["data"]["split"]
        if protocol == "time" and method != "time":
            raise DataError(
                f"{place}: the targets of this run are not later than its training part (split: "
                f"{method}); train with --split time"
            )
        if protocol in ("known", "time"):
            _check_targets(run, run.test_items, "")
            seen = (run.train_indptr, run.train_items)
            targets = (run.test_indptr, run.test_items)
            audience = known_users(run.user_vectors, run.user_group, seen, targets)
            return cls("full table", audience, None, audience, [], lambda users, _: users)
        if len(run.new_users) == 0:
            raise DataError(
                f"{place}: no users were held out of training; train with --new-user-share 0.1"
            )
        _check_targets(run, run.history_test_items, " of new users")
        histories = (run.history_indptr, run.history_items)
        targets = (run.history_test_indptr, run.history_test_items)
        items = run.embedding.weight.detach().numpy()
        fold_in = _fold_in(run)
        assign = functools.partial(nearest_group, centroids=run.centroids)
        if protocol == "new":
            audience = new_users(items, histories, targets, fold_in, assign)
            on_device = fold_on_device(audience, histories, fold_in)
            others = [("PEE, folded in on the device", on_device)]
            return cls(
                "full table", audience, None, audience, others,
                lambda _, rows: fold_in(rows, *histories),
            )  # fmt: skip
        offline = offline_users(items, histories, targets, fold_in, assign)
        _check_targets(run, offline.server.targets[1], " of new users with a history of 2 or more")
        others = [("PEE, vector never updated", offline.stale)]
        return cls(
            "fresh server", offline.server, offline.stale, offline.device, others,
            lambda _, rows: fold_in(rows, *offline.before),
        )  # fmt: skip


def _check_targets(run: TrainedRun, items: NDArray[np.int64], whose: str) -> None:
    if len(items) == 0:
        target = run.folder.config["split"]["target"]
        raise DataError(f"{run.folder.path}: no {target} interactions{whose} to measure on")


def _fold_in(run: TrainedRun) -> FoldHistories:
    return functools.partial(fold_in_users, temperature=run.temperature)


def _rival_inputs(
    run: TrainedRun,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Item rows, interactions per group and item, and exposure."""
    items = run.embedding.weight.detach().numpy()
    num_groups, num_items = len(run.centroids), len(items)
    owners = np.repeat(run.user_group, np.diff(run.train_indptr))
    cells = np.bincount(owners * num_items + run.train_items, minlength=num_groups * num_items)
    exposure = measure_exposure(
        run.user_vectors, items, run.user_group, num_groups, run.train_indptr, run.train_items,
        ExposureConfig(**run.folder.config["exposure"]),
    )  # fmt: skip
    return items, cells.reshape(num_groups, num_items).astype(np.float64), exposure


class _Steps:
    """Counts passes and tells of them."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def advance(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)
