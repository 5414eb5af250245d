"""Stage 3 by several processes: each refines the rows of its own groups."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import RefinementConfig
from peel_ext.format import Layout
from peel_ext.train.checkpoint import Checkpoint, Timer
from peel_ext.train.group_problem import GroupProblem
from peel_ext.train.placement import to_array
from peel_ext.train.refinement import GroupRefinement, RefinedTables, rows_to_refine
from peel_ext.train.sharded.population import ShardedPopulation


def refine_tables(
    population: ShardedPopulation,
    row_values: NDArray[np.float64],
    layout: Layout,
    config: RefinementConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> RefinedTables:
    """Refines the own groups, each as :func:`peel_ext.train.refinement.refine_tables` does.

    Of the same vectors and row values it makes the same bits. A group that was interrupted begins
    again: nothing is drawn, so that it comes to the same.

    Args:
        population: users, interactions and vectors.
        row_values: [num_own_groups, num_items].
        layout: layout of the blocks.
        config: settings.
        on_progress: called after every step with steps done, steps in all, of this rank, and the loss.
        checkpoint: the place to go on from and to save to, of all ranks; the number of ranks may have
            been another.
    """
    ranks, groups, own = population.ranks, population.groups, population.own_groups
    device = population.device
    rows = rows_to_refine(row_values, config)
    additions = np.zeros((*rows.shape, population.item_vectors.shape[1]), dtype=np.float32)
    losses = np.full((len(own), config.steps), np.nan)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        additions[:] = saved["groups.additions"].reshape(additions.shape)
        losses[:] = saved["losses"][own.start : own.stop]
    members, needed = population.bring_members(), np.unique(rows)
    vectors = population.fetch_items(needed)
    timer, num_turns = Timer(), groups.rows_per_rank
    for turn in range(num_turns):
        if turn < len(own) and np.isnan(losses[turn]).any():
            problem = GroupProblem.of(members, own[turn], rows[turn], device)
            table = torch.from_numpy(vectors[np.searchsorted(needed, rows[turn])]).to(device)
            if len(problem.users):
                refinement = GroupRefinement(problem, table, layout, config)
                for step in range(config.steps):
                    losses[turn, step] = refinement.take_step()
                    if on_progress is not None:
                        done, total = turn * config.steps + step + 1, losses.size
                        on_progress(done, total, losses[turn, step])
                additions[turn] = to_array(refinement.added)
        due = ranks.total(ranks.is_first and timer.is_due()) > 0
        if checkpoint is not None and due and turn + 1 < num_turns:
            began = time.monotonic()
            every = ranks.join(torch.from_numpy(losses)).numpy()
            flat = additions.reshape(len(own), -1)
            checkpoint.save({"groups.additions": flat, "losses": every})
            timer.saved(began)
    return RefinedTables(rows, additions, losses)
