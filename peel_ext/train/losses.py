"""Training losses that never hold a score for every user and item at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.ops import check_memory
from peel_ext.train.placement import limit_chunk, to_array
from peel_ext.train.softmax import sum_chunks


def full_softmax_loss(
    users: Tensor,
    items: Tensor,
    indptr: Tensor,
    positives: Tensor,
    temperature: float,
    weights: Tensor | None = None,
    *,
    negative_weights: Tensor | None = None,
    positive_weights: Tensor | None = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Weighted mean over users of the cross-entropy of each positive among all negatives.

    For user u with positives P(u), scores ``s_uj = <users[u], items[j]> / temperature`` and negative
    weights w the loss is the mean over i in P(u), weighted if so wanted, of
    ``log(exp(s_ui) + sum_{j not in P(u)} w_j exp(s_uj)) - s_ui``: every positive competes with the
    items the user has not had, never with the user's other positives. With rows of length 1 it is
    the cosine softmax loss of Wu et al. (2022, arXiv 2201.02327) with all negatives in place of a
    sample of them; a weight does what drawing the item that much more often would. Lengths are the
    caller's business.

    The gradients are made in the same pass over chunks of users as the loss, so memory is bounded
    by two score matrices of ``chunk_bytes`` (at least one user each), forward and backward. Twice
    differentiable it is not.

    Args:
        users: [num_users, dim], float32 or float64; all tensors are on its device.
        items: [num_items, dim], same dtype.
        indptr: int64 [num_users + 1], from 0 and ascending.
        positives: int64 [indptr[-1]], user u's are ``positives[indptr[u] : indptr[u + 1]]``; one
            that occurs twice counts twice in the mean.
        temperature: divides the scores, above 0.
        weights: [num_users], same dtype, not negative, not all 0; None for equal ones.
        negative_weights: [num_items], same dtype, above 0; None for ones.
        positive_weights: [indptr[-1]], same dtype, above 0, of each positive in its user's mean; None
            for equal ones.
        chunk_bytes: upper limit of one score matrix; None: what suits the device.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: shapes that do not fit, a temperature or negative weight not above 0, or a user
            without positives.
    """
    starts = _check(
        users, items, indptr, positives, temperature, weights, negative_weights, positive_weights
    )
    if chunk_bytes is None:
        chunk_bytes = limit_chunk(items.device)
    chunk = max(1, chunk_bytes // (max(1, len(items)) * items.element_size()))
    return sum_chunks(
        users, items, indptr, starts, positives, temperature, weights, negative_weights,
        positive_weights, chunk, None,
    )  # fmt: skip


def sampled_softmax_loss(
    users: Tensor,
    items: Tensor,
    indptr: Tensor,
    positives: Tensor,
    temperature: float,
    weights: Tensor | None = None,
    *,
    negative_weights: Tensor | None = None,
    positive_weights: Tensor | None = None,
    num_negatives: int,
    generator: torch.Generator,
    chunk_users: int = 512,
) -> Tensor:
    """:func:`full_softmax_loss` with the sum over all negatives estimated from some of them.

    For each chunk of users the candidates are all positives of the chunk, which stand for themselves,
    and the distinct ones of ``num_negatives`` items drawn uniformly, which stand for all the others:
    with P positives and m others among the candidates of N items, their exponentials are multiplied
    by (N - P) / m. The estimate of the sum is unbiased, and exact once every item is drawn (sampled
    softmax, Jean et al., 2015, arXiv 1412.2007, with the positives as a stratum of their own).
    Memory is bounded by chunk_users times candidates, whatever the number of items.

    Args:
        users: [num_users, dim], float32 or float64; all tensors are on its device.
        items: [num_items, dim], same dtype.
        indptr: int64 [num_users + 1], from 0 and ascending.
        positives: int64 [indptr[-1]], user u's are ``positives[indptr[u] : indptr[u + 1]]``.
        temperature: divides the scores, above 0.
        weights: [num_users], same dtype, not negative, not all 0; None for equal ones.
        negative_weights: [num_items], same dtype, above 0; None for ones.
        positive_weights: [indptr[-1]], same dtype, above 0; None for equal ones.
        num_negatives: items drawn for each chunk, at least 1; as many as there are items or more
            take them all.
        generator: makes the draws.
        chunk_users: users who share their candidates.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: shapes that do not fit, a temperature or weight not above 0, a user without
            positives, or fewer than one negative.
    """
    starts = _check(
        users, items, indptr, positives, temperature, weights, negative_weights, positive_weights
    )
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")

    def draw(chunk_positives: Tensor) -> tuple[Tensor, Tensor]:
        return draw_candidates(chunk_positives, len(items), num_negatives, generator)

    return sum_chunks(
        users, items, indptr, starts, positives, temperature, weights, negative_weights,
        positive_weights, chunk_users, draw,
    )  # fmt: skip


def draw_candidates(
    positives: Tensor, num_items: int, num_negatives: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The candidates of :func:`sampled_softmax_loss` and what each stands for.

    Args:
        positives: int64 [num_positives].
        num_items: items to draw from.
        num_negatives: number of items to draw.
        generator: makes the draws, on whatever device.

    Returns:
        Ascending ids int64 [num_candidates], and float32 [num_candidates]: how many items each
        stands for, 1 for positives.
    """
    if num_negatives >= num_items:
        drawn = torch.arange(num_items, device=positives.device)
    else:
        drawn = torch.randint(
            num_items, (num_negatives,), generator=generator, device=generator.device
        ).to(positives.device)
    candidates = torch.unique(torch.cat([positives, drawn]))
    is_positive = torch.isin(candidates, positives)
    num_positives = int(is_positive.sum())
    num_others = len(candidates) - num_positives
    share = (num_items - num_positives) / max(num_others, 1)
    counts = candidates.new_full((len(candidates),), share, dtype=torch.float32)
    counts[is_positive] = 1
    return candidates, counts


def _check(
    users: Tensor,
    items: Tensor,
    indptr: Tensor,
    positives: Tensor,
    temperature: float,
    weights: Tensor | None,
    negative_weights: Tensor | None,
    positive_weights: Tensor | None,
) -> NDArray[np.int64]:
    """The values of indptr, for which the device is waited for once; raises ValueError."""
    weighted = {
        "weights": (weights, len(users)),
        "negative_weights": (negative_weights, len(items)),
        "positive_weights": (positive_weights, positives.numel()),
    }
    given = {"users": users, "items": items, "indptr": indptr, "positives": positives}
    for name, tensor in (given | {name: each for name, (each, _) in weighted.items()}).items():
        if tensor is not None:
            check_memory(name, tensor)
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1]:
        raise ValueError(
            f"users and items must be matrices of equal width, got {tuple(users.shape)} and "
            f"{tuple(items.shape)}"
        )
    if indptr.shape != (len(users) + 1,):
        raise ValueError(f"indptr must have shape ({len(users) + 1},), got {tuple(indptr.shape)}")
    starts = to_array(indptr)
    if starts[0] != 0 or positives.shape != (starts[-1],):
        raise ValueError(
            f"indptr runs from {starts[0]} to {starts[-1]}, but there are "
            f"{positives.numel()} positives"
        )
    if (np.diff(starts) < 1).any():
        raise ValueError("every user must have at least one positive item")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    for name, (tensor, count) in weighted.items():
        if tensor is None:
            continue
        if tensor.shape != (count,):
            raise ValueError(f"{name} must have shape ({count},), got {tuple(tensor.shape)}")
        if name != "weights" and not bool((tensor > 0).all()):
            raise ValueError(f"{name} must be above 0")
    return starts
