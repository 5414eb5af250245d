"""Users on whose lists mixtures are tried, and what rows of so many layers make of those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ControlConfig, ExposureConfig
from peel_ext.device import fold_in_users
from peel_ext.format import PlanesLayout
from peel_ext.nn.rotation import fit_rotation
from peel_ext.train.block_weights.exposure import draw_members, worth_of_ranks
from peel_ext.train.clustering import nearest_group
from peel_ext.train.held_out import hold_out, rank_unseen
from peel_ext.train.population import Population

#: Users whose lists are looked at: differences between mixtures are paired, and small.
_NUM_USERS = 1000

#: Items of a list that small budgets may reach, and those that are shown.
DEPTH = 500
_SHOWN = 20


@dataclass(frozen=True)
class RankedUsers:
    """Users' lists of unseen items, and what rows of so many layers make of their scores.

    Attributes:
        rows: int64 [num_users, depth], best first.
        scores: float32 [num_layers + 1, num_users, depth]; rows of no layer have none: -inf.
        shares: [num_users, depth], of the softmax, as multiples of those shown by the full table.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    shares: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        vectors: NDArray[np.float32],
        found: NDArray[np.int64],
        table: NDArray[np.float32],
        places: NDArray[np.int64],
        rotation: NDArray[np.float32],
        layout: PlanesLayout,
        temperature: float,
    ) -> RankedUsers:
        """The lists of users with vectors [num_users, dim].

        Args:
            vectors: [num_users, dim].
            found: [num_users, depth], items that they have not seen, best first, -1 for none.
            table: [num_rows, dim], vectors of these items, and maybe of others.
            places: [num_users, depth], where in that the vectors of the lists are.
            rotation: [dim, dim].
            layout: layout of the blocks.
            temperature: temperature of the softmax.
        """
        store, scales = layout.encode(np.ascontiguousarray(table @ rotation))
        turned = vectors @ rotation
        num_layers, dim = len(layout.layer_bits), table.shape[1]
        scores = np.full((num_layers + 1, *found.shape), -np.inf, dtype=np.float32)
        for layers in range(1, num_layers + 1):
            decoded = layout.decode(store, scales, (1 << layers) - 1, dim)
            scores[layers] = _score(turned, decoded, places)
            scores[layers][found < 0] = -np.inf
        exact = _score(vectors, table, places).astype(np.float64)
        shares = np.exp((exact - exact[:, :1]) / temperature) * (found >= 0)
        shown = shares[:, :_SHOWN].sum(axis=1, keepdims=True)
        shares = np.divide(shares, shown, out=shares, where=shown > 0)
        return cls(np.maximum(found, 0), scores, shares)

    def keep(self, users: NDArray[np.int64], layers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The shares [m] that some users are shown, of rows of so many layers [m, depth]."""
        scores = self.scores[layers, users[:, None], np.arange(layers.shape[1])]
        count = min(_SHOWN, scores.shape[1])
        shown = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        there = np.take_along_axis(scores, shown, axis=1) > -np.inf
        return np.asarray((self.shares[users[:, None], shown] * there).sum(axis=1))


class TriedPart(NamedTuple):
    """Users in the place of known or of new ones.

    Attributes:
        users: their lists.
        groups: int64 [num_users], the group that serves each.
        given: [num_users, depth], what the user itself has made of the rows' worth to its group.
    """

    users: RankedUsers
    groups: NDArray[np.int64]
    given: NDArray[np.float64]


@dataclass(frozen=True)
class TriedUsers:
    """Users in three parts.

    As a known user; as a new one, folded in, without a share in what rows are worth; and as a new one
    that had half of its history when the group was chosen.

    Attributes:
        member_of: int64 [num_users], the group that each is a member of.
        parts: the parts.
    """

    member_of: NDArray[np.int64]
    parts: tuple[TriedPart, ...]

    @classmethod
    def of(
        cls,
        population: Population,
        exposure: ExposureConfig,
        config: ControlConfig,
        layout: PlanesLayout,
        device: str = "cpu",
    ) -> TriedUsers:
        """Draws users, and makes their lists.

        Args:
            population: users, interactions and vectors.
            exposure: its constants.
            config: its seed and ``max_users``.
            layout: the blocks that budgets take.
            device: the device that ranks.
        """
        items, temperature = population.item_vectors, population.temperature
        users, stands_for = draw_tried(
            population.user_group, len(population.centroids), len(items), exposure, config
        )
        history = population.lists.take(users)
        before = hold_out(history, len(items), 0.5, config.seed)[0]
        vectors = population.user_vectors[users]
        folded, earlier = (
            fold_in_users(
                items, lists.indptr, lists.items, temperature=temperature, prior=population.prior
            )
            for lists in (history, before)
        )
        rotation = fit_rotation(torch.from_numpy(items), keep_mean=population.prior > 0).numpy()

        def rank(each: NDArray[np.float32]) -> RankedUsers:
            found = rank_unseen(each, items, history, DEPTH, device)
            places = np.maximum(found, 0)
            return RankedUsers.of(each, found, items, places, rotation, layout, temperature)

        lists = rank_unseen(vectors, items, history, exposure.depth, device)
        served = (nearest_group(each, population.centroids) for each in (folded, earlier))
        return cls.of_lists(
            population.user_group[users], stands_for, (rank(vectors), rank(folded)), lists,
            tuple(served), exposure,
        )  # fmt: skip

    @classmethod
    def of_lists(
        cls,
        member_of: NDArray[np.int64],
        stands_for: NDArray[np.float64],
        ranked: tuple[RankedUsers, RankedUsers],
        lists: NDArray[np.int64],
        served_by: tuple[NDArray[np.int64], ...],
        exposure: ExposureConfig,
    ) -> TriedUsers:
        """The parts of users whose lists are made.

        Args:
            member_of: [num_users].
            stands_for: [num_users], how many users of its group each stands for.
            ranked: as known users, and as new ones.
            lists: [num_users, depth], of the known users, whose items have exposure.
            served_by: the groups [num_users] of new users, and of those with half of their history.
            exposure: its constants.
        """
        known, new = ranked
        given = _exposure_in(new.rows, lists, exposure) * stands_for[:, None]
        first = TriedPart(known, member_of, np.zeros(given.shape))
        return cls(member_of, (first, *(TriedPart(new, groups, given) for groups in served_by)))


def draw_tried(
    user_group: NDArray[np.int64],
    num_groups: int,
    num_items: int,
    exposure: ExposureConfig,
    config: ControlConfig,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ascending users [m] to try, of those who have a share in exposure, and how many each stands for."""
    measured = draw_members(
        user_group, num_groups, exposure.max_scores // max(num_items, 1), exposure.seed
    )
    generator = np.random.default_rng(config.seed)
    count = min(_NUM_USERS, config.max_users, len(measured))
    users = np.sort(generator.choice(measured, count, replace=False))
    sizes, drawn = (
        np.bincount(each, minlength=num_groups) for each in (user_group, user_group[measured])
    )
    return users, (sizes / np.maximum(drawn, 1))[user_group[users]]


def _score(
    vectors: NDArray[np.float32], items: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores [num_users, depth] of each user's own rows."""
    scores = np.empty(rows.shape, dtype=np.float32)
    for user, own in enumerate(rows):  # all at once would gather every row of every list
        scores[user] = items[own] @ vectors[user]
    return scores


def _exposure_in(
    rows: NDArray[np.int64], lists: NDArray[np.int64], config: ExposureConfig
) -> NDArray[np.float64]:
    """The exposure [num_users, depth] a user's own list gives to rows [num_users, depth]."""
    worth = worth_of_ranks(lists.shape[1], config)
    given = np.zeros(rows.shape)
    for user, own in enumerate(lists):
        order = np.argsort(own, kind="stable")
        place = order[np.minimum(np.searchsorted(own, rows[user], sorter=order), len(own) - 1)]
        given[user] = np.where(own[place] == rows[user], worth[place], 0)
    return given
