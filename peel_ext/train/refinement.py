"""Stage 3: rows of each group's own, anchored to the global table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import RefinementConfig
from peel_ext.format import Layout
from peel_ext.train.checkpoint import Checkpoint, Timer, adam_arrays, restore_adam
from peel_ext.train.group_problem import GroupProblem
from peel_ext.train.placement import to_array
from peel_ext.train.population import Population


class RefinedTables(NamedTuple):
    """Rows of each group's own.

    Attributes:
        rows: int64 [num_groups, num_refined], those that are refined.
        additions: float32 [num_groups, num_refined, dim], what is added to them.
        losses: float64 [num_groups, steps], in nats; NaN for groups without interactions.
    """

    rows: NDArray[np.int64]
    additions: NDArray[np.float32]
    losses: NDArray[np.float64]


def refine_tables(
    population: Population,
    row_values: NDArray[np.float64],
    layout: Layout,
    config: RefinementConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> RefinedTables:
    """Learns what is added to the rows worth most to each group, on the group's interactions.

    The loss is the cross-entropy of the group's interactions under a softmax over the refined rows,
    plus ``anchor`` times the mean squared length of what is added, plus ``diversity`` times
    :func:`diversity_penalty`. Users' vectors stay as they are.

    Args:
        population: users, interactions and vectors.
        row_values: [num_groups, num_items].
        layout: layout of the blocks.
        config: settings.
        on_progress: called after every step with steps done, steps in all and the group's loss.
        checkpoint: the place to go on from and to save to; it may come from another device.
        device: the device that computes, one of :data:`peel_ext.config.DEVICES`.
    """
    num_groups = len(row_values)
    rows = rows_to_refine(row_values, config)
    additions = np.zeros((*rows.shape, population.item_vectors.shape[1]), dtype=np.float32)
    losses = np.full((num_groups, config.steps), np.nan)
    saved = checkpoint.load() if checkpoint is not None else None
    first = 0 if saved is None else len(saved["additions"])
    if saved is not None:
        losses[:] = saved["losses"]
        additions[:first] = saved["additions"]
    timer, total = Timer(), num_groups * config.steps
    for group in range(first, num_groups):
        problem = GroupProblem.of(population, group, rows[group], device)
        if len(problem.users) == 0:
            continue
        table = torch.from_numpy(population.item_vectors[rows[group]]).to(device)
        refinement = GroupRefinement(problem, table, layout, config)
        if saved is not None and group == first:
            refinement.restore(saved)
        while refinement.num_steps < config.steps:
            loss = refinement.take_step()
            losses[group, refinement.num_steps - 1] = loss
            done = group * config.steps + refinement.num_steps
            if checkpoint is not None and timer.is_due() and done < total:
                began = time.monotonic()
                state = {"additions": additions[:group], "losses": losses}
                checkpoint.save({**state, **refinement.state()})
                timer.saved(began)
            if on_progress is not None:
                on_progress(done, total, loss)
        additions[group] = to_array(refinement.added)
    return RefinedTables(rows, additions, losses)


def rows_to_refine(row_values: NDArray[np.float64], config: RefinementConfig) -> NDArray[np.int64]:
    """The rows [num_groups, num_refined] that are worth most to each group, those first."""
    num_items = row_values.shape[1]
    count = min(config.rows_per_group or num_items, num_items)
    return np.argsort(-row_values, axis=1, kind="stable")[:, :count]


def diversity_penalty(table: Tensor, layout: Layout) -> Tensor:
    """The degree to which parts of a table [n, dim] repeat each other, in [0, 1].

    Columns layout: the mean squared cosine of two blocks of one row, over rows and pairs of blocks
    of full width. Planes layout: the mean squared correlation of two coordinates.
    """
    if layout.nested:
        moments = table.T @ table
        size = moments.diagonal().clamp(min=1e-12).sqrt()
        cosines = (moments / size / size[:, None])[None]
    else:
        width = layout.block_dim
        blocks = table[:, : table.shape[1] // width * width].unflatten(1, (-1, width))
        blocks = F.normalize(blocks, dim=2)
        cosines = blocks @ blocks.mT
    count = cosines.shape[1]
    others = cosines.square().sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).square().sum(dim=1)
    return others.mean() / max(count * (count - 1), 1)


class GroupRefinement:
    """The rows of one group while they learn.

    Args:
        problem: interactions of the group.
        table: [num_rows, dim], the global rows.
        layout: layout of the blocks.
        config: settings.
    """

    def __init__(
        self, problem: GroupProblem, table: Tensor, layout: Layout, config: RefinementConfig
    ) -> None:
        self.problem, self.table, self.layout, self.config = problem, table, layout, config
        self.added = torch.zeros_like(table, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.added], lr=config.learning_rate, fused=True)
        self.num_steps = 0

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on."""
        return adam_arrays(self.optimiser, {"added": self.added})

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """The rows and their optimiser as :meth:`state` had them."""
        restore_adam(self.optimiser, {"added": self.added}, state)
        self.num_steps = int(state["added.step"].item())

    def take_step(self) -> float:
        """One step of Adam; returns the loss before it, without the penalties."""
        loss = self.problem.loss(self.table + self.added)
        penalty = self.config.anchor * self.added.square().sum(dim=1).mean()
        if self.config.diversity:
            spread = diversity_penalty(self.table + self.added, self.layout)
            penalty = penalty + self.config.diversity * spread
        self.optimiser.zero_grad()
        (loss + penalty).backward()
        self.optimiser.step()
        self.num_steps += 1
        return loss.item()
