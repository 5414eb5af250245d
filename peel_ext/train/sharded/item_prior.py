"""The prior of each item where each rank has its own items."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from peel_ext.device.item_prior import join_prior
from peel_ext.scale.collectives import Collectives
from peel_ext.train.item_prior import component_of_spread


def give_prior(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    prior: NDArray[np.float32],
    counts: NDArray[np.int64],
    ranks: Collectives,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Does what :func:`peel_ext.train.item_prior.give_prior` does, for the own users and items."""
    shares = np.maximum(counts, 1).astype(np.float64)
    shares /= ranks.total(float(shares.sum()))
    centred = prior.astype(np.float64) - ranks.total(float(shares @ prior))
    component = component_of_spread(math.sqrt(ranks.total(float(shares @ centred**2))))
    along = np.where(users.any(axis=1), component, 0.0).astype(np.float32)
    return (
        join_prior(users, along),
        join_prior(items, (centred / component).astype(np.float32)),
        component,
    )
