"""A check that ids of a test part are those of the training part, and do not only look like them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        judge_overlap(what, name, _overlap(ids, own, known), on_remark)


@dataclass(frozen=True)
class Overlap:
    """The users or items of a part beside those of the training part.

    Attributes:
        num_own: number of those of the part.
        num_unknown: number of these that the training part does not have.
        first_unknown: the least of them, or None.
        first_known: the least of the training part, or None.
        num_twins: unknown ones that differ from a known one by case, blanks, leading zeros or ``.0``
            alone.
        pair: the first of these, and the known one it looks like, or None.
    """

    num_own: int
    num_unknown: int
    first_unknown: int | str | None
    first_known: int | str | None
    num_twins: int = 0
    pair: tuple[int | str, int | str] | None = None


def judge_overlap(what: str, name: str, overlap: Overlap, on_remark: Callable[[str], None]) -> None:
    """Tells of unknown users or items.

    Args:
        what: ``"user"`` or ``"item"``.
        name: name of the part.
        overlap: what is known of them.
        on_remark: told how many are unknown.

    Raises:
        DataError: hardly any is known, or those unknown are known ones written in another way.
    """
    own, unknown = overlap.num_own, overlap.num_unknown
    if unknown == 0:
        return
    counted = f"{unknown:,} of {own:,} {what}s of the {name} part are not in the training part"
    alike = overlap.num_twins > max(_LEAST_KNOWN * own, unknown / 2)
    if unknown > (1 - _LEAST_KNOWN) * own or alike:
        shown = overlap.pair or (overlap.first_unknown, overlap.first_known)
        raise DataError(
            f"{counted}: {shown[0]!r} in the one, {shown[1]!r} in the other; ids must be written alike"
        )
    hint = "" if overlap.pair is None else ", such as {!r}, beside {!r} there".format(*overlap.pair)
    on_remark(f"{counted}{hint}")


def _overlap(ids: IdMap, own: NDArray[np.int64], known: NDArray[np.int64]) -> Overlap:
    """The overlap of rows of a part and of the training part, both ascending."""
    unknown = np.setdiff1d(own, known, assume_unique=True)
    counts = len(own), len(unknown)
    firsts = first_id(ids, unknown), first_id(ids, known)
    if len(unknown) == 0 or ids.holds_integers:
        return Overlap(*counts, *firsts)
    pairs = find_twins(ids.to_ids(unknown), ids.to_ids(known))
    return Overlap(*counts, *firsts, len(pairs), pairs[0] if pairs else None)


def first_id(ids: IdMap, rows: NDArray[np.int64]) -> int | str | None:
    """The id of the first of some rows, or None."""
    return ids.to_ids(rows[:1])[0] if len(rows) else None


def find_twins(
    unknown: Sequence[int | str], known: Sequence[int | str]
) -> list[tuple[int | str, int | str]]:
    """Each unknown id that looks like a known one, with the last known one it looks like."""
    plain_of = {plain_form(str(each)): each for each in known}
    plain = ((each, plain_form(str(each))) for each in unknown)
    return [(each, plain_of[form]) for each, form in plain if form in plain_of]


def plain_form(name: str) -> str:
    """The form that ids that look alike have in common."""
    return name.strip().casefold().removesuffix(".0").lstrip("0")
