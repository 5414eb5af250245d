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
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import ControlConfig
from peel_ext.format import Layout
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.adam_state import adam_arrays, restore_adam
from peel_ext.train.block_controller import BlockController
from peel_ext.train.checkpoint import Checkpoint, Timer
from peel_ext.train.group_problem import GroupProblem
from peel_ext.train.placement import FLOAT32_ON_CPU, to_array
from peel_ext.train.population import Population

#: Rows of a group that take part: more than small budgets keep.
_ROWS_PER_GROUP = 1024

#: Groups in one turn.
_GROUPS_PER_STEP = 4

#: Of the rows' Adam, and the weight of their mean squared distance to the global table. Left free,
#: rows fit the training interactions faster than the controller can learn from the held-out ones.
_ROW_LEARNING_RATE = 1e-3
_ANCHOR = 10.0


@dataclass(frozen=True)
class Cut:
    """The rows that take part in a group, in pieces that the weights of their blocks multiply.

    In the planes layout a piece is what a layer adds to its row. In the columns layout, where layers
    do not overlap, the row is one piece, and every column of it has the weight of its layer.

    Attributes:
        rows: int64 [num_rows].
        item_group: int64 [num_rows].
        num_item_groups: of these rows.
        pieces: [num_rows, num_layers or 1, dim].
        layer_of_column: int64 [dim] in the columns layout, else None.
    """

    rows: NDArray[np.int64]
    item_group: Tensor
    num_item_groups: int
    pieces: Tensor
    layer_of_column: Tensor | None

    def whole(self) -> Tensor:
        """The rows [num_rows, dim] with all weights 1."""
        return self.pieces.sum(dim=1)

    def weighted(self, weights: Tensor) -> Tensor:
        """The rows [num_rows, dim] under weights [num_item_groups, num_layers] of their blocks."""
        if self.layer_of_column is None:
            of_rows = weights[self.item_group][:, :, None]
        else:
            of_rows = F.embedding(self.item_group, weights[:, self.layer_of_column])[:, None]
        weighted: Tensor = (self.pieces * of_rows).sum(dim=1)
        return weighted


@dataclass(frozen=True)
class _Group:
    """One user group's part of the loop."""

    train: GroupProblem
    held: GroupProblem
    cut: Cut
    popularity: Tensor  # [num_item_groups]
    learning: Tensor  # int64 [num_learning], which of the cut's rows learn
    added: Tensor  # [num_learning, dim], what they learn

    def table(self, weights: Tensor) -> Tensor:
        """The rows [num_rows, dim] of weighted blocks."""
        return self.cut.weighted(weights).index_add(0, self.learning, self.added)

    def fit(self, controller: BlockController) -> Tensor:
        """What the rows are to make small."""
        loss = self.train.loss(self.table(self.weights(controller).detach()))
        return loss + _ANCHOR * self.added.square().sum(dim=1).mean()

    def weights(self, controller: BlockController) -> Tensor:
        """What the controller says, [num_item_groups, num_layers]."""
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
        checkpoint: where to go on from and to save to; it may come from another device.

    Returns:
        The held-out loss of every step, float64 [num_steps], in nats.
    """
    earlier, held = population.without_some(config.held_out_share, config.max_users, config.seed)
    later = dataclasses.replace(earlier, lists=held)
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
            group for group in groups if len(group.train.users) and len(group.held.users)
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
            (group.held.loss(group.table(group.weights(self.controller))) for group in turn),
        )
        return judged / len(turn)


def _descend(optimiser: torch.optim.Optimizer, losses: Iterable[Tensor]) -> float:
    """A step down the sum of the losses, which it returns."""
    total = torch.stack(list(losses)).sum()
    optimiser.zero_grad()
    total.backward()
    optimiser.step()
    return total.item()


def cut_rows(embedding: ElasticEmbedding, group: int) -> Cut:
    """The rows of a user group that take part: in the columns layout all, whatever the group."""
    which = embedding.item_group[0 if len(embedding.item_group) == 1 else group].long()
    sizes = torch.bincount(which, minlength=embedding.block_weights.shape[1])
    count = int((sizes.cumsum(0) <= max(_ROWS_PER_GROUP, int(sizes[0]))).sum())
    layout, layer_of_column = embedding.layout, None
    if not layout.nested:
        count = len(sizes)
        columns = torch.arange(embedding.embedding_dim, device=which.device)
        layer_of_column = columns // layout.block_dim
    rows = (which < count).nonzero()[:, 0]
    turned = embedding.rotate(embedding.weight.detach()[rows])
    pieces = torch.from_numpy(_row_pieces(layout, to_array(turned))).to(rows.device)
    return Cut(to_array(rows), which[rows], count, pieces, layer_of_column)


def _make_group(
    embedding: ElasticEmbedding, earlier: Population, later: Population, group: int, cut: Cut
) -> _Group:
    device = cut.pieces.device
    train, held = (
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
        held,
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


def _row_pieces(layout: Layout, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a weight multiplies of rows [n, dim] as a device has them, [n, num_pieces, dim].

    Planes layout: what every layer adds to its row. Columns layout: the row itself.
    """
    dim = rows.shape[1]
    store, scales = layout.encode(rows)
    if not layout.nested:
        return layout.decode(store, scales, -1, dim)[:, None]
    pieces = np.empty((len(rows), layout.num_layers(dim), dim), dtype=np.float32)
    below = np.zeros_like(rows)
    for layer in range(pieces.shape[1]):
        decoded = layout.decode(store, scales, (1 << (layer + 1)) - 1, dim)
        pieces[:, layer] = decoded - below
        below = decoded
    return pieces
