"""The variant of every rival family that does best on some users, measured on all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import BudgetError
from peel_ext.evaluation.measurement import Measurement
from peel_ext.evaluation.ranking import Audience, rank_rival
from peel_ext.evaluation.rivals import Rival
from peel_ext.evaluation.sharing import ALONE, Sharing
from peel_ext.metrics import measure_users

#: Users who choose, at most, and the user groups they are drawn from: a table of each group has to be
#: made for each variant and budget.
_USERS, _GROUPS = 2000, 64

_SEED = 0

#: Variants of a family that everybody decides between, under each budget.
_FINALISTS = 2


def draw_choosers(audience: Audience) -> NDArray[np.int64]:
    """Positions, ascending, of at most 2,000 users with targets, of at most 64 user groups.

    Both are drawn with a fixed seed.
    """
    users = np.flatnonzero(audience.targets.counts)
    rng = np.random.default_rng(_SEED)
    groups = rng.permutation(np.unique(audience.groups[users]))[:_GROUPS]
    users = users[np.isin(audience.groups[users], groups)]
    return np.sort(rng.permutation(users)[:_USERS])


def measure_rivals(
    rivals: Sequence[Rival],
    audience: Audience,
    choosers: NDArray[np.int64],
    budgets: Sequence[int],
    n: int,
    on_pass: Callable[[], None],
    device: str = "cpu",
    sharing: Sharing = ALONE,
) -> list[Measurement]:
    """One variant of every family under every budget it can be had under.

    Two are chosen by the recall of the choosers and measured on everybody; the better one stays.

    Args:
        rivals: all variants.
        audience: whom they are measured on.
        choosers: positions of some who have targets.
        budgets: bytes.
        n: items returned.
        on_pass: called after every variant, and then after every family.
        device: the device that ranks.
        sharing: the users of each process.
    """
    targets = audience.targets.take(choosers)
    found: dict[tuple[str, int], list[tuple[float, Rival]]] = {}
    for rival in rivals:
        for budget in budgets:
            made = None
            parts = sharing.deal(choosers, audience, by_group=True)
            with contextlib.suppress(BudgetError):  # which all others must know of
                made = rank_rival(audience, rival, budget, n, choosers, device, sharing.own(parts))
            if sharing.any(made is None) or made is None:
                continue
            lists = sharing.join(made, parts)
            recall = float(
                measure_users(lists.indices[choosers], targets.indptr, targets.items).recall.mean()
            )
            found.setdefault((rival.family, budget), []).append((recall, rival))
        on_pass()
    everybody = np.arange(len(audience.vectors))
    measured = []
    for family in dict.fromkeys(rival.family for rival in rivals):
        for budget in budgets:
            ranked = sorted(found.get((family, budget), []), key=lambda pair: -pair[0])
            finalists = []
            for _, rival in ranked[:_FINALISTS]:
                parts = sharing.deal(everybody, audience, by_group=True)
                own = sharing.own(parts)
                made = rank_rival(audience, rival, budget, n, everybody, device, own)
                lists, options = sharing.join(made, parts), (budget, rival.name, rival.per_group)
                finalists.append(Measurement.of_lists(family, audience, lists, *options))
            if finalists:
                measured.append(max(finalists, key=lambda each: each.users.recall.mean()))
        on_pass()
    return measured
