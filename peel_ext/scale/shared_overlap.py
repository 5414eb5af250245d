"""A check that ids of a test part are those of the training part, where ranks share both."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.interactions import IdMap, Interactions
from peel_ext.data.overlap import Overlap, find_twins, first_id, judge_overlap, plain_form
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import gather
from peel_ext.scale.numbering import exchange_texts
from peel_ext.scale.shared_overview import SharedOverview


def check_shared_overlap(
    train: Interactions,
    part: Interactions,
    name: str,
    overview: SharedOverview,
    on_remark: Callable[[str], None],
    ranks: Collectives,
) -> None:
    """Does what :func:`peel_ext.data.overlap.check_overlap` does, on all ranks at the same time.

    Args:
        train: what is trained on, of the users of this rank.
        part: what is measured on, with the same maps.
        name: name of the part.
        overview: overview of all interactions.
        on_remark: told how many are unknown.
        ranks: the processes.

    Raises:
        DataError: hardly any is known, or those unknown are known ones written in another way.
    """
    own, known = (np.flatnonzero(overview.items_with_any([each])) for each in (part, train))
    users = _overlap(train.users, part.users_with_any(), train.users_with_any(), ranks)
    judge_overlap("user", name, users, on_remark)
    judge_overlap("item", name, _overlap(overview.items, own, known, ranks), on_remark)


def _overlap(
    ids: IdMap, own: NDArray[np.int64], known: NDArray[np.int64], ranks: Collectives
) -> Overlap:
    """The overlap of rows of ids of this rank, both ascending, together with those of the others."""
    unknown = np.setdiff1d(own, known, assume_unique=True)
    firsts = gather([first_id(ids, rows) for rows in (unknown, known)], ranks)
    first_unknown, first_known = (
        next((each for each in column if each is not None), None)
        for column in zip(*firsts, strict=True)
    )
    num_own, num_unknown = (ranks.total(len(rows)) for rows in (own, unknown))
    if num_unknown == 0 or ids.holds_integers:
        return Overlap(num_own, num_unknown, first_unknown, first_known)
    # Ids that look alike meet on one rank, in ascending order, as ranks have them.
    pairs = find_twins(*(_meet(ids.ids[rows].tolist(), ranks) for rows in (unknown, known)))
    found = [each for each in gather(pairs[:1], ranks) if each]
    pair = min((each[0] for each in found), default=None)
    return Overlap(
        num_own, num_unknown, first_unknown, first_known, ranks.total(len(pairs)),
        None if pair is None else (pair[0], pair[1]),
    )  # fmt: skip


def _meet(names: Sequence[str], ranks: Collectives) -> list[str]:
    """Sends names to ranks so that those that look alike go to the same one."""
    going: list[list[str]] = [[] for _ in range(ranks.size)]
    for name in names:
        form: Any = plain_form(name).encode("utf-8", "surrogatepass")
        going[zlib.crc32(form) % ranks.size].append(name)
    return exchange_texts([name for each in going for name in each], [*map(len, going)], ranks)[0]
