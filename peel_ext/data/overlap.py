"""A check that ids of a test part are those of the training part, and do not only look like them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from peel_ext.data.interactions import IdMap, Interactions
from peel_ext.errors import DataError

#: Fewer known users or items than this share of a part are a mistake, not new ones; so are more than
#: this share that look like known ones.
_LEAST_KNOWN = 0.05


def check_overlap(
    train: Interactions, part: Interactions, name: str, on_remark: Callable[[str], None]
) -> None:
    """Tells of users and items of a part that the training part does not have.

    Args:
        train: what is trained on.
        part: what is measured on, with the same maps.
        name: the name of the part.
        on_remark: told how many are unknown.

    Raises:
        DataError: hardly any is known, or those unknown are known ones written in another way.
    """
    for what, ids, own, known in (
        ("user", train.users, part.users_with_any(), train.users_with_any()),
        ("item", train.items, part.items_with_any(), train.items_with_any()),
    ):
        unknown = np.setdiff1d(own, known, assume_unique=True)
        if len(unknown) == 0:
            continue
        twins = _twins(ids, unknown, known)
        alike = twins.num > max(_LEAST_KNOWN * len(own), len(unknown) / 2)
        if len(unknown) > (1 - _LEAST_KNOWN) * len(own) or alike:
            example = ids.to_ids(known[:1])[0] if len(known) else None
            shown = twins.pair or (ids.to_ids(unknown[:1])[0], example)
            raise DataError(
                f"{len(unknown):,} of {len(own):,} {what}s of the {name} part are not in the training "
                f"part: {shown[0]!r} in the one, {shown[1]!r} in the other; ids must be written alike"
            )
        hint = "" if twins.pair is None else ", such as {!r}, beside {!r} there".format(*twins.pair)
        on_remark(
            f"{len(unknown):,} of {len(own):,} {what}s of the {name} part are not in the training part"
            f"{hint}"
        )


class _Twins:
    """Unknown ids that differ from known ones by case, blanks, leading zeros or ``.0`` alone."""

    def __init__(self, num: int, pair: tuple[int | str, int | str] | None) -> None:
        self.num = num
        self.pair = pair  # an unknown one, and the known one it looks like


def _twins(ids: IdMap, unknown: np.ndarray, known: np.ndarray) -> _Twins:
    if ids.holds_integers:
        return _Twins(0, None)
    plain_of = {_plain(str(each)): each for each in ids.to_ids(known)}
    pairs = [
        (each, plain_of[_plain(str(each))])
        for each in ids.to_ids(unknown)
        if _plain(str(each)) in plain_of
    ]
    return _Twins(len(pairs), pairs[0] if pairs else None)


def _plain(name: str) -> str:
    return name.strip().casefold().removesuffix(".0").lstrip("0")
