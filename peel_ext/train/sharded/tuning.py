"""Trainings judged by several processes; see :mod:`peel_ext.train.tuning`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.data import ItemLists
from peel_ext.device.item_prior import part_tastes
from peel_ext.metrics import rank_quality
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.ranking import rank_unseen
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.held_out import draw_users
from peel_ext.train.item_prior import DEPTH, search_weights, weigh_features, widen
from peel_ext.train.placement import ranking_device
from peel_ext.train.sharded.held_out import describe_items, hold_out
from peel_ext.train.sharded.pretraining import pretrain, scale_weights
from peel_ext.train.tuning import LEAST_USERS


@dataclass(frozen=True, eq=False)
class ShardedJudge:
    """A judge of all ranks: interactions that trainings are judged by, and do not see.

    Attributes:
        num_users: on all ranks.
        shard: what is trained on.
        held_out: what is to be found, of the own users.
        users: rows of the own users whose lists are made, as all ranks number them.
        features: features of the own items, by what is trained on.
        ranks: the processes.
        device: the device that trains and ranks.
    """

    num_users: int
    shard: ItemShard
    held_out: ItemLists
    users: NDArray[np.int64]
    features: NDArray[np.float32]
    ranks: Collectives
    device: str = "cpu"

    @classmethod
    def of(
        cls,
        data: ShardedData,
        tuning: TuningConfig,
        method: str,
        validation: ItemLists | None,
        weight_scale: str,
        ranks: Collectives,
        device: str = "cpu",
    ) -> ShardedJudge:
        """A judge by validation interactions of the own users, or by a share of all held out."""
        left, held = data, validation
        if held is None:
            left, held = hold_out(data, method, tuning.validation_share, tuning.seed, ranks)
        # All items tie for a user who has nothing left, and any prior at all would look like a gain.
        usable = torch.from_numpy((left.lists.counts > 0) & (held.counts > 0))
        known = np.flatnonzero(ranks.join(usable.byte()).numpy())
        affordable = max(LEAST_USERS, tuning.max_scores // max(data.items.size, 1))
        drawn = draw_users(known, min(tuning.max_users, affordable), tuning.seed)
        own = data.users.own(ranks.rank)
        weights = scale_weights(left.weights, left.lists, weight_scale)
        return cls(
            len(drawn),
            left.with_items(weights, ranks),
            held,
            drawn[(drawn >= own.start) & (drawn < own.stop)],
            describe_items(left, ranks),
            ranks,
            device,
        )

    def train(
        self,
        settings: PretrainingConfig,
        start: Sequence[float],
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: Checkpoint,
    ) -> tuple[list[float], float]:
        """The weights of the best prior after a training, searched from a start, and the quality."""
        vectors = pretrain(
            self.shard, settings, self.ranks, on_progress=on_progress, checkpoint=checkpoint,
            device=self.device,
        )  # fmt: skip
        given = settings.prior
        return self.choose_prior(
            part_tastes(vectors.users), part_tastes(vectors.items),
            start if given is None else given, fixed=given is not None,
        )  # fmt: skip

    def choose_prior(
        self,
        users: NDArray[np.float32],
        items: NDArray[np.float32],
        start: Sequence[float],
        *,
        fixed: bool = False,
    ) -> tuple[list[float], float]:
        """The weights of the best prior for tastes of the own users and items, and the quality with it."""
        own = self.users - self.shard.users.start(self.ranks.rank)
        drawn = widen(users[own], np.ones(len(own), dtype=np.float32))
        held = self.held_out.take(own)

        def judge(weights: Sequence[float]) -> float:
            rows = widen(items, weigh_features(self.features, weights))
            lists = rank_unseen(
                self.users, drawn, rows, self.shard, DEPTH, self.ranks, ranking_device(self.device)
            )
            quality = rank_quality(lists, held.indptr, held.items)
            own_sum = quality.ndcg * quality.num_users if quality.num_users else 0.0
            return self.ranks.total(own_sum) / self.num_users

        return search_weights(judge, len(self.features), start, fixed)
