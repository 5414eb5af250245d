"""The place of every row in the order of what rows are worth, of which each rank has a part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import count_before

#: Samples of the values of all ranks, for each rank that is to sort a run of them.
_SAMPLES = 64


def places_by_value(values: Tensor, ranks: Collectives) -> Tensor:
    """The place int64 [n] of each own row among those of all ranks, by descending value.

    Equal values come in the order of ranks, and of rows in each. Each rank sorts a run of all values,
    whose ends are found from samples, and of about as many values as every other.

    Args:
        values: float64 [n], what this rank's rows are worth.
        ranks: the processes.
    """
    own = values.sort(descending=True, stable=True)
    leaving = _cut(own.values, ranks).diff().tolist()
    arrived = ranks.exchange(own.values.split(leaving))
    # A stable sort: what comes of one rank is in its order, and ranks are in theirs.
    merged = torch.cat(arrived).sort(descending=True, stable=True).indices
    before, _ = count_before(len(merged), ranks)
    found = torch.empty_like(merged)
    found[merged] = torch.arange(before, before + len(merged), device=merged.device)
    back = ranks.exchange_rows(found, [len(each) for each in arrived], leaving)
    return torch.empty_like(back).scatter_(0, own.indices, back)


def _cut(ordered: Tensor, ranks: Collectives) -> Tensor:
    """Where descending values are cut into runs for the ranks: int64 [size + 1]."""
    num_values = ranks.total(len(ordered))
    count = min(len(ordered), -(-len(ordered) * _SAMPLES * ranks.size // max(1, num_values)))
    places = torch.arange(count, device=ordered.device) * len(ordered) // max(1, count)
    of_rank = torch.full_like(places, ranks.rank)
    sampled = torch.stack([ordered[places], of_rank.double(), places.double()], dim=1)  # exact
    samples = ranks.join(sampled)
    samples = samples[samples[:, 0].sort(descending=True, stable=True).indices]
    cuts = [0]
    for rank in range(1, ranks.size):
        if len(samples) == 0:
            cuts.append(0)
            continue
        value, owner, place = samples[len(samples) * rank // ranks.size].tolist()
        if owner == ranks.rank:
            cuts.append(int(place))
            continue
        # Ties go by rank: those of the ranks before the sample's are before it.
        first = torch.searchsorted(
            -ordered, torch.tensor(-value, dtype=ordered.dtype, device=ordered.device),
            right=ranks.rank < owner,
        )  # fmt: skip
        cuts.append(int(first))
    return torch.tensor([*cuts, len(ordered)], dtype=torch.int64, device="cpu")


def in_turn(state: Tensor, work: Callable[[Tensor], None], ranks: Collectives) -> Tensor:
    """Lets each rank go on with what the one before it made; all get the last, of the same bits.

    So sums over all rows are rounded as those of one process that has them all.

    Args:
        state: what it begins with, of one shape and dtype on all ranks.
        work: changes it in place.
        ranks: the processes.
    """
    shape = state.shape
    for rank in range(ranks.size):
        leaving, arriving = [0] * ranks.size, [0] * ranks.size
        after = (rank + 1) % ranks.size
        if rank == ranks.rank:
            work(state)
            leaving[after] = 1
        if after == ranks.rank:
            arriving[rank] = 1
        sent = state[None] if rank == ranks.rank else state[None][:0]
        arrived = ranks.exchange_rows(sent, leaving, arriving)
        if len(arrived):
            state = arrived[0]
    return ranks.copy(state, shape)
