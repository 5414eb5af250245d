"""The softmax over items a chunk of users at a time, its gradients made on the way forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def sum_chunks(
    users: Tensor,
    items: Tensor,
    indptr: Tensor,
    starts: NDArray[np.int64],
    positives: Tensor,
    temperature: float,
    weights: Tensor | None,
    negative_weights: Tensor | None,
    positive_weights: Tensor | None,
    chunk: int,
    draw: Callable[[Tensor], tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """The loss of :func:`peel_ext.train.losses.full_softmax_loss`, of arguments that fit.

    Args:
        users: [num_users, dim].
        items: [num_items, dim].
        indptr: int64 [num_users + 1].
        starts: the values of ``indptr``, which the CPU reads.
        positives: int64 [indptr[-1]].
        temperature: divides the scores.
        weights: [num_users], or None.
        negative_weights: [num_items], or None.
        positive_weights: [indptr[-1]], or None.
        chunk: users whose scores are in memory at once.
        draw: called with the positives of a chunk; the ids of its candidates, and how many items each
            stands for. None: the candidates are all items.
    """
    if weights is None:
        weights = users.new_ones(len(users))
    if negative_weights is None:
        negative_weights = items.new_ones(len(items))
    shares, offsets = weights / weights.sum(), negative_weights.log()
    loss: Tensor = _SoftmaxLoss.apply(
        users, items, indptr, starts, positives, temperature, shares, offsets, positive_weights,
        chunk, draw,
    )  # fmt: skip
    return loss


@dataclass(frozen=True)
class _Targets:
    """The positives of a chunk of users as coordinates of its score matrix."""

    rows: Tensor  # [num_positives], user within the chunk
    columns: Tensor  # [num_positives], item
    shares: Tensor  # [num_positives], in the user's mean

    @classmethod
    def of_users(
        cls,
        start: int,
        stop: int,
        own: slice,
        indptr: Tensor,
        positives: Tensor,
        weights: Tensor | None,
        dtype: torch.dtype,
    ) -> _Targets:
        counts = indptr[start : stop + 1].diff()
        rows = torch.repeat_interleave(counts, output_size=own.stop - own.start)
        if weights is None:
            return cls(rows, positives[own], counts.to(dtype).reciprocal()[rows])
        sums = weights.new_zeros(stop - start).index_add_(0, rows, weights[own])
        return cls(rows, positives[own], weights[own] / sums[rows])


class _SoftmaxLoss(torch.autograd.Function):
    """Either loss, with both gradients computed on the way forward; ``draw`` None: all items."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        indptr: Tensor,
        starts: NDArray[np.int64],
        positives: Tensor,
        temperature: float,
        weights: Tensor,
        offsets: Tensor,
        positive_weights: Tensor | None,
        chunk: int,
        draw: Callable[[Tensor], tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        users, items = users.detach() / temperature, items.detach()
        wants_gradients = any(ctx.needs_input_grad[:2])
        # Written over again by every chunk: fresh pages for each would cost more than the sums.
        scores, shares = users.new_empty(0), users.new_empty(0)
        losses = users.new_empty(len(users))
        user_gradient, item_gradient = torch.empty_like(users), torch.zeros_like(items)
        for start in range(0, len(users), chunk):
            stop = min(start + chunk, len(users))
            own = slice(int(starts[start]), int(starts[stop]))
            targets = _Targets.of_users(
                start, stop, own, indptr, positives, positive_weights, users.dtype
            )
            rows, row_offsets, candidates = items, offsets, None
            if draw is not None:
                candidates, counts = draw(targets.columns)
                rows = items[candidates]
                row_offsets = offsets[candidates] + counts.log().to(users.dtype)
                targets = replace(targets, columns=torch.searchsorted(candidates, targets.columns))
            for buffer in (scores, shares):
                buffer.resize_(stop - start, len(rows))
            part = users[start:stop]
            losses[start:stop], pulls = _score_chunk(
                part, rows, row_offsets, targets, scores, shares
            )
            if not wants_gradients:
                continue
            _turn_into_gradient(shares, pulls, targets)
            torch.mm(shares, rows, out=user_gradient[start:stop])
            weighted = part * weights[start:stop, None]
            if candidates is None:
                item_gradient.addmm_(shares.T, weighted)
            else:
                item_gradient.index_add_(0, candidates, shares.T @ weighted)
        user_gradient *= weights[:, None] / temperature
        ctx.save_for_backward(user_gradient, item_gradient)
        return losses @ weights

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        user_gradient, item_gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * user_gradient, gradient * item_gradient, *(None,) * 9


def _score_chunk(
    users: Tensor,
    items: Tensor,
    offsets: Tensor,
    targets: _Targets,
    scores: Tensor,
    shares: Tensor,
) -> tuple[Tensor, Tensor]:
    """Losses [chunk] of users already divided by the temperature, and what pulls at each positive.

    The pull [num_positives] is minus the gradient of its user's loss with respect to its score.
    Fills scores and shares, both [chunk, num_items]: each user's softmax over the negatives.
    Offsets [num_items] are added to the scores of negatives, not to those of positives.
    """
    torch.mm(users, items.T, out=scores)
    positives = (targets.rows, targets.columns)
    wanted = scores[positives]
    scores += offsets
    # Not infinity, which has no softmax where a user has every item.
    scores[positives] = torch.finfo(scores.dtype).min
    torch.softmax(scores, dim=1, out=shares)
    # The best item's share is exp(best score) / sum, which spares a second pass of exponentials.
    log_sum = scores.amax(dim=1) - shares.amax(dim=1).log()
    behind = log_sum[targets.rows] - wanted
    losses = torch.zeros_like(log_sum).index_add_(
        0, targets.rows, F.softplus(behind) * targets.shares
    )
    return losses, torch.sigmoid(behind) * targets.shares


def _turn_into_gradient(shares: Tensor, pulls: Tensor, targets: _Targets) -> None:
    """Makes of the shares [chunk, num_items] the gradient of the losses with respect to the scores.

    What the positives pull at the user, the negatives push, each by its share.
    """
    push = pulls.new_zeros(len(shares)).index_add_(0, targets.rows, pulls)
    shares *= push[:, None]
    shares.index_put_((targets.rows, targets.columns), -pulls, accumulate=True)
