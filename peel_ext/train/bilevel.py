"""Block control by the bi-level loop of the PEEL paper (Zheng et al., 2023, arXiv 2306.10532).

A controller sees the popularity and the loss of every block and gives each a weight by a softmax over
the blocks of a user group. The rows of the group are then the weighted sum of their blocks. Two steps
take turns: the rows learn on training interactions, the controller on held-out ones, so that weights
are judged by what the rows have not been fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import ControlConfig
from peel_ext.format import Layout
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.placement import FLOAT32_ON_CPU
from peel_ext.train.population import Population
from peel_ext.train.refinement import GroupProblem

#: Rows of a group that take part: more than small budgets keep.
_ROWS_PER_GROUP = 1024

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


@dataclass(frozen=True)
class _Group:
    """One user group's part of the loop."""

    train: GroupProblem
    held: GroupProblem
    pieces: Tensor  # [num_rows, num_layers, dim], the sum over layers is the row
    item_group: Tensor  # int64 [num_rows]
    popularity: Tensor  # [num_item_groups]
    added: Tensor  # [num_rows, dim], what the rows learn

    def table(self, weights: Tensor) -> Tensor:
        """The rows [num_rows, dim] of weighted blocks."""
        weighted: Tensor = (self.pieces * weights[self.item_group][:, :, None]).sum(dim=1)
        return weighted + self.added

    def fit(self, controller: BlockController) -> Tensor:
        """What the rows are to make small."""
        loss = self.train.loss(self.table(self.weights(controller).detach()))
        return loss + _ANCHOR * self.added.square().sum(dim=1).mean()

    def weights(self, controller: BlockController) -> Tensor:
        """What the controller says, [num_item_groups, num_layers]."""
        with torch.no_grad():
            of_rows = self.train.losses_of_rows(self.pieces.sum(dim=1) + self.added)
            loss = torch.zeros_like(self.popularity).index_add_(0, self.item_group, of_rows)
        found: Tensor = controller(self.popularity, loss)
        return found


def control_blocks(
    embedding: ElasticEmbedding,
    population: Population,
    config: ControlConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Multiplies the embedding's block weights by what the controller has learned.

    What it learns alone, as in the paper, says how much of a block the scores want, which is not how
    much is lost without it; so it corrects the weights that row values gave. Blocks beyond the first
    rows of a group keep theirs. Where item groups are shared (columns) every user group takes all rows,
    and memory for num_groups * num_items * (num_layers + 3) * dim floats.

    Args:
        embedding: with row values set, which make the item groups.
        population: users, interactions and vectors.
        config: settings.
        on_progress: called after every step with steps done, steps in all and the held-out loss.
    """
    earlier, held = population.without_some(config.held_out_share, config.max_users, config.seed)
    later = Population(
        earlier.user_vectors, earlier.item_vectors, earlier.user_group, earlier.centroids, held,
        earlier.temperature,
    )  # fmt: skip
    groups = [
        _make_group(embedding, earlier, later, group) for group in range(embedding.num_groups)
    ]
    usable = [group for group in groups if len(group.train.users) and len(group.held.users)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        controller = BlockController(embedding.block_weights.shape[2], config.hidden_dim)
    generator = torch.Generator().manual_seed(config.seed)
    learned = [group.added for group in usable] or [torch.zeros(1, **FLOAT32_ON_CPU)]
    for_rows = torch.optim.Adam(learned, lr=_ROW_LEARNING_RATE, fused=True)
    for_blocks = torch.optim.Adam(controller.parameters(), lr=config.learning_rate, fused=True)
    for step in range(config.steps if usable else 0):
        shuffled = torch.randperm(len(usable), generator=generator, device="cpu").tolist()
        turn = [usable[at] for at in shuffled[:_GROUPS_PER_STEP]]
        _take_step(for_rows, _total(group.fit(controller) for group in turn))
        judged = _total(group.held.loss(group.table(group.weights(controller))) for group in turn)
        _take_step(for_blocks, judged)
        if on_progress is not None:
            on_progress(step + 1, config.steps, judged.item() / len(turn))
    with torch.no_grad():
        for at, group in enumerate(groups):
            weights = group.weights(controller)
            embedding.block_weights[at, : len(weights)] *= weights


def _total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


def _take_step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _make_group(
    embedding: ElasticEmbedding, earlier: Population, later: Population, group: int
) -> _Group:
    which = embedding.item_group[0 if len(embedding.item_group) == 1 else group].long()
    sizes = torch.bincount(which, minlength=embedding.block_weights.shape[1])
    count = int((sizes.cumsum(0) <= max(_ROWS_PER_GROUP, int(sizes[0]))).sum())
    if not embedding.layout.nested:
        count = len(sizes)
    rows = (which < count).nonzero()[:, 0]
    item_group = which[rows]
    members = earlier.user_group == group
    interactions = np.repeat(members, np.diff(earlier.lists[0]))
    popularity = np.bincount(which.numpy()[earlier.lists[1][interactions]], minlength=len(sizes))[
        :count
    ]
    turned = embedding.rotate(embedding.weight.detach()[rows])
    return _Group(
        _rotated(GroupProblem.of(earlier, group, rows.numpy()), embedding),
        _rotated(GroupProblem.of(later, group, rows.numpy()), embedding),
        torch.from_numpy(row_pieces(embedding.layout, turned.numpy())),
        item_group,
        torch.from_numpy(np.log1p(popularity).astype(np.float32)),
        torch.zeros(len(rows), embedding.embedding_dim, **FLOAT32_ON_CPU, requires_grad=True),
    )


def _rotated(problem: GroupProblem, embedding: ElasticEmbedding) -> GroupProblem:
    return GroupProblem(
        embedding.rotate(problem.users), problem.targets, problem.weights, problem.temperature
    )


def row_pieces(layout: Layout, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What every layer adds to its row, [n, num_layers, dim], for rows [n, dim] to be encoded."""
    dim = rows.shape[1]
    store, scales = layout.encode(rows)
    pieces = np.empty((len(rows), layout.num_layers(dim), dim), dtype=np.float32)
    below = np.zeros_like(rows)
    for layer in range(pieces.shape[1]):
        held = (1 << (layer + 1)) - 1  # in both layouts, this layer and all before it
        decoded = layout.decode(store, scales, held, dim)
        pieces[:, layer] = decoded - below
        below = decoded
    return pieces


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-6)
