"""Stage 3: rows of each group's own, anchored to the global table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import RefinementConfig
from peel_ext.format import Layout
from peel_ext.train.lists import take_users
from peel_ext.train.population import Population


def refine_tables(
    population: Population,
    row_values: NDArray[np.float64],
    layout: Layout,
    config: RefinementConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What is added to the rows worth most to each group, learned on the group's interactions.

    The loss is the cross-entropy of the group's interactions under a softmax over the refined rows,
    plus ``anchor`` times the mean squared length of what is added, plus ``diversity`` times
    :func:`diversity_penalty`. Users' vectors stay as they are.

    Args:
        population: users, interactions and vectors.
        row_values: [num_groups, num_items].
        layout: of the blocks.
        config: settings.
        on_progress: called after every group with groups done, groups in all and its loss.

    Returns:
        rows int64 [num_groups, num_refined] and additions float32 [num_groups, num_refined, dim].
    """
    num_groups, num_items = row_values.shape
    count = min(config.rows_per_group, num_items)
    rows = np.argsort(-row_values, axis=1, kind="stable")[:, :count]
    additions = np.zeros((num_groups, count, population.item_vectors.shape[1]), dtype=np.float32)
    for group in range(num_groups):
        problem = GroupProblem.of(population, group, rows[group])
        loss = 0.0
        if len(problem.users):
            table = torch.from_numpy(population.item_vectors[rows[group]])
            added, loss = _refine(problem, table, layout, config)
            additions[group] = added.numpy()
        if on_progress is not None:
            on_progress(group + 1, num_groups, loss)
    return rows, additions


class GroupProblem:
    """The interactions of a group's users with some rows, as a target of a softmax over those rows.

    Args:
        users: [num_users, dim], those with at least one such interaction.
        targets: [num_users, num_rows], shares of each user's interactions.
        weights: [num_users], the root of their number, of sum 1.
        temperature: of the softmax.
    """

    def __init__(self, users: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> None:
        self.users, self.targets, self.weights = users, targets, weights
        self.temperature = temperature

    @classmethod
    def of(cls, population: Population, group: int, rows: NDArray[np.int64]) -> GroupProblem:
        """The problem of one group over rows int64 [num_rows]."""
        members = np.flatnonzero(population.user_group == group)
        indptr, items = take_users(population.lists, members)
        place = np.full(len(population.item_vectors), -1)
        place[rows] = np.arange(len(rows))
        owner = np.repeat(np.arange(len(members)), np.diff(indptr))
        known = place[items] >= 0
        counts = np.bincount(owner[known], minlength=len(members))
        targets = np.zeros((len(members), len(rows)), dtype=np.float32)
        np.add.at(targets, (owner[known], place[items[known]]), 1 / counts[owner[known]])
        kept = counts > 0
        weights = torch.from_numpy(np.sqrt(counts[kept]).astype(np.float32))
        return cls(
            torch.from_numpy(population.user_vectors[members[kept]]),
            torch.from_numpy(targets[kept]),
            weights / weights.sum(),
            population.temperature,
        )

    def loss(self, table: Tensor) -> Tensor:
        """The mean cross-entropy of a table [num_rows, dim] of the problem's rows."""
        return (self.losses_of_rows(table)).sum()

    def losses_of_rows(self, table: Tensor) -> Tensor:
        """What each row contributes to the loss [num_rows]."""
        log_shares = F.log_softmax(self.users @ table.T / self.temperature, dim=1)
        return -(self.targets * log_shares * self.weights[:, None]).sum(dim=0)


def diversity_penalty(table: Tensor, layout: Layout) -> Tensor:
    """How much the parts of a table [n, dim] repeat each other, in [0, 1].

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


def _refine(
    problem: GroupProblem, table: Tensor, layout: Layout, config: RefinementConfig
) -> tuple[Tensor, float]:
    added = torch.zeros_like(table, requires_grad=True)
    optimiser = torch.optim.Adam([added], lr=config.learning_rate, fused=True)
    loss = problem.loss(table)
    for _ in range(config.steps):
        loss = problem.loss(table + added)
        penalty = config.anchor * added.square().sum(dim=1).mean()
        if config.diversity:
            penalty = penalty + config.diversity * diversity_penalty(table + added, layout)
        optimiser.zero_grad()
        (loss + penalty).backward()
        optimiser.step()
    return added.detach(), loss.item()
