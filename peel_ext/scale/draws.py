"""Random rows of a table of which a rank keeps its own, the same for any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.scale.partition import Partition

#: Rows drawn at a time. Runs of a multiple of 16 values are drawn as parts of one.
_RUN = 1 << 12


def draw_normal(partition: Partition, rank: int, dim: int, generator: torch.Generator) -> Tensor:
    """The own rows of what ``torch.randn`` draws for the whole table, float32 [count, dim].

    Every rank goes through all draws, so that the generators stay alike; memory is for the own rows.
    """
    own = partition.own(rank)
    kept = []
    start = 0
    while start < partition.size:
        stop = start + _RUN
        if (
            partition.size - stop < _RUN
        ):  # the last one takes what is left: alone it may be too short
            stop = partition.size
        drawn = torch.randn(
            stop - start, dim, generator=generator, dtype=torch.float32, device=generator.device
        )
        low, high = max(own.start, start), min(own.stop, stop)
        if low < high:
            kept.append(drawn[low - start : high - start].clone())
        start = stop
    return torch.cat(kept)
