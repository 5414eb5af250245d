"""Splitting interactions into what is trained on and what is to be found."""

from __future__ import annotations

import numpy as np

from peel_ext.data.interactions import Interactions


def split_random(
    interactions: Interactions, *, test_share: float, seed: int
) -> tuple[Interactions, Interactions]:
    """Splits each user's distinct items at random.

    A user with ``c`` items has ``round(test_share * c)`` in the test part, at least 1 if ``c >= 5``,
    at most ``c - 1``.

    Args:
        interactions: what to split; repeated pairs count once.
        test_share: share of each user's items, in (0, 1).
        seed: of the draw.

    Returns:
        The training and the test interactions.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, got {test_share}")
    distinct = interactions.deduplicated()
    draw = np.random.default_rng(seed).random(len(distinct))
    order = np.lexsort((draw, distinct.user_rows))  # by user, at random within one
    counts = np.bincount(distinct.user_rows, minlength=distinct.num_users)
    wanted = np.round(test_share * counts).astype(np.int64)
    wanted = np.minimum(np.maximum(wanted, counts >= 5), np.maximum(counts - 1, 0))
    starts = np.cumsum(counts) - counts
    owners = distinct.user_rows[order]
    place = np.arange(len(distinct)) - starts[owners]
    in_test = np.zeros(len(distinct), dtype=bool)
    in_test[order] = place < wanted[owners]
    return distinct.select(~in_test), distinct.select(in_test)
