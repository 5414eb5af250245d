"""Block control by the bi-level loop of the PEEL paper (Zheng et al., 2023, arXiv 2306.10532).

A controller sees the popularity and the loss of every block and gives each a weight by a softmax over
the blocks of a user group. The rows of the group are then the weighted sum of their blocks. Two steps
take turns: the rows learn on training interactions, the controller on held-out ones, so that weights
are judged by what the rows have not been fitted to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import ControlConfig
from peel_ext.nn import ElasticEmbedding
from peel_ext.scale.collectives import Collectives
from peel_ext.train.block_weights.block_controller import BlockController
from peel_ext.train.block_weights.cut import Cut, cut_rows
from peel_ext.train.checkpoint import Checkpoint, adam_arrays, restore_adam, run_steps
from peel_ext.train.group_problem import GroupProblem
from peel_ext.train.placement import FLOAT32_ON_CPU, to_array
from peel_ext.train.population import Members, Population

#: Groups in one turn.
_GROUPS_PER_STEP = 4

#: Of the rows' Adam, and the weight of their mean squared distance to the global table. Left free,
#: rows fit the training interactions faster than the controller can learn from the held-out ones.
_ROW_LEARNING_RATE = 1e-3
_ANCHOR = 10.0


@dataclass(frozen=True)
class Group:
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
    groups = {
        group: make_group(
            earlier, later, group, shared or cut_rows(embedding, group), embedding.rotate
        )
        for group in range(embedding.num_groups)
    }
    where = embedding.block_weights.device
    loop = Loop(groups, embedding.block_weights.shape[2], config, where)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        loop.restore(saved)
    run_steps(loop, on_progress, checkpoint)
    for group, weights in loop.weights():
        embedding.block_weights[group, : len(weights)] *= weights
    return np.array(loop.losses, dtype=np.float64)


class Loop:
    """The controller, the rows of the groups, and how far both have learned.

    Several processes have groups each, and controllers that learn the same.

    Args:
        groups: user groups of this process, by number; those without anything to learn from or be judged
            by take no part.
        num_layers: layers of a row.
        config: settings.
        device: the device of the groups.
        ranks: the processes; None: this one alone.

    Attributes:
        usable: the groups of all processes that take part.
        rows: what the rows of the own ones among them learn, by names that are the same for any
            number of processes.
        losses: held-out loss of each step taken, in nats.
        num_steps: number of steps in all.
    """

    def __init__(
        self,
        groups: Mapping[int, Group],
        num_layers: int,
        config: ControlConfig,
        device: torch.device,
        ranks: Collectives | None = None,
    ) -> None:
        self.groups, self.ranks = groups, ranks
        own = [
            group
            for group, each in groups.items()
            if len(each.train.users) and len(each.held_out.users)
        ]
        self.usable = own
        if ranks is not None:
            self.usable = ranks.join(torch.tensor(own, dtype=torch.int64, device="cpu")).tolist()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # and no device's
            self.controller = BlockController(num_layers, config.hidden_dim).to(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rows = {f"added.{self.usable.index(each)}": groups[each].added for each in own}
        self.blocks = dict(self.controller.named_parameters())
        learned = [*self.rows.values()] or [torch.zeros(1, **FLOAT32_ON_CPU)]
        self.for_rows = torch.optim.Adam(learned, lr=_ROW_LEARNING_RATE, fused=True)
        self.for_blocks = torch.optim.Adam(
            self.blocks.values(), lr=config.learning_rate, fused=True
        )
        self.losses: list[float] = []
        self.num_steps = config.steps if self.usable else 0

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

    def step(self, done: int) -> float:
        """One turn of the rows of a few groups, then one of the controller; the held-out loss."""
        shuffled = torch.randperm(len(self.usable), generator=self.generator, device="cpu").tolist()
        chosen = [self.usable[at] for at in shuffled[:_GROUPS_PER_STEP]]
        turn = [self.groups[each] for each in chosen if each in self.groups]
        _find_gradients(self.for_rows, (group.fit(self.controller) for group in turn))
        self.for_rows.step()
        judged = _find_gradients(
            self.for_blocks,
            (group.held_out.loss(group.table(group.weights(self.controller))) for group in turn),
        )
        judged = self._add_up(judged)
        self.for_blocks.step()
        return judged / len(chosen)

    def _add_up(self, loss: float) -> float:
        """The loss of all processes; their gradients become those of each."""
        if self.ranks is None:
            return loss
        blocks = list(self.blocks.values())
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in blocks]
        flat = torch.cat([blocks[0].new_full((1,), loss), *(each.flatten() for each in own)])
        total, *parts = self.ranks.sum(flat).split([1, *(each.numel() for each in own)])
        for each, part in zip(blocks, parts, strict=True):
            each.grad = part.view_as(each)
        return float(total)

    @torch.no_grad()
    def weights(self) -> Iterator[tuple[int, Tensor]]:
        """The own groups, and the weights that the controller gives them."""
        for number, group in self.groups.items():
            yield number, group.weights(self.controller)


def _find_gradients(optimiser: torch.optim.Optimizer, losses: Iterable[Tensor]) -> float:
    """Leaves the gradients of the sum of some losses, which it returns."""
    optimiser.zero_grad()
    found = list(losses)
    if not found:
        return 0.0
    total = torch.stack(found).sum()
    total.backward()
    return total.item()


def make_group(
    earlier: Members,
    later: Members,
    group: int,
    cut: Cut,
    rotate: Callable[[Tensor], Tensor],
) -> Group:
    """One user group's part of the loop.

    Args:
        earlier: users, with the interactions that rows learn from.
        later: the same, with those that are held out.
        group: number of the group.
        cut: rows of the group that take part.
        rotate: brings users to the space of these.
    """
    device = cut.pieces.device
    train, held_out = (
        _rotated(GroupProblem.of(each, group, cut.rows, device), rotate)
        for each in (earlier, later)
    )
    users = np.flatnonzero(earlier.user_group == group)
    items = earlier.lists.take(users).items
    item_group = np.full(earlier.num_items, cut.num_item_groups)
    item_group[cut.rows] = to_array(cut.item_group)
    popularity = np.bincount(item_group[items], minlength=cut.num_item_groups + 1)[:-1]
    learning = torch.arange(len(cut.rows), device=device)
    if cut.layer_of_column is not None:
        learning = train.targets.unique()
    return Group(
        train,
        held_out,
        cut,
        torch.from_numpy(np.log1p(popularity).astype(np.float32)).to(device),
        learning,
        torch.zeros(
            len(learning),
            cut.pieces.shape[2],
            dtype=torch.float32,
            device=device,
            requires_grad=True,
        ),
    )


def _rotated(problem: GroupProblem, rotate: Callable[[Tensor], Tensor]) -> GroupProblem:
    return GroupProblem(
        rotate(problem.users), problem.indptr, problem.targets, problem.weights,
        problem.temperature,
    )  # fmt: skip
