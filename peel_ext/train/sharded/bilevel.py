"""The bi-level loop by several processes; see :mod:`peel_ext.train.block_weights.bilevel`.

The rows of a group learn where the group is. Gradients of the controller are added up over all ranks,
so that the controller of each learns the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import ControlConfig
from peel_ext.format import Layout
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import count_before, exchange
from peel_ext.scale.partition import Partition
from peel_ext.train.block_weights.bilevel import Loop, make_group
from peel_ext.train.block_weights.cut import Cut, choose_rows, cut_vectors
from peel_ext.train.checkpoint import Checkpoint, run_steps
from peel_ext.train.sharded.blocks import OwnBlocks
from peel_ext.train.sharded.population import ShardedPopulation

#: What a row's state is made of: its values and the moments of Adam.
_PARTS = ("", ".exp_avg", ".exp_avg_sq")


def control_blocks(
    population: ShardedPopulation,
    blocks: OwnBlocks,
    layout: Layout,
    rotation: Tensor | None,
    config: ControlConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Callable[[Partition], Checkpoint] | None = None,
) -> NDArray[np.float64]:
    """Multiplies the block weights of the own groups by what the controller of all has learned.

    What is drawn is the same for any number of ranks. In the columns layout every rank that has groups
    has the vectors of all items; in the planes layout those of the rows that take part.

    Args:
        population: users, interactions and vectors.
        blocks: the blocks of the own groups, whose weights change.
        layout: layout of the blocks.
        rotation: float32 [dim, dim], the same on all ranks, or None.
        config: settings.
        on_progress: called after every step with steps done, steps in all and the held-out loss.
        checkpoint: makes the place to go on from and to save to, of all ranks, for the partition of all
            rows that learn; the number of ranks may have been another.

    Returns:
        The held-out loss of every step, float64 [num_steps], in nats.
    """
    ranks, device = population.ranks, population.device
    earlier, held_out = population.without_some(
        config.held_out_share, config.max_users, config.seed
    )
    later = dataclasses.replace(earlier, lists=held_out)
    members = earlier.bring_members(), later.bring_members()
    turn = None if rotation is None else rotation.to(device)

    def rotate(vectors: Tensor) -> Tensor:
        return vectors if turn is None else vectors @ turn

    cuts = _cut_own(population, blocks, layout, rotate)
    groups = {group: make_group(*members, group, cut, rotate) for group, cut in cuts.items()}
    loop = Loop(groups, blocks.block_weights.shape[2], config, torch.device(device), ranks)
    place = None
    if checkpoint is not None:
        place = _RowsCheckpoint(checkpoint, loop.rows, population.item_vectors.shape[1], ranks)
    saved = None if place is None else place.load()
    if saved is not None:
        loop.restore(saved)
    run_steps(
        loop, on_progress, place, lambda timer: ranks.total(ranks.is_first and timer.is_due()) > 0
    )
    for group, weights in loop.weights():
        own = blocks.block_weights[group - population.own_groups.start]
        own[: len(weights)] *= weights.cpu()
    return np.array(loop.losses, dtype=np.float64)


def _cut_own(
    population: ShardedPopulation,
    blocks: OwnBlocks,
    layout: Layout,
    rotate: Callable[[Tensor], Tensor],
) -> dict[int, Cut]:
    """The rows of each own group that take part."""
    device = population.device
    which = blocks.item_group[: len(population.own_groups)]
    chosen = [choose_rows(each, blocks.block_weights.shape[1], layout) for each in which]
    vectors = population.fetch_items(
        np.concatenate([np.zeros(0, np.int64), *(rows.numpy() for rows, _ in chosen)])
    )
    cuts, start = [], 0
    for (rows, count), own in zip(chosen, which, strict=True):
        stop = start + len(rows)
        turned = rotate(torch.from_numpy(vectors[start:stop]).to(device))
        cuts.append(cut_vectors(rows.to(device), own[rows].to(device), count, turned, layout))
        start = stop
    if not layout.nested:  # item groups are shared, and so is the cut
        cuts = cuts * len(population.own_groups)
    return dict(zip(population.own_groups, cuts, strict=True))


class _RowsCheckpoint:
    """The state of a loop, whose rows are dealt out evenly while they are kept.

    Args:
        make: makes the place, for the partition of the rows.
        rows: what learns, by the names that the loop gives it.
        dim: values of a row.
        ranks: the processes.
    """

    def __init__(
        self,
        make: Callable[[Partition], Checkpoint],
        rows: Mapping[str, Tensor],
        dim: int,
        ranks: Collectives,
    ) -> None:
        self._rows, self._dim, self._ranks = rows, dim, ranks
        self._first, size = count_before(sum(map(len, rows.values())), ranks)
        starts = ranks.stack(torch.tensor(self._first, dtype=torch.int64, device="cpu")).tolist()
        self._edges = np.array([*starts, size])
        self._partition = Partition(size, ranks.size)
        self._place = make(self._partition)

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state, atomically."""
        kept = {name: each for name, each in state.items() if not name.startswith("added.")}
        for part in _PARTS:
            tables = [
                state.get(name + part, np.zeros(rows.shape, np.float32))
                for name, rows in self._rows.items()
            ]
            kept[f"rows{part}"] = self._deal(tables)
        steps = [float(state.get(f"{name}.step", 0)) for name in self._rows]
        own = torch.tensor(steps, dtype=torch.float32, device="cpu")
        kept["steps"] = self._ranks.join(own).numpy()
        self._place.save(kept)

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state saved last, of rows the own ones, or None."""
        kept = self._place.load()
        if kept is None:
            return None
        steps = kept.pop("steps")
        tables = {part: self._bring(kept.pop(f"rows{part}")) for part in _PARTS}
        start = 0
        for name, rows in self._rows.items():
            step = steps[int(name.removeprefix("added."))]
            for part in _PARTS if step else _PARTS[:1]:
                kept[name + part] = tables[part][start : start + len(rows)]
            if step:
                kept[f"{name}.step"] = np.array(step)
            start += len(rows)
        return kept

    def _deal(self, tables: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Rows of the own run of the partition, of those of the own groups."""
        rows = np.concatenate([np.zeros((0, self._dim), np.float32), *tables])
        leaving = np.diff(np.clip(self._partition.edges - self._first, 0, len(rows)))
        return exchange(rows, leaving.tolist(), self._ranks)[0]

    def _bring(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The reverse."""
        start = self._partition.start(self._ranks.rank)
        leaving = np.diff(np.clip(self._edges - start, 0, len(rows)))
        return exchange(rows, leaving.tolist(), self._ranks)[0]
