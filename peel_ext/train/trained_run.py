"""A finished run, opened, and what it recommends.

Nothing here needs torch but the embedding under a budget, which imports it when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data import IdMap, ItemLists
from peel_ext.device import score_rows
from peel_ext.device.similarity import check_count
from peel_ext.errors import RunError
from peel_ext.train.layout import layout_of
from peel_ext.train.recommendations import (
    ExcludeItems,
    Ranked,
    Recommendations,
    exclusions_of,
    ids_or_none,
    rows_of,
)
from peel_ext.train.run_folder import RunFolder

if TYPE_CHECKING:
    from peel_ext.format import FoldInSettings
    from peel_ext.nn import ElasticEmbedding

#: Users times items returned that are ranked at once.
_BATCH_CELLS = 1 << 18

_NAMES = "item_names.json"


class TrainedRun:
    """A finished run, opened. Its parts are read, and checked, when they are first asked for.

    Each part raises :class:`peel_ext.errors.RunError` where its file is not the one written.

    Attributes:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrainedRun:
        """Opens a run folder.

        Raises:
            RunError: no run there, not a finished one, or one of its files is missing.
        """
        folder = RunFolder(path)
        folder.check_whole(last="block_weights")
        return cls(folder)

    # ---- the model ----

    @cached_property
    def users(self) -> IdMap:
        """Ids of the users."""
        return self._read_ids("users.json", len(self.user_vectors))

    @cached_property
    def items(self) -> IdMap:
        """Ids of the items."""
        return self._read_ids("items.json", len(self.item_vectors))

    @cached_property
    def item_names(self) -> list[str | None] | None:
        """Names of the items, None for those without one; None where the data has no names."""
        if _NAMES not in self.folder.documents:
            return None
        names = self.folder.read_document(_NAMES)
        if not isinstance(names, list) or len(names) != len(self.item_vectors):
            raise RunError(
                f"{self.folder.path / _NAMES}: expected a list of {len(self.item_vectors)} names"
            )
        return names

    @property
    def user_vectors(self) -> NDArray[np.float32]:
        """float32 [num_users, dim], of length 1 but for the prior."""
        return self._vectors["users"]

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """float32 [num_items, dim], the full table: the ``weight`` of ``embedding``."""
        return self._vectors["items"]

    @property
    def user_group(self) -> NDArray[np.int64]:
        """int64 [num_users]."""
        return self._clustering["user_group"]

    @property
    def centroids(self) -> NDArray[np.float32]:
        """float32 [num_groups, dim]."""
        return self._clustering["centroids"]

    @property
    def temperature(self) -> float:
        """The temperature of pretraining's softmax, which fold-in shares."""
        return float(self.folder.stages["tuning"]["temperature"])

    @property
    def prior(self) -> float:
        """The component of every user along the axis of the prior; 0: none.

        See :mod:`peel_ext.device.item_prior`.
        """
        return float(self.folder.stages["pretraining"].get("prior", 0))

    @property
    def fold_in_settings(self) -> FoldInSettings:
        """The settings by which a device, or a server, computes a user's vector."""
        from peel_ext.format import FoldInSettings

        return FoldInSettings(temperature=self.temperature, prior=self.prior)

    @property
    def full_bytes(self) -> int:
        """Bytes of the item table in float32."""
        return self.item_vectors.size * 4

    @cached_property
    def embedding(self) -> ElasticEmbedding:
        """The item table under any budget, one group per user group; needs torch."""
        import torch

        from peel_ext.nn import ElasticEmbedding

        state = self.folder.load("block_weights")
        state.pop("losses", None)  # of the controller
        embedding = ElasticEmbedding.from_pretrained(
            torch.from_numpy(state["weight"]),
            num_groups=len(self.centroids),
            layout=layout_of(self.folder.config, state["weight"].shape[1]),
        )
        embedding.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        return embedding

    # ---- the interactions ----

    @cached_property
    def train(self) -> ItemLists:
        """Training items of every user, ascending."""
        return ItemLists.from_arrays(self._data, "train")

    @cached_property
    def test(self) -> ItemLists:
        """Target items of every user."""
        return ItemLists.from_arrays(self._data, "test")

    @cached_property
    def other(self) -> ItemLists:
        """Other items that users had: kept from training, and no target."""
        if "other_indptr" not in self._data:
            return ItemLists.empty(len(self.train))
        return ItemLists.from_arrays(self._data, "other")

    @cached_property
    def new_users(self) -> IdMap:
        """Ids of the users held out of every stage."""
        return self._read_ids("new_users.json", len(self.history))

    @cached_property
    def history(self) -> ItemLists:
        """Items that every new user had before, in the order of time where there is time."""
        return ItemLists.from_arrays(self._data, "history")

    @cached_property
    def history_test(self) -> ItemLists:
        """Target items of every new user."""
        return ItemLists.from_arrays(self._data, "history_test")

    def seen(self, user_rows: Sequence[int] | NDArray[np.int64]) -> ItemLists:
        """Everything some users had in the data the run was made from, trained on or not.

        Args:
            user_rows: [m].

        Returns:
            Lists of m users, each ascending.

        Raises:
            IndexError: a row out of range.
        """
        rows = np.asarray(user_rows, dtype=np.int64)
        num_users = len(self.train)
        outside = (rows < 0) | (rows >= num_users)
        if outside.any():
            raise IndexError(
                f"user_rows contain {rows[np.argmax(outside)]}, expected rows in [0, {num_users})"
            )
        parts = [part.take(rows) for part in (self.train, self.test, self.other)]
        return ItemLists.merged(parts, len(self.item_vectors))

    # ---- recommending ----

    def recommend(
        self,
        users: Sequence[int | str] | NDArray[Any],
        n: int = 20,
        budget_bytes: int | None = None,
        exclude: str | Sequence[Sequence[int | str]] | None = "seen",
    ) -> Recommendations:
        """The n best items of some users.

        Args:
            users: ids of users of the training data.
            n: items for each, from 1 to 2^31 - 1.
            budget_bytes: bytes of the table each user is ranked with, that of its user group; None: the
                full table.
            exclude: what to leave out: ``"seen"``, everything a user had in the data
                (:meth:`seen`); None, nothing; or a sequence of item ids for every user.

        Raises:
            DataError: an unknown user or item; names it.
            BudgetError: too few bytes for one of the user groups; names the minimum.
            ValueError: n out of range, or another ``exclude``.
            TypeError: users that are no sequence of ids, or lists to exclude that are none.
        """
        rows = rows_of(self.users, users, "user")
        ranked = Ranked.empty(len(rows), check_count(n))
        lists = exclusions_of(self.items, exclude, len(rows))
        for positions, batch in self.rank_users(rows, n, budget_bytes, lists):
            ranked.put(positions, *batch)
        return Recommendations(
            self.users.ids[rows], ids_or_none(self.items, ranked.rows), ranked.scores
        )

    def rank_users(
        self,
        user_rows: NDArray[np.int64],
        n: int,
        budget_bytes: int | None = None,
        exclude: ExcludeItems | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Ranked]]:
        """Ranks items for users a batch at a time, so that memory does not grow with their number.

        Args:
            user_rows: [m].
            n: items for each.
            budget_bytes: as in :meth:`recommend`; with one, users come by user group.
            exclude: what not to return; None: what :meth:`seen` has.

        Yields:
            Positions int64 in ``user_rows``, and what was found for them.
        """
        order = np.arange(len(user_rows))
        if budget_bytes is not None:  # a group's table is made once, or twice between two batches
            order = np.argsort(self.user_group[user_rows], kind="stable")
        size = max(1, _BATCH_CELLS // n)
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            rows = user_rows[positions]
            lists = self.seen(rows) if exclude is None else exclude(positions)
            vectors, groups = self.user_vectors[rows], self.user_group[rows]
            yield positions, self.rank(vectors, groups, lists, n, budget_bytes)

    def rank(
        self,
        vectors: NDArray[np.float32],
        groups: NDArray[np.int64],
        exclude: ItemLists,
        n: int,
        budget_bytes: int | None = None,
    ) -> Ranked:
        """Ranks items for user vectors.

        Args:
            vectors: float32 [m, dim].
            groups: int64 [m], the user group of each.
            exclude: items not to return.
            n: items for each.
            budget_bytes: as in :meth:`recommend`.
        """
        if budget_bytes is None:
            found = score_rows(vectors, self.item_vectors, n, (exclude.indptr, exclude.items))
            return Ranked(*found, np.full(len(vectors), self.full_bytes))
        import torch

        from peel_ext.ops import gathered_score

        ranked = Ranked.empty(len(vectors), n)
        rotated = self.embedding.rotate(torch.from_numpy(vectors.copy()))  # may be read-only
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            pee = self.embedding.generate(int(group), budget_bytes)
            own = exclude.take(members)
            rows, scores = gathered_score(
                rotated[torch.from_numpy(members)], pee, n,
                exclude_indptr=torch.from_numpy(own.indptr), exclude=torch.from_numpy(own.items),
            )  # fmt: skip
            ranked.put(members, rows.numpy(), scores.numpy(), pee.nbytes)
        return ranked

    # ---- ----

    @cached_property
    def _vectors(self) -> dict[str, NDArray[Any]]:
        return self.folder.load("pretraining")

    @cached_property
    def _clustering(self) -> dict[str, NDArray[Any]]:
        return self.folder.load("clustering")

    @cached_property
    def _data(self) -> dict[str, NDArray[np.int64]]:
        return self.folder.load("data")

    def _read_ids(self, name: str, expected: int) -> IdMap:
        ids = IdMap.from_values(self.folder.read_document(name))[0]
        if len(ids) != expected:
            raise RunError(
                f"{self.folder.path / name}: expected {expected} distinct ids, found {len(ids)}"
            )
        return ids
