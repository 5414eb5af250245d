"""The place of an item's prior in its row: the mean of the row's values.

A prior is what an item is worth to anybody. It lies along the axis ``(1, ..., 1) / sqrt(dim)``, and every
user's vector has the same component there, so that a plain dot product adds it to the score:

    <user, row> = <taste of the user, taste of the row> + prior of the item,

where the taste of a vector is what is left of it without its mean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def join_prior(tastes: NDArray[np.float32], along: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors with a component along the axis of the prior.

    The reflection that takes the first axis to that of the prior (Householder, 1958) takes the
    others to what is orthogonal to it, so products and lengths of tastes stay as they are.

    Args:
        tastes: [n, dim - 1].
        along: [n], the component of each.

    Returns:
        float32 [n, dim].
    """
    dim = tastes.shape[1] + 1
    rows = np.concatenate([along[:, None], tastes], axis=1, dtype=np.float32)
    normal = np.full(dim, -1 / math.sqrt(dim))
    normal[0] += 1
    length = math.sqrt(float(normal @ normal))
    if length > 0:  # 0 in one dimension, where the two axes are one
        normal = (normal / length).astype(np.float32)
        rows -= 2 * (rows @ normal)[:, None] * normal
    return rows


def part_tastes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [..., dim] without their component along the axis of the prior."""
    return vectors - vectors.mean(axis=-1, keepdims=True)


def add_component(tastes: NDArray[np.float32], prior: float) -> NDArray[np.float32]:
    """Tastes [..., dim] with the component of a user's vector; zero vectors stay zero."""
    share = np.float32(prior / math.sqrt(max(tastes.shape[-1], 1)))
    return np.asarray(tastes + share * tastes.any(axis=-1, keepdims=True), dtype=np.float32)
