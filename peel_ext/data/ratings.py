"""Interactions rated too low to count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from peel_ext.data.interactions import Interactions
from peel_ext.data.overview import WHOLE, Overview
from peel_ext.errors import DataError


def drop_low(
    parts: dict[str, Interactions],
    counts: dict[str, NDArray[np.bool_]],
    first: dict[str, str],
    min_rating: float,
    on_remark: Callable[[str], None],
    overview: Overview = WHOLE,
) -> dict[str, Interactions]:
    """The parts without what is rated too low, which becomes the part ``"below"``.

    Args:
        parts: by name.
        counts: whether each interaction [m] is rated high enough.
        first: the name of the first table of each part.
        min_rating: the least rating that counts.
        on_remark: told how many are too low.
        overview: overview of all interactions, where other processes have users, too.

    Raises:
        DataError: a part has none that counts.
    """
    kept = {name: whole.select(counts[name]) for name, whole in parts.items()}
    below = Interactions.joined([whole.select(~counts[name]) for name, whole in parts.items()])
    for name, part in kept.items():
        if overview.total(len(part)) == 0:
            raise DataError(f"{first[name]}: no interaction is rated {min_rating:g} or more")
    num_below, num_all = (
        overview.total(count) for count in (len(below), sum(map(len, counts.values())))
    )
    on_remark(
        f"{num_below:,} of {num_all:,} interactions are rated below "
        f"{min_rating:g}: not trained on, and not recommended"
    )
    whole = {**kept, "below": below}
    restricted = overview.restrict(list(whole.values()), list(kept.values()))
    return dict(zip(whole, restricted, strict=True))
