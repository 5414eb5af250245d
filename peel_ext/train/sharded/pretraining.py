"""Stage 1 by several processes: user and item vectors in parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import PretrainingConfig
from peel_ext.data import ItemLists
from peel_ext.errors import PeelError
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.draws import draw_normal
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.scale.propagation import Propagation
from peel_ext.scale.svd import truncated_svd
from peel_ext.train.checkpoint import Checkpoint, Timer, run_steps
from peel_ext.train.placement import limit_chunk, to_array
from peel_ext.train.pretraining import MakePrior, PretrainedVectors, left_out_weight
from peel_ext.train.sharded.item_prior import give_prior
from peel_ext.train.sharded.softmax import (
    Candidates,
    Gradients,
    Positives,
    draw_candidates,
    softmax_gradients,
)
from peel_ext.train.vector_training import DEFAULT_DIM, DEFAULT_TEMPERATURE

#: Users who share the candidates of the sampled softmax, as in one process.
_CHUNK_USERS = 512


def pretrain(
    shard: ItemShard,
    config: PretrainingConfig,
    ranks: Collectives,
    *,
    prior: NDArray[np.float32] | MakePrior | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> PretrainedVectors:
    """Learns what :func:`peel_ext.train.pretraining.pretrain` does, up to rounding, in parts.

    Users, items, what is known of them and the moments of Adam stay with their owners. What is drawn is
    the same for any number of ranks; with one number of ranks two runs give the same bits.

    Args:
        shard: the training interactions.
        config: all settings.
        ranks: the processes.
        prior: that of each own item, as there.
        on_progress: as there.
        checkpoint: the place to go on from and to save to, of all ranks; the number of ranks may have been
            another.
        device: the device that computes, one of :data:`peel_ext.config.DEVICES`.

    Returns:
        The vectors of the own users and items.

    Raises:
        PeelError: the loss is no longer a finite number.
    """
    training = _Training(shard.to(device), config, ranks)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is None:
        training.start()
    else:
        training.restore(saved)
    training.run(on_progress, checkpoint)
    users, items = training.tastes()
    counts = to_array(shard.counts)
    if prior is None:
        popularity = np.log(np.maximum(counts, 1)).astype(np.float32)
        prior = np.asarray(left_out_weight(config) * popularity, dtype=np.float32)
    elif callable(prior):
        prior = prior(users, items)
    made = give_prior(users, items, prior, counts, ranks)
    return PretrainedVectors(made[0], made[1], np.array(training.losses), made[2])


class _Training:
    """The own rows of the model, their optimiser, and how far they are."""

    def __init__(self, shard: ItemShard, config: PretrainingConfig, ranks: Collectives) -> None:
        self.shard, self.config, self.ranks = shard, config, ranks
        self.propagation = Propagation(shard, ranks)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.active = shard.degrees.nonzero()[:, 0]
        self.weights = shard.degrees.float() ** config.user_weight_exponent
        popularity = shard.counts.clamp(min=1).double() ** config.negative_popularity_exponent
        mean = float(ranks.sum(popularity.sum())) / shard.items.size
        weights = (popularity / mean).float().clamp(min=torch.finfo(torch.float32).tiny)
        self.offsets = weights.log()
        self.steps_per_epoch = min(config.steps_per_epoch, len(self.active))
        self.num_steps = config.epochs * self.steps_per_epoch
        self.losses: list[float] = []
        self.order, self.epoch = self.active, self.generator.get_state()
        self.own_users = shard.users.own(ranks.rank)

    def start(self) -> None:
        """The model before the first step."""
        config, shard, ranks = self.config, self.shard, self.ranks
        dim = (config.embedding_dim or DEFAULT_DIM) - 1
        users, items = truncated_svd(
            self.propagation, shard.users, shard.items, dim, self.generator, ranks
        )
        self.users = self._started(users, shard.users)
        self.items = self._started(items, shard.items)
        self.optimiser = torch.optim.Adam([self.users, self.items], fused=True)

    def _started(self, vectors: Tensor, partition: Partition) -> Tensor:
        """As :mod:`peel_ext.train.pretraining` begins: at a root mean square, with some noise."""
        squares = float(self.ranks.sum(vectors.double().square().sum()))
        size = math.sqrt(squares / (partition.size * vectors.shape[1]))
        size = max(size, torch.finfo(vectors.dtype).tiny)
        noise = draw_normal(partition, self.ranks.rank, vectors.shape[1], self.generator)
        made = self.config.start_scale * (vectors / size + 0.01 * noise.to(vectors.device))
        return made.contiguous().requires_grad_()

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """The model, the optimiser and the draws as :meth:`state` had them."""
        where = self.propagation.device
        tables = {name: _own_memory(state[name]).to(where) for name in ("users", "items")}
        self.users, self.items = (tables[name].requires_grad_() for name in ("users", "items"))
        self.optimiser = torch.optim.Adam([self.users, self.items], fused=True)
        self.losses = state["losses"].tolist()
        for name, parameter in (("users", self.users), ("items", self.items)):
            self.optimiser.state[parameter] = {
                "step": parameter.new_full((), len(self.losses), dtype=torch.float32),
                "exp_avg": _own_memory(state[f"{name}.exp_avg"]).to(where),
                "exp_avg_sq": _own_memory(state[f"{name}.exp_avg_sq"]).to(where),
            }
        self.generator.set_state(torch.from_numpy(state["epoch"]).clone())
        self._shuffle()
        self.generator.set_state(torch.from_numpy(state["generator"]).clone())

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on: of tables the own rows."""
        state = {
            "epoch": self.epoch.numpy(),
            "generator": self.generator.get_state().numpy(),
            "losses": np.array(self.losses, dtype=np.float64),
        }
        for name, parameter in (("users", self.users), ("items", self.items)):
            moments = self.optimiser.state[parameter]
            state[name] = to_array(parameter)
            state |= {
                f"{name}.{part}": to_array(moments[part]) for part in ("exp_avg", "exp_avg_sq")
            }
        return state

    def run(
        self,
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        """The steps that are left."""
        run_steps(self, on_progress, checkpoint, self._is_due)

    def _is_due(self, timer: Timer) -> bool:
        """True if it is time to save, by the clock of rank 0."""
        return self.ranks.total(self.ranks.is_first and timer.is_due()) > 0

    def _shuffle(self) -> None:
        """The order of the users in an epoch."""
        self.epoch = self.generator.get_state()
        shuffled = torch.randperm(len(self.active), generator=self.generator, device="cpu")
        self.order = self.active[shuffled.to(self.active.device)]

    def step(self, done: int) -> float:
        """One step; returns the loss before it, in nats."""
        at = done % self.steps_per_epoch
        if at == 0:  # every user once in each epoch, in random order
            self._shuffle()
        value = self._learn(self.order.tensor_split(self.steps_per_epoch)[at])
        if not math.isfinite(value):
            raise PeelError(
                f"pretraining diverged: the loss of step {done + 1} of {self.num_steps} is "
                f"{value}; try a lower learning rate or a higher temperature"
            )
        fall = (1 - self.config.final_learning_rate_share) * done / self.num_steps
        self.optimiser.param_groups[0]["lr"] = self.config.learning_rate * (1 - fall)
        self.optimiser.step()
        return value

    def _learn(self, batch: Tensor) -> float:
        """Leaves the gradients at the own rows; returns the loss."""
        layers = self.config.num_layers
        with torch.no_grad():
            users, items = self.propagation.smooth(self.users, self.items, layers)
        mine = (batch >= self.own_users.start) & (batch < self.own_users.stop)
        rows = batch[mine] - self.own_users.start
        of_users, of_items = users[rows].requires_grad_(), items.requires_grad_()
        unit_users, unit_items = F.normalize(of_users), F.normalize(of_items)
        owners = torch.from_numpy(self.shard.users.owners(to_array(batch))).to(batch.device)
        order, counts = owners.argsort(stable=True), owners.bincount(minlength=self.ranks.size)
        made, loss = self._gradients(batch, order, counts.cpu().tolist(), unit_users, unit_items)
        arrived = self._send_back(made.users[order], counts.cpu().tolist(), len(rows))
        torch.autograd.backward([unit_users, unit_items], [arrived, made.items])
        assert of_users.grad is not None  # both were leaves of what went backward
        assert of_items.grad is not None
        scattered = torch.zeros_like(users).index_add_(0, rows, of_users.grad)
        # Smoothing is its own transpose.
        self.users.grad, self.items.grad = self.propagation.smooth(scattered, of_items.grad, layers)
        return loss

    def _gradients(
        self, batch: Tensor, order: Tensor, counts: list[int], users: Tensor, items: Tensor
    ) -> tuple[Gradients, float]:
        """The gradients of a batch, and its loss on all ranks."""
        ranks, config = self.ranks, self.config
        with torch.no_grad():
            own = len(users)
            everybody = ranks.exchange_rows(users.repeat(ranks.size, 1), [own] * ranks.size, counts)
            vectors = torch.empty_like(everybody)
            vectors[order] = everybody  # in the order of the batch, as one process has it
            weights = self.weights[batch]
            indptr, places = self.shard.places_of(batch)
            degrees = self.shard.degrees[batch]
            shares = degrees.float().reciprocal().repeat_interleave(indptr.diff())
            if self.shard.weights is not None:
                shares = self.shard.weights[places]
            positives = Positives(indptr, self.shard.columns[places].long(), shares)
            chunk, candidates = self._chunks(positives)
            made = softmax_gradients(
                vectors, items, positives, config.temperature or DEFAULT_TEMPERATURE,
                weights / weights.sum(), self.offsets, chunk,
                None if candidates is None else candidates.__getitem__, ranks,
            )  # fmt: skip
        return made, float(ranks.sum(made.loss))

    def _chunks(self, positives: Positives) -> tuple[int, list[Candidates] | None]:
        """Users at a time, and the candidates of each such chunk, or None: all items."""
        items = self.shard.items
        if not self._samples():
            most = limit_chunk(positives.columns.device)
            return max(1, most // (items.rows_per_rank * self.items.element_size())), None
        return _CHUNK_USERS, draw_candidates(
            positives, items, self.config.num_negatives, _CHUNK_USERS, self.generator, self.ranks
        )

    def _samples(self) -> bool:
        if self.config.softmax == "auto":
            return len(self.active) * self.shard.items.size > self.config.max_full_scores
        return self.config.softmax == "sampled"

    def _send_back(self, rows: Tensor, counts: list[int], own: int) -> Tensor:
        """The sums [own, dim] over ranks of rows of own users; all come by owner, so many of each."""
        arrived = self.ranks.exchange_rows(rows, counts, [own] * self.ranks.size)
        return arrived.view(self.ranks.size, own, -1).sum(dim=0)

    def tastes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The own vectors of length 1, those of users without interactions 0."""
        with torch.no_grad():
            users, items = self.propagation.smooth(self.users, self.items, self.config.num_layers)
            active = self.shard.degrees[self.own_users] > 0
            users = F.normalize(users) * active[:, None]
            return to_array(users), to_array(F.normalize(items))


def _own_memory(array: NDArray[Any]) -> Tensor:
    """A tensor in torch's own memory: matrix products round differently at another alignment."""
    return torch.from_numpy(array).clone()


def scale_weights(
    weights: NDArray[np.float64] | None, lists: ItemLists, scale: str
) -> NDArray[np.float32] | None:
    """The share of each interaction in the mean of its user, or None: all alike.

    Args:
        weights: weights of the interactions [m], before their scale, or None.
        lists: items of the users.
        scale: value of :attr:`peel_ext.config.PretrainingConfig.weight_scale`.
    """
    if weights is None:
        return None
    scaled = (np.log1p(weights) if scale == "log" else weights).astype(np.float32)
    owners, sums = lists.owners(), np.zeros(len(lists), dtype=np.float32)
    np.add.at(sums, owners, scaled)
    return np.asarray(scaled / sums[owners], dtype=np.float32)
