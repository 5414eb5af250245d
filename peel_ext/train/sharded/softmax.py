"""The losses of :mod:`peel_ext.train.losses` where each rank has its own items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition


@dataclass(frozen=True, eq=False)
class Positives:
    """The interactions of users with the items of this rank.

    Attributes:
        indptr: int64 [num_users + 1].
        columns: int64 [num_positives], items counted from the first of this rank.
        shares: [num_positives], of each in the mean of its user over the positives on all ranks.
    """

    indptr: Tensor
    columns: Tensor
    shares: Tensor


class Candidates(NamedTuple):
    """Items of this rank that stand for all items in a chunk of users.

    Attributes:
        items: int64 [num_candidates], ascending, counted from the first of this rank.
        offsets: [num_candidates], logarithms of how many items each stands for.
    """

    items: Tensor
    offsets: Tensor


class Gradients(NamedTuple):
    """The part of the loss and its gradients that this rank's items contribute.

    Attributes:
        loss: loss of the positives of this rank, a scalar; the sum over all ranks is the loss.
        users: [num_users, dim]; the sum over all ranks is the gradient.
        items: [num_own_items, dim], the gradient.
    """

    loss: Tensor
    users: Tensor
    items: Tensor


def softmax_gradients(
    users: Tensor,
    items: Tensor,
    positives: Positives,
    temperature: float,
    weights: Tensor,
    offsets: Tensor,
    chunk: int,
    candidates: Callable[[int], Candidates] | None,
    ranks: Collectives,
) -> Gradients:
    """The loss of :func:`peel_ext.train.losses.full_softmax_loss`, or of the sampled one, with gradients.

    For each chunk of users every rank computes the softmax over its own items; what it would be over all
    follows from the logarithms of the sums of all ranks.

    Args:
        users: [num_users, dim], of length 1, the same on all ranks.
        items: [num_own_items, dim], of length 1.
        positives: positives of the users, of this rank.
        temperature: divides the scores.
        weights: [num_users], of the sum 1.
        offsets: [num_own_items], logarithms of the weights of negatives.
        chunk: users at a time, the same on all ranks.
        candidates: candidates of each chunk, by its number; None: all items.
        ranks: the processes.
    """
    users = users / temperature
    loss = users.new_zeros((), dtype=torch.float64)
    user_gradient, item_gradient = torch.empty_like(users), torch.zeros_like(items)
    scores, shares = users.new_empty(0), users.new_empty(0)
    for number, start in enumerate(range(0, len(users), chunk)):
        stop = min(start + chunk, len(users))
        part, indptr = users[start:stop], positives.indptr[start : stop + 1]
        own = slice(int(indptr[0]), int(indptr[-1]))
        owners = torch.repeat_interleave(indptr.diff())
        columns, rows, row_offsets = positives.columns[own], items, offsets
        chosen = None if candidates is None else candidates(number)
        if chosen is not None:
            rows, row_offsets = items[chosen.items], offsets[chosen.items] + chosen.offsets
            columns = torch.searchsorted(chosen.items, columns)
        at = (owners, columns)
        for buffer in (scores, shares):
            buffer.resize_(stop - start, len(rows))
        torch.mm(part, rows.T, out=scores)
        wanted = scores[at]
        scores += row_offsets
        scores[at] = torch.finfo(scores.dtype).min  # not infinity: a user may have every item
        log_sum = _softmax(scores, shares)
        total = ranks.stack(log_sum).logsumexp(dim=0)
        behind = total[owners] - wanted
        pulls = torch.sigmoid(behind) * positives.shares[own]
        losses = torch.zeros_like(total).index_add_(
            0, owners, F.softplus(behind) * positives.shares[own]
        )
        loss += (losses @ weights[start:stop]).double()
        # What the positives on all ranks pull at the user, the negatives push, each by its share.
        push = ranks.sum(torch.zeros_like(total).index_add_(0, owners, pulls))
        shares *= (push * torch.exp(log_sum - total))[:, None]
        shares.index_put_(at, -pulls, accumulate=True)
        torch.mm(shares, rows, out=user_gradient[start:stop])
        weighted = part * weights[start:stop, None]
        if chosen is None:
            item_gradient.addmm_(shares.T, weighted)
        else:
            item_gradient.index_add_(0, chosen.items, shares.T @ weighted)
    user_gradient *= weights[:, None] / temperature
    return Gradients(loss, user_gradient, item_gradient)


def _softmax(scores: Tensor, shares: Tensor) -> Tensor:
    """Fills shares [m, n] with the softmax of scores; returns the logarithms of the sums [m]."""
    if scores.shape[1] == 0:
        return scores.new_full((len(scores),), torch.finfo(scores.dtype).min)
    torch.softmax(scores, dim=1, out=shares)
    return scores.amax(dim=1) - shares.amax(dim=1).log()


def draw_candidates(
    positives: Positives,
    items: Partition,
    num_negatives: int,
    chunk: int,
    generator: torch.Generator,
    ranks: Collectives,
) -> list[Candidates]:
    """Draws the candidates of each chunk, as :func:`peel_ext.train.losses.sampled_softmax_loss` does.

    Args:
        positives: positives of the users, of this rank.
        items: the partition of the items.
        num_negatives: items drawn for each chunk.
        chunk: users at a time.
        generator: makes the draws, the same on all ranks.
        ranks: the processes.
    """
    first, count = items.start(ranks.rank), items.count(ranks.rank)
    device = positives.columns.device
    drawn_parts, numbers = [], []
    for start in range(0, len(positives.indptr) - 1, chunk):
        ends = (
            positives.indptr[[start, min(start + chunk, len(positives.indptr) - 1)]].cpu().tolist()
        )
        wanted = torch.unique(positives.columns[slice(*ends)])
        if num_negatives >= items.size:
            drawn = torch.arange(count, device=device)
        else:
            drawn = torch.randint(
                items.size, (num_negatives,), generator=generator, device=generator.device
            ).to(device)
            drawn = drawn[(drawn >= first) & (drawn < first + count)] - first
        chosen = torch.unique(torch.cat([wanted, drawn]))
        drawn_parts.append((chosen, torch.isin(chosen, wanted)))
        numbers.append([len(wanted), len(chosen) - len(wanted)])
    totals = ranks.sum(torch.tensor(numbers, dtype=torch.int64, device="cpu")).tolist()
    made = []
    for (chosen, is_wanted), (num_wanted, num_others) in zip(drawn_parts, totals, strict=True):
        share = (items.size - num_wanted) / max(num_others, 1)
        counts = chosen.new_full((len(chosen),), share, dtype=torch.float32)
        counts[is_wanted] = 1
        made.append(Candidates(chosen, counts.log()))
    return made
