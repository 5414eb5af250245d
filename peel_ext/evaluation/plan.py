"""The plan of each protocol of a trained run: who is ranked for, and with what."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import BlendConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.device.fold_in import RowSample, fold_in_users
from peel_ext.errors import DataError
from peel_ext.evaluation.protocols import (
    FoldHistories,
    OfflineUsers,
    fold_on_device,
    known_users,
    new_users,
    offline_users,
)
from peel_ext.evaluation.ranking import Audience, Blend
from peel_ext.evaluation.sharing import ALONE, Sharing
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.blending import blend_for_users
from peel_ext.train.clustering import nearest_group
from peel_ext.train.pipeline import TrainedRun

PROTOCOLS = ("known", "new", "offline", "time")

#: Those that can measure tables made for each user alone, and what these are called.
BLENDED_PROTOCOLS = ("new", "offline")
BLENDED = "PEE, blended for the user"

#: The vectors a server would ship to the audience of a protocol if the model were another one, of
#: which it gets the vectors of the known users [num_users, dim] and the item rows [num_items, dim].
Ship = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan: who is ranked for, and with what.

    Attributes:
        ceiling_name: name of the method that is the ceiling.
        ceiling: ranked for with the full table.
        floor: the same, where the protocol has a floor.
        device: ranked for with what a device holds.
        others: other uses of the same embeddings, by name.
        ship: what a server would ship if the model were another one.
        blend: embeddings of single users of ``device``, where the protocol has such.
    """

    ceiling_name: str
    ceiling: Audience
    floor: Audience | None
    device: Audience
    others: list[tuple[str, Audience]]
    ship: Ship
    blend: Blend | None = None

    @classmethod
    def of_run(cls, run: TrainedRun, protocol: str, n: int = 20, sharing: Sharing = ALONE) -> Plan:
        """The plan of a protocol for lists of n; errors as of :func:`peel_ext.evaluation.evaluate_run`."""
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
        place = run.folder.path
        method = run.folder.stages["data"]["split"]
        if protocol == "time" and method == "given":
            raise DataError(
                f"{place}: nothing says that the test part given is later: use --protocol known"
            )
        if protocol == "time" and method != "time":
            raise DataError(
                f"{place}: the targets of this run are not later than its training part (split: "
                f"{method}); train with --split time"
            )
        if protocol in ("known", "time"):
            _check_targets(run, run.test, "")
            audience = known_users(run.user_vectors, run.user_group, run.train, run.test)
            return cls("full table", audience, None, audience, [], lambda users, _: users)
        if len(run.new_users) == 0:
            raise DataError(
                f"{place}: no users were held out of training; train with --new-user-share 0.1"
            )
        _check_targets(run, run.history_test, " of new users")
        items = run.embedding.weight.detach().numpy()
        on_device = _fold_in(run)
        fold_in = _folded_by_all(on_device, sharing)
        assign = functools.partial(nearest_group, centroids=run.centroids)
        if protocol == "new":
            audience = new_users(items, run.history, run.history_test, fold_in, assign)
            folded = fold_on_device(audience, run.history, on_device)
            others = [("PEE, folded in on the device", folded)]
            return cls(
                "full table", audience, None, audience, others,
                lambda _, rows: fold_in(rows, run.history),
                blend_of(run, audience.vectors, run.history),
            )  # fmt: skip
        offline = offline_users_of(run, n, sharing)
        _check_targets(run, offline.server.targets, " of new users with a history of 2 or more")
        others = [("PEE, vector never updated", offline.stale)]
        return cls(
            "fresh server", offline.server, offline.stale, offline.device, others,
            lambda _, rows: fold_in(rows, offline.before),
            blend_of(run, offline.device.vectors, offline.before),
        )  # fmt: skip


def offline_users_of(run: TrainedRun, n: int = 20, sharing: Sharing = ALONE) -> OfflineUsers:
    """The users of the offline protocol, for lists of n; they are shipped twice as many items."""
    fold_in = _fold_in(run)
    return offline_users(
        run.embedding.weight.detach().numpy(),
        run.history,
        run.history_test,
        fold_in,
        functools.partial(nearest_group, centroids=run.centroids),
        run.prior,
        list_length=2 * n,
        fold_on_server=_folded_by_all(fold_in, sharing),
    )


def blend_of(run: TrainedRun, vectors: NDArray[np.float32], seen: ItemLists) -> Blend:
    """Blends of groups for users of whom the server knows a vector and the items seen."""
    exposure = ExposureConfig(**run.folder.config["exposure"])

    def blend(members: NDArray[np.int64]) -> ElasticEmbedding:
        return blend_for_users(
            run.embedding, vectors[members], seen.take(members), run.centroids,
            BlendConfig(), exposure,
        )  # fmt: skip

    return blend


def _check_targets(run: TrainedRun, targets: ItemLists, whose: str) -> None:
    if len(targets.items) == 0 and run.folder.stages["data"]["split"] == "none":
        raise DataError(
            f"{run.folder.path}: trained on all interactions (test_share 0): there is nothing to "
            "measure on; train with a test share into another folder"
        )
    if len(targets.items) == 0:
        target = run.folder.config["split"]["target"]
        raise DataError(f"{run.folder.path}: no {target} interactions{whose} to measure on")


def _folded_by_all(fold_in: FoldHistories, sharing: Sharing) -> FoldHistories:
    """The fold-in of a server, which may be several processes; those of devices have a sample."""

    def fold(
        rows: NDArray[np.float32], histories: ItemLists, *, sample: RowSample | None = None
    ) -> NDArray[np.float32]:
        return sharing.fold_in(rows, histories, fold_in)

    return fold


def _fold_in(run: TrainedRun) -> FoldHistories:
    def fold_in(
        rows: NDArray[np.float32], histories: ItemLists, *, sample: RowSample | None = None
    ) -> NDArray[np.float32]:
        return fold_in_users(
            rows, histories.indptr, histories.items, sample=sample,
            temperature=run.temperature, prior=run.prior,
        )  # fmt: skip

    return fold_in
