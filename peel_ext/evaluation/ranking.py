"""Full ranking for many users: with a whole table, with what a device holds, and with rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.device.fold_in import RowSample
from peel_ext.device.shipped_list import add_shipped
from peel_ext.evaluation.rivals import Rival
from peel_ext.nn import ElasticEmbedding
from peel_ext.ops import gathered_score
from peel_ext.train.placement import to_array

#: Users times items whose worth is in memory at once.
_BLENDED_CELLS = 1 << 22

#: An embedding with one user group for each of the users at some positions [m], in their order.
Blend = Callable[[NDArray[np.int64]], ElasticEmbedding]

#: Users' vectors on the device [m, dim], from the ids it holds [h], ascending, their rows [h, dim], a
#: sample of them or None for all, the users' shipped vectors [m, dim] in the space of those rows, and
#: their positions [m].
DeviceUpdate = Callable[
    [
        NDArray[np.int64], NDArray[np.float32], RowSample | None, NDArray[np.float32],
        NDArray[np.int64],
    ],
    NDArray[np.float32],
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Audience:
    """Users to recommend to, what they are not to be shown, and what they should be shown.

    Attributes:
        vectors: float32 [num_users, dim], in the space of the item rows.
        groups: int64 [num_users].
        exclude: items not to return.
        targets: items to be found, distinct for each user.
        update: what the device makes of the vectors; None where it uses them as they are.
        shipped: items int64 [num_users, k], -1 for none, that a server ranked for them with the full
            table, and their scores float32 [num_users, k]; None: devices have no such list.
    """

    vectors: NDArray[np.float32]
    groups: NDArray[np.int64]
    exclude: ItemLists
    targets: ItemLists
    update: DeviceUpdate | None = None
    shipped: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None


@dataclass(frozen=True, eq=False)
class RankedLists:
    """Lists and what they took.

    Attributes:
        indices: int64 [num_users, n], best first, -1 for none.
        max_bytes: bytes of the largest table held by a user of the audience, everything counted.
        num_rows: rows held, added up over the users who got a list.
        num_users: number of users who got a list.
    """

    indices: NDArray[np.int64]
    max_bytes: int
    num_rows: int
    num_users: int

    @property
    def mean_rows(self) -> float:
        """Rows held, averaged over the users who got a list."""
        return self.num_rows / max(self.num_users, 1)


def rank_full(
    audience: Audience,
    items: NDArray[np.float32],
    n: int,
    device: str = "cpu",
    users: NDArray[np.int64] | None = None,
) -> RankedLists:
    """Lists of the full table with the audience's vectors.

    Args:
        audience: whom to recommend to.
        items: float32 [num_items, dim], the table.
        n: items returned.
        device: the device that ranks.
        users: int64 [m], the positions of those who get a list, ascending; None: all.
    """
    collected = _Collector(audience, n)
    users = np.arange(len(audience.vectors)) if users is None else users
    exclude = audience.exclude.take(users)
    indices, _ = rank(audience.vectors[users], torch.from_numpy(items), n, exclude, device)
    collected.add(users, indices, items.nbytes, len(items))
    return collected.lists()


def rank_elastic(
    audiences: Sequence[Audience],
    embedding: ElasticEmbedding,
    budgets: Sequence[int],
    n: int,
    on_users: Callable[[int], None] | None = None,
    device: str = "cpu",
    users: NDArray[np.int64] | None = None,
) -> list[list[RankedLists]]:
    """Lists of each user from the Personalized Elastic Embedding of its group, as a device has it.

    Only rows held are candidates. Groups without users are not generated.

    Args:
        audiences: those of the same users in the same groups; what is generated serves all.
        embedding: the item table.
        budgets: bytes, of each group; at least one.
        n: items returned.
        on_users: told how many users are done.
        device: the device that ranks.
        users: int64 [m], the positions of those who get a list, ascending; None: all.

    Returns:
        For every budget one of every audience.

    Raises:
        BudgetError: a budget too small for a group with users; names the minimum.
    """
    users = np.arange(len(audiences[0].vectors)) if users is None else users

    def tables() -> Iterator[tuple[NDArray[np.int64], list[PersonalizedElasticEmbedding]]]:
        done = 0
        for group, members in _groups(audiences[0], users):
            yield members, _generate_all(embedding, group, budgets)
            done += len(members)
            if on_users is not None:
                on_users(done)

    return _rank_tables(audiences, embedding, n, tables(), len(budgets), device)


def rank_blended(
    audiences: Sequence[Audience],
    embedding: ElasticEmbedding,
    blend: Blend,
    budgets: Sequence[int],
    n: int,
    on_users: Callable[[int], None] | None = None,
    device: str = "cpu",
    users: NDArray[np.int64] | None = None,
) -> list[list[RankedLists]]:
    """Lists of each user from a Personalized Elastic Embedding of its own: a blend of groups.

    Args:
        audiences: those of the same users; what is generated serves all.
        embedding: the item table.
        blend: makes embeddings of some users.
        budgets: bytes, of each user; at least one.
        n: items returned.
        on_users: told how many users are done.
        device: the device that ranks.
        users: int64 [m], the positions of those who get a list, ascending; None: all.

    Returns:
        For every budget one of every audience.

    Raises:
        BudgetError: a budget too small for a user; names the minimum.
    """
    users = np.arange(len(audiences[0].vectors)) if users is None else users

    def tables() -> Iterator[tuple[NDArray[np.int64], list[PersonalizedElasticEmbedding]]]:
        chunk = max(1, _BLENDED_CELLS // max(1, embedding.num_embeddings))
        for start in range(0, len(users), chunk):
            members = users[start : start + chunk]
            blended = blend(members)
            for group, member in enumerate(members):
                yield np.array([member]), _generate_all(blended, group, budgets)
            if on_users is not None:
                on_users(start + len(members))

    return _rank_tables(audiences, embedding, n, tables(), len(budgets), device)


def _generate_all(
    embedding: ElasticEmbedding, group: int, budgets: Sequence[int]
) -> list[PersonalizedElasticEmbedding]:
    """Generates what a group holds under each budget: a prefix of what fits the largest."""
    whole = embedding.generate(group, max(budgets))
    return [PersonalizedElasticEmbedding(whole.buffer, budget) for budget in budgets]


def _rank_tables(
    audiences: Sequence[Audience],
    embedding: ElasticEmbedding,
    n: int,
    tables: Iterable[tuple[NDArray[np.int64], list[PersonalizedElasticEmbedding]]],
    num_budgets: int,
    device: str,
) -> list[list[RankedLists]]:
    """Lists of each budget and audience; tables are the members who hold them, one a budget."""
    rotated = [
        embedding.rotate(torch.from_numpy(audience.vectors)).numpy() for audience in audiences
    ]
    collectors = [[_Collector(audience, n) for audience in audiences] for _ in range(num_budgets)]
    for members, pees in tables:
        exclude = [audience.exclude.take(members) for audience in audiences]
        for pee, row in zip(pees, collectors, strict=True):
            ids = pee.row_ids
            rows = None
            for at, (audience, collector) in enumerate(zip(audiences, row, strict=True)):
                vectors = rotated[at][members]
                if audience.update is not None:
                    rows = pee.lookup(ids) if rows is None else rows
                    vectors = audience.update(ids, rows, pee.row_sample, vectors, members)
                ranked = rank(vectors, pee, n, exclude[at], device)
                indices = _with_shipped(audience, members, ids, *ranked)
                collector.add(members, indices, pee.nbytes, len(ids))
    return [[collector.lists() for collector in row] for row in collectors]


def rank_rival(
    audience: Audience,
    rival: Rival,
    budget_bytes: int,
    n: int,
    users: NDArray[np.int64],
    device: str = "cpu",
    own: NDArray[np.int64] | None = None,
) -> RankedLists:
    """Lists from the rows that a rival holds under the same budget.

    Args:
        audience: whom to recommend to.
        rival: what holds rows.
        budget_bytes: budget of each user.
        n: items returned.
        users: int64 [m], the positions of those who get a list, ascending; the others get none.
        device: the device that ranks.
        own: those of them whose lists are made here, other processes make the rest; None: all. Their
            vectors are made together with those of the others, which take part in the rounding.

    Raises:
        BudgetError: a budget the rival cannot serve; names the minimum.
    """
    collected = _Collector(audience, n)
    for group, members in _groups(audience, users) if rival.per_group else [(0, users)]:
        mine = np.arange(len(members)) if own is None else np.flatnonzero(np.isin(members, own))
        if len(mine) == 0:
            continue
        held = rival.hold(budget_bytes, group)
        vectors = audience.vectors[members] if held.vectors is None else held.vectors[members]
        if audience.update is not None:
            vectors = audience.update(held.ids, held.decoded(), None, vectors, members)
        if held.axes is not None:
            vectors = vectors @ held.axes
        members, vectors = members[mine], vectors[mine]
        exclude = held_lists(audience.exclude.take(members), held.ids)
        places, scores = rank(vectors, torch.from_numpy(held.rows), n, exclude, device)
        found = np.where(places < 0, -1, held.ids[places])
        indices = _with_shipped(audience, members, held.ids, found, scores)
        collected.add(members, indices, held.nbytes, len(held.ids))
    return collected.lists()


def held_lists(lists: ItemLists, ids: NDArray[np.int64]) -> ItemLists:
    """The part of the lists that is held, as positions in the ascending ids held [h]."""
    if len(ids) == 0:
        return ItemLists.empty(len(lists))
    at = np.minimum(np.searchsorted(ids, lists.items), len(ids) - 1)
    held = ids[at] == lists.items
    return ItemLists(lists.where(held).indptr, at[held])


class _Collector:
    """Puts the lists of groups together."""

    def __init__(self, audience: Audience, n: int) -> None:
        self._indices = np.full((len(audience.vectors), n), -1, dtype=np.int64)
        self._max_bytes = 0
        self._rows = 0
        self._users = 0

    def add(
        self, members: NDArray[np.int64], indices: NDArray[np.int64], nbytes: int, rows: int
    ) -> None:
        self._indices[members] = indices
        self._max_bytes = max(self._max_bytes, nbytes)
        self._rows += rows * len(members)
        self._users += len(members)

    def lists(self) -> RankedLists:
        return RankedLists(self._indices, self._max_bytes, self._rows, self._users)


def _groups(audience: Audience, users: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Every group that has some of the users, and the positions of these."""
    order = users[np.argsort(audience.groups[users], kind="stable")]
    found, starts = np.unique(audience.groups[order], return_index=True)
    parts = np.split(order, starts[1:]) if len(found) else []
    return list(zip(found.tolist(), parts, strict=True))


def rank(
    vectors: NDArray[np.float32],
    table: torch.Tensor | PersonalizedElasticEmbedding,
    n: int,
    exclude: ItemLists,
    device: str = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The n best rows of each user, -1 for none, and their scores, -infinity for none."""
    users, indptr, items = (
        torch.from_numpy(array).to(device)
        for array in (np.ascontiguousarray(vectors), exclude.indptr, exclude.items)
    )
    if isinstance(table, torch.Tensor):
        table = table.to(device)
    ranked = gathered_score(users, table, n, exclude_indptr=indptr, exclude=items)
    return to_array(ranked[0]), to_array(ranked[1])


def _with_shipped(
    audience: Audience,
    members: NDArray[np.int64],
    held: NDArray[np.int64],
    found: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Lists [m, n] of some users, with what they were shipped and a table that holds some ids lacks."""
    if audience.shipped is None:
        return found
    items, worth = audience.shipped[0][members], audience.shipped[1][members]
    missing = (items >= 0) & ~np.isin(items, held)
    for at, own in enumerate(audience.exclude.take(members)):
        missing[at] &= ~np.isin(items[at], own)
    return add_shipped(found, scores, np.where(missing, items, -1), worth)[0]
