"""Block control by the bi-level loop of the PEEL paper (Zheng et al., 2023, arXiv 2306.10532).

A controller sees the popularity and the loss of every block and gives each a weight by a softmax over
the blocks of a user group. The rows of the group are then the weighted sum of their blocks. Two steps
take turns: the rows learn on training interactions, the controller on held-out ones, so that weights
are judged by what the rows have not been fitted to.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import ControlConfig
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.block_weights.cut import Cut, cut_rows
from peel_ext.train.checkpoint import Checkpoint, Timer, adam_arrays, restore_adam
from peel_ext.train.group_problem import GroupProblem
from peel_ext.train.placement import FLOAT32_ON_CPU, to_array
from peel_ext.train.population import Population

#: Groups in one turn.
_GROUPS_PER_STEP = 4

#: Of the rows' Adam, and the weight of their mean squared distance to the global table. Left free,
#: rows fit the training interactions faster than the controller can learn from the held-out ones.
_ROW_LEARNING_RATE = 1e-3
_ANCHOR = 10.0


class BlockController(nn.Module):
    """Weights of the blocks of a user group, from their features.

    Args:
        num_layers: layers of a row; which one a block belongs to is a feature too.
        hidden_dim: width of the two hidden layers.
    """

    def __init__(self, num_layers: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.scores = nn.Sequential(
            nn.Linear(2 + num_layers, hidden_dim, **FLOAT32_ON_CPU),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, **FLOAT32_ON_CPU),
            nn.ReLU(),
            nn.Linear(hidden_dim, 1, **FLOAT32_ON_CPU),
        )

    def forward(self, popularity: Tensor, loss: Tensor) -> Tensor:
        """Weights of mean 1, [num_item_groups, num_layers].

        Args:
            popularity: [num_item_groups], the logarithm of the interactions with a block's rows.
            loss: [num_item_groups], the loss of those interactions.
        """
        seen = torch.stack([_standardised(popularity), _standardised(loss)], dim=1)
        layers = torch.eye(self.num_layers, dtype=seen.dtype, device=seen.device)
        features = torch.cat(
            [
                seen[:, None, :].expand(-1, self.num_layers, -1),
                layers[None].expand(len(seen), -1, -1),
            ],
            dim=2,
        )
        scores = self.scores(features)[..., 0]
        weights: Tensor = torch.softmax(scores.flatten(), dim=0).view_as(scores)
        return weights * scores.numel()


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-6)


@dataclass(frozen=True)
class _Group:
    """One user group's part of the loop."""

    train: GroupProblem
    held_out: GroupProblem
    cut: Cut
    popularity: Tensor  # [num_item_groups]
    learning: Tensor  # int64 [num_learning], which of the cut's rows learn
    added: Tensor  # [num_learning, dim], what they learn

    def table(self, weights: Tensor) -> Tensor:
        """The rows [num_rows, dim] of weighted blocks."""
        return self.cut.weighted(weights).index_add(0, self.learning, self.added)

    def fit(self, controller: BlockController) -> Tensor:
        """The loss that the rows are to make small, a scalar in nats."""
        loss = self.train.loss(self.table(self.weights(controller).detach()))
        return loss + _ANCHOR * self.added.square().sum(dim=1).mean()

    def weights(self, controller: BlockController) -> Tensor:
        """The weights that the controller gives, [num_item_groups, num_layers]."""
        with torch.no_grad():
            rows = self.cut.whole().index_add_(0, self.learning, self.added)
            of_rows = self.train.losses_of_rows(rows)
            loss = torch.zeros_like(self.popularity).index_add_(0, self.cut.item_group, of_rows)
        found: Tensor = controller(self.popularity, loss)
        return found


def control_blocks(
    embedding: ElasticEmbedding,
    population: Population,
    config: ControlConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> NDArray[np.float64]:
    """Multiplies the embedding's block weights by what the controller has learned.

    What it learns alone, as in the paper, says how much of a block the scores want, which is not how
    much is lost without it; so it corrects the weights that row values gave. In the planes layout the
    first rows of a group take part, and blocks beyond keep their weights. In the columns layout, whose
    item groups are shared, all rows take part, and those that the group's users had learn: memory
    follows the number of interactions, not that of groups times items.

    The rows learned here serve to judge the weights: they have not seen what is held out.

    Args:
        embedding: with row values set, which make the item groups; computed is where its weight is.
        population: users, interactions and vectors.
        config: settings.
        on_progress: called after every step with steps done, steps in all and the held-out loss.
        checkpoint: the place to go on from and to save to; it may come from another device.

    Returns:
        The held-out loss of every step, float64 [num_steps], in nats.
    """
    earlier, held_out = population.without_some(
        config.held_out_share, config.max_users, config.seed
    )
    later = dataclasses.replace(earlier, lists=held_out)
    shared = None if embedding.layout.nested else cut_rows(embedding, 0)
    groups = [
        _make_group(embedding, earlier, later, group, shared or cut_rows(embedding, group))
        for group in range(embedding.num_groups)
    ]
    loop = _Loop(groups, embedding.block_weights.shape[2], config, embedding.block_weights.device)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        loop.restore(saved)
    timer, total = Timer(), config.steps if loop.usable else 0
    while loop.num_steps < total:
        loop.losses.append(loop.take_step())
        if checkpoint is not None and timer.is_due() and loop.num_steps < total:
            began = time.monotonic()
            checkpoint.save(loop.state())
            timer.saved(began)
        if on_progress is not None:
            on_progress(loop.num_steps, total, loop.losses[-1])
    with torch.no_grad():
        for at, group in enumerate(groups):
            weights = group.weights(loop.controller)
            embedding.block_weights[at, : len(weights)] *= weights
    return np.array(loop.losses, dtype=np.float64)


class _Loop:
    """The controller, the rows of all groups, and how far both have learned.

    Args:
        groups: all user groups; those without anything to learn from or be judged by take no part.
        num_layers: of a row.
        config: settings.
        device: of the groups.
    """

    def __init__(
        self, groups: list[_Group], num_layers: int, config: ControlConfig, device: torch.device
    ) -> None:
        self.usable = [
            group for group in groups if len(group.train.users) and len(group.held_out.users)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # and no device's
            self.controller = BlockController(num_layers, config.hidden_dim).to(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rows = {f"added.{at}": group.added for at, group in enumerate(self.usable)}
        self.blocks = dict(self.controller.named_parameters())
        learned = [*self.rows.values()] or [torch.zeros(1, **FLOAT32_ON_CPU)]
        self.for_rows = torch.optim.Adam(learned, lr=_ROW_LEARNING_RATE, fused=True)
        self.for_blocks = torch.optim.Adam(
            self.blocks.values(), lr=config.learning_rate, fused=True
        )
        self.losses: list[float] = []

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return len(self.losses)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on."""
        return {
            "losses": np.array(self.losses, dtype=np.float64),
            "generator": self.generator.get_state().numpy(),
            **adam_arrays(self.for_rows, self.rows),
            **adam_arrays(self.for_blocks, self.blocks),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """The rows, the controller and the draws as :meth:`state` had them."""
        self.losses = state["losses"].tolist()
        self.generator.set_state(torch.from_numpy(state["generator"]).clone())
        restore_adam(self.for_rows, self.rows, state)
        restore_adam(self.for_blocks, self.blocks, state)

    def take_step(self) -> float:
        """One turn of the rows of a few groups, then one of the controller; the held-out loss."""
        shuffled = torch.randperm(len(self.usable), generator=self.generator, device="cpu").tolist()
        turn = [self.usable[at] for at in shuffled[:_GROUPS_PER_STEP]]
        _descend(self.for_rows, (group.fit(self.controller) for group in turn))
        judged = _descend(
            self.for_blocks,
            (group.held_out.loss(group.table(group.weights(self.controller))) for group in turn),
        )
        return judged / len(turn)


def _descend(optimiser: torch.optim.Optimizer, losses: Iterable[Tensor]) -> float:
    """A step down the sum of the losses, which it returns."""
    total = torch.stack(list(losses)).sum()
    optimiser.zero_grad()
    total.backward()
    optimiser.step()
    return total.item()


def _make_group(
    embedding: ElasticEmbedding, earlier: Population, later: Population, group: int, cut: Cut
) -> _Group:
    device = cut.pieces.device
    train, held_out = (
        _rotated(GroupProblem.of(each, group, cut.rows, device), embedding)
        for each in (earlier, later)
    )
    members = np.flatnonzero(earlier.user_group == group)
    items = earlier.lists.take(members).items
    item_group = np.full(len(earlier.item_vectors), cut.num_item_groups)
    item_group[cut.rows] = to_array(cut.item_group)
    popularity = np.bincount(item_group[items], minlength=cut.num_item_groups + 1)[:-1]
    learning = torch.arange(len(cut.rows), device=device)
    if not embedding.layout.nested:
        learning = train.targets.unique()
    return _Group(
        train,
        held_out,
        cut,
        torch.from_numpy(np.log1p(popularity).astype(np.float32)).to(device),
        learning,
        torch.zeros(
            len(learning),
            embedding.embedding_dim,
            dtype=torch.float32,
            device=device,
            requires_grad=True,
        ),
    )


def _rotated(problem: GroupProblem, embedding: ElasticEmbedding) -> GroupProblem:
    return GroupProblem(
        embedding.rotate(problem.users), problem.indptr, problem.targets, problem.weights,
        problem.temperature,
    )  # fmt: skip
