"""Quality per byte of a trained run under one protocol, beside the rivals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ExposureConfig
from peel_ext.evaluation.choice import draw_choosers, measure_rivals
from peel_ext.evaluation.measurement import Measurement
from peel_ext.evaluation.plan import BLENDED, Plan, Ship
from peel_ext.evaluation.ranking import Audience, Blend, rank_blended, rank_elastic, rank_full
from peel_ext.evaluation.rivals import Rival, build_rivals
from peel_ext.evaluation.sharing import Sharing
from peel_ext.scale.collectives import Collectives
from peel_ext.train.block_weights.exposure import count_popularity, measure_exposure
from peel_ext.train.frames import require_pandas
from peel_ext.train.pipeline import TrainedRun
from peel_ext.train.placement import ranking_device, require_device
from peel_ext.train.population import Population


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The measurements of a run under one protocol.

    Attributes:
        protocol: ``"known"``, ``"new"``, ``"offline"`` or ``"time"``.
        n: items returned.
        ceiling: the full table with everything known of each user.
        floor: in the offline protocol the list shipped at download, without what the user had since.
        curve: the Personalized Elastic Embeddings, one for each budget.
        others: other uses of the same embeddings: in the new-users protocol with vectors folded in
            on the device, in the offline protocol with the vector of the download; and in both,
            where asked for, tables made for each user alone.
        rivals: one variant of every family of rivals under every budget it can serve, measured on
            all users like everything else: of the two best for the choosers the better one.
        num_choosers: users who chose the two best variants, 0 without rivals. They are some of those
            measured, drawn with a fixed seed (:func:`peel_ext.evaluation.choice.draw_choosers`).
        left_out: rivals that could not be measured, and why.
    """

    protocol: str
    n: int
    ceiling: Measurement
    floor: Measurement | None
    curve: list[Measurement]
    others: list[Measurement] = field(default_factory=list)
    rivals: list[Measurement] = field(default_factory=list)
    num_choosers: int = 0
    left_out: list[str] = field(default_factory=list)

    def best_rivals(self, budget_bytes: int) -> list[Measurement]:
        """The best variant of each family under a budget, as far as :attr:`rivals` tells.

        That choice looks at the very users that are measured: it flatters rivals, never us.
        """
        return [rival for rival in self.rivals if rival.budget_bytes == budget_bytes]

    def gap_recovered(self, measurement: Measurement) -> float | None:
        """Share of the recall between floor and ceiling; None without a gap."""
        if self.floor is None:
            return None
        floor = float(self.floor.users.recall.mean())
        gap = float(self.ceiling.users.recall.mean()) - floor
        return (float(measurement.users.recall.mean()) - floor) / gap if gap > 0 else None

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a line for every measurement: its attributes, metrics as means.

        ``budget_bytes`` is missing for the full table, ``gap_recovered`` where there is no floor.

        Raises:
            DependencyError: pandas is not installed.
        """
        pandas = require_pandas("Evaluation.to_frame")
        ends = [self.ceiling] if self.floor is None else [self.ceiling, self.floor]
        lines = [
            {
                "method": each.method,
                "variant": each.variant,
                "per_group": each.per_group,
                "budget_bytes": each.budget_bytes,
                "max_bytes": each.max_bytes,
                "mean_rows": each.mean_rows,
                **dataclasses.asdict(each.users.mean()),
                "gap_recovered": self.gap_recovered(each),
            }
            for each in (*ends, *self.curve, *self.others, *self.rivals)
        ]
        types = {"budget_bytes": "Int64", "gap_recovered": "float64"}
        return pandas.DataFrame(lines).astype(types)


def evaluate_run(
    run: TrainedRun,
    protocol: str,
    budgets: Sequence[int],
    *,
    n: int = 20,
    with_blends: bool = False,
    with_rivals: bool = False,
    more_rivals: Callable[[Ship], Sequence[Rival]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
    ranks: Collectives | Sharing | None = None,
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
        with_blends: whether to measure tables made for each user alone too
            (:func:`peel_ext.train.blending.blend_for_users`), for new users and offline; takes
            about a tenth of a second a user.
        with_rivals: whether to measure those of :mod:`peel_ext.evaluation.rivals` too, of each family
            the best variant (:attr:`Evaluation.rivals`).
        more_rivals: makes further ones, such as models trained anew.
        on_progress: called with the number of passes done and in all.
        device: the device that ranks, one of :data:`peel_ext.config.DEVICES`; all else is done on the CPU.
        ranks: the processes that share the users, each with the same run and arguments; all get the
            figures that one process finds. Or how else users are shared
            (:mod:`peel_ext.evaluation.shards`).

    Raises:
        BudgetError: a budget too small for a group; names the minimum.
        DataError: the run has nothing to measure this protocol on.
        ValueError: an unknown protocol, or a device that is not there or has no kernels.
    """
    require_device(device)
    if ranking_device(device) != device:
        raise ValueError(
            f"device must be cpu, for this package was built without kernels for CUDA, got {device!r}"
        )
    sharing = ranks if isinstance(ranks, Sharing) else Sharing(ranks)
    plan = Plan.of_run(run, protocol, n, sharing)
    for budget in budgets:  # all are checked before the first is measured
        with run.embedding.budget(budget):
            pass
    rivals, left_out = build_rivals(*rival_inputs(run, device)) if with_rivals else ([], [])
    rivals += more_rivals(plan.ship) if more_rivals is not None else []
    passes = 1 if plan.floor is None else 2
    passes += len(budgets) if with_blends and plan.blend is not None else 0
    families = {rival.family for rival in rivals}
    steps = _Steps(passes + len(budgets) + len(rivals) + len(families), on_progress)
    ceiling = _full_table(run, plan.ceiling_name, plan.ceiling, n, steps, device, sharing)
    floor = None
    if plan.floor is not None:
        name = "list shipped at download"
        floor = _full_table(run, name, plan.floor, n, steps, device, sharing)
    curve, *others = _elastic_curves(run, plan, budgets, n, steps, device, sharing)
    if with_blends and plan.blend is not None and len(budgets):
        others.append(_blended_curve(run, plan, plan.blend, budgets, n, steps, device, sharing))
    choosers = draw_choosers(plan.device)
    measured = measure_rivals(
        rivals, plan.device, choosers, budgets, n, steps.advance, device, sharing
    )
    return Evaluation(
        protocol, n, ceiling, floor, curve, [each for other in others for each in other], measured,
        len(choosers) if measured else 0, left_out,
    )  # fmt: skip


def _full_table(
    run: TrainedRun,
    name: str,
    audience: Audience,
    n: int,
    steps: _Steps,
    device: str,
    sharing: Sharing,
) -> Measurement:
    """The measurement of a use of the full table."""
    table = run.embedding.weight.detach().numpy()
    parts = sharing.deal(np.arange(len(audience.vectors)), audience, by_group=False)
    own = rank_full(audience, table, n, device, sharing.own(parts))
    lists = sharing.join(own, parts)
    steps.advance()
    return Measurement.of_lists(name, audience, lists, per_group=False)


def _elastic_curves(
    run: TrainedRun,
    plan: Plan,
    budgets: Sequence[int],
    n: int,
    steps: _Steps,
    device: str,
    sharing: Sharing,
) -> list[list[Measurement]]:
    """One measurement for each budget, of the device first and then of each other use."""
    methods = [("PEE", plan.device), *plan.others]
    audiences = [audience for _, audience in methods]
    by_group = any(audience.update is not None for audience in audiences)
    parts = sharing.deal(np.arange(len(plan.device.vectors)), plan.device, by_group)
    own = sharing.own(parts)
    on_users = steps.by_users(len(own), len(budgets))
    made = []
    if budgets:
        made = rank_elastic(audiences, run.embedding, budgets, n, on_users, device, own)
    return [
        [
            Measurement.of_lists(name, audience, sharing.join(row[at], parts), budget)
            for budget, row in zip(budgets, made, strict=True)
        ]
        for at, (name, audience) in enumerate(methods)
    ]


def _blended_curve(
    run: TrainedRun,
    plan: Plan,
    blend: Blend,
    budgets: Sequence[int],
    n: int,
    steps: _Steps,
    device: str,
    sharing: Sharing,
) -> list[Measurement]:
    """One measurement for each budget, of devices that hold what is worth most to their user."""
    audience = plan.device
    parts = sharing.deal(np.arange(len(audience.vectors)), audience, by_group=False)
    own = sharing.own(parts)
    on_users = steps.by_users(len(own), len(budgets))
    made = rank_blended([audience], run.embedding, blend, budgets, n, on_users, device, own)
    return [
        Measurement.of_lists(BLENDED, audience, sharing.join(lists, parts), budget)
        for budget, (lists,) in zip(budgets, made, strict=True)
    ]


def rival_inputs(
    run: TrainedRun, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """The arguments of :func:`peel_ext.evaluation.rivals.build_rivals`, made from a run.

    Args:
        run: a trained run.
        device: the device that ranks.

    Returns:
        item rows float32 [num_items, dim]; interactions of each group's users with each item, and
        exposure, both float64 [num_groups, num_items].
    """
    items = run.embedding.weight.detach().numpy()
    num_groups, num_items = len(run.centroids), len(items)
    popularity = count_popularity(run.train, run.user_group, num_groups, num_items)
    population = Population(
        run.user_vectors,
        items,
        run.user_group,
        run.centroids,
        run.train,
        run.temperature,
        run.prior,
    )
    config = ExposureConfig(**run.folder.config["exposure"])
    exposure = measure_exposure(population, config, device)
    return items, popularity.astype(np.float64), exposure


class _Steps:
    """Counts passes and tells of them."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def advance(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)

    def by_users(self, num_users: int, count: int) -> Callable[[int], None]:
        """Makes a listener that, told how many users are done, tells of ``count`` passes one by one."""
        told = 0

        def on_users(done: int) -> None:
            nonlocal told
            while told < count and (told + 1) * num_users <= done * count:
                told += 1
                self.advance()

        return on_users
