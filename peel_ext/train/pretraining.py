"""Stage 1: user and item vectors by LightGCN or matrix factorisation under a softmax."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import PretrainingConfig
from peel_ext.data import ItemLists
from peel_ext.errors import DataError, PeelError
from peel_ext.models import LightGCN, MatrixFactorisation, normalised_adjacency, table_of
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.checkpoint import Checkpoint, Timer
from peel_ext.train.item_prior import describe_items, give_prior, weigh_features
from peel_ext.train.losses import full_softmax_loss, sampled_softmax_loss
from peel_ext.train.placement import to_array
from peel_ext.train.svd import truncated_svd

#: Of the softmax where no temperature was given or chosen.
DEFAULT_TEMPERATURE = 0.1

#: Values of a vector where they were not given or chosen.
DEFAULT_DIM = 64


class PretrainedVectors(NamedTuple):
    """The vectors that pretraining makes.

    Attributes:
        users: float32 [num_users, embedding_dim]: a taste of length 1, and ``prior`` along the axis of
            the prior (:mod:`peel_ext.device.item_prior`); those of users without interactions 0.
        items: float32 [num_items, embedding_dim]: a taste of length 1, and along that axis the item's
            prior over ``prior``.
        losses: float64 [num_steps], in nats.
        prior: the component of every user along the axis.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    losses: NDArray[np.float64]
    prior: float


def pretrain(
    lists: ItemLists,
    num_items: int,
    config: PretrainingConfig,
    *,
    weights: NDArray[np.float64] | None = None,
    prior: NDArray[np.float32] | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> PretrainedVectors:
    """Learns vectors whose plain dot product ranks the items for each user.

    The product is the cosine of two tastes, of ``embedding_dim - 1`` dimensions, and the item's prior.

    LightGCN (:class:`peel_ext.models.LightGCN`) starts from a truncated SVD of the normalised
    interactions and is trained with Adam on a softmax of the cosines, of each interaction among all
    items the user has not had (:func:`peel_ext.train.losses.full_softmax_loss`), or among a sample of
    them where users times items are too many (:func:`peel_ext.train.losses.sampled_softmax_loss`).
    On the CPU two runs with one seed and one number of threads give the same bits, also when one of
    them was interrupted and went on from its checkpoint. What is drawn is the same on every device.
    The global random state is neither read nor changed.

    Args:
        lists: items of each user.
        num_items: number of items, those without interactions included.
        config: all settings.
        weights: how much each interaction counts in its user's loss [num_interactions], above 0, before
            the scale of ``config.weight_scale``; None: all alike. The smoothing knows none.
        prior: float32 [num_items], of each item, added to the cosine; None: what the loss leaves out of
            popularity (:func:`left_out_weight`).
        on_progress: called after every step with the steps done, the steps in all and the loss of
            the step, in nats.
        checkpoint: where to go on from and to save to; it may come from another device.
        device: where to compute.

    Raises:
        DataError: an item is out of range.
        PeelError: the loss is no longer a finite number.
    """
    indptr, item_rows = (
        torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for array in (lists.indptr, lists.items)
    )
    scaled = None if weights is None else _scaled(weights, config).to(device)
    training = _Training(indptr, item_rows, num_items, config, scaled)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is None:
        training.start()
    else:
        training.restore(saved)
    training.run(on_progress, checkpoint)
    losses = np.array(training.losses, dtype=np.float64)
    if prior is None:
        features = describe_items(lists.items, num_items)
        prior = weigh_features(features, [left_out_weight(config)])
    users, rows, component = give_prior(
        *_tastes(training.model, indptr), prior, np.bincount(lists.items, minlength=num_items)
    )
    return PretrainedVectors(users, rows, losses, component)


def left_out_weight(config: PretrainingConfig) -> float:
    """The weight of an item's log interactions in its prior by which scores rank as the loss has learned.

    Where the softmax weighs an item j of n_j interactions by n_j^e as a negative, the cosine over the
    temperature t is, at its best, log p(j | user) - e log n_j, up to a constant of the user (Menon et
    al., 2021, arXiv 2007.07314): e t log n_j added to the cosine orders items by p.
    """
    return config.negative_popularity_exponent * (config.temperature or DEFAULT_TEMPERATURE)


class _Training:
    """The model, its optimiser, and how far they are."""

    def __init__(
        self,
        indptr: Tensor,
        item_rows: Tensor,
        num_items: int,
        config: PretrainingConfig,
        positive_weights: Tensor | None,
    ) -> None:
        try:
            self.adjacency = normalised_adjacency(indptr, item_rows, num_items)
        except ValueError as error:
            raise DataError(f"unusable interactions: {error}") from error
        self.indptr, self.item_rows, self.num_items = indptr, item_rows, num_items
        self.config, self.positive_weights = config, positive_weights
        self.generator = torch.Generator().manual_seed(config.seed)
        degrees = indptr.diff()
        self.active = degrees.nonzero()[:, 0]
        self.weights = degrees.float() ** config.user_weight_exponent
        counts = count_interactions(item_rows, num_items).double()
        popularity = counts**config.negative_popularity_exponent
        weights = (popularity / popularity.mean()).float()
        self.negative_weights = weights.clamp(min=torch.finfo(torch.float32).tiny)
        self.steps_per_epoch = min(config.steps_per_epoch, len(self.active))
        self.num_steps = config.epochs * self.steps_per_epoch
        self.losses: list[float] = []
        self.order = self.active  # of the users in this epoch
        self.model: LightGCN | MatrixFactorisation

    def start(self) -> None:
        """The model before the first step."""
        config = self.config
        users, items = truncated_svd(
            *self.adjacency, (config.embedding_dim or DEFAULT_DIM) - 1, self.generator
        )
        self._build(
            *(_started(part, config.start_scale, self.generator) for part in (users, items))
        )

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """The model, the optimiser and the draws as :meth:`state` had them."""
        self.generator.set_state(torch.from_numpy(state["generator"]).clone())
        # Torch's own memory: matrix products round differently at another alignment.
        found = {
            name: torch.from_numpy(array).clone().to(self.indptr.device)
            for name, array in state.items()
        }
        self._build(found["users"], found["items"])
        self.losses = state["losses"].tolist()
        self.order = found["order"]
        for name, parameter in self._parameters().items():
            self.optimiser.state[parameter] = {
                "step": parameter.new_full((), len(self.losses), dtype=torch.float32),
                "exp_avg": found[f"{name}.exp_avg"],
                "exp_avg_sq": found[f"{name}.exp_avg_sq"],
            }

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on."""
        tensors = {"order": self.order, "generator": self.generator.get_state()}
        for name, parameter in self._parameters().items():
            moments = self.optimiser.state[parameter]
            tensors[name] = parameter
            tensors |= {f"{name}.{part}": moments[part] for part in ("exp_avg", "exp_avg_sq")}
        losses = np.array(self.losses, dtype=np.float64)
        return {name: to_array(tensor) for name, tensor in tensors.items()} | {"losses": losses}

    def run(
        self,
        on_progress: Callable[[int, int, float], None] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        """The steps that are left."""
        timer = Timer()
        while len(self.losses) < self.num_steps:
            self.losses.append(self._step(len(self.losses)))
            done = len(self.losses)
            if checkpoint is not None and timer.is_due() and done < self.num_steps:
                began = time.monotonic()
                checkpoint.save(self.state())
                timer.saved(began)
            if on_progress is not None:
                on_progress(done, self.num_steps, self.losses[-1])

    def _build(self, users: Tensor, items: Tensor) -> None:
        user_embedding: nn.Embedding = nn.Embedding.from_pretrained(users, freeze=False)
        item_embedding = ElasticEmbedding.from_pretrained(items, freeze=False)
        if self.config.num_layers == 0:
            self.model = MatrixFactorisation(user_embedding, item_embedding)
        else:
            self.model = LightGCN(
                user_embedding, item_embedding, self.indptr, self.item_rows, self.config.num_layers
            )
        self.optimiser = torch.optim.Adam(self.model.parameters(), fused=True)

    def _parameters(self) -> dict[str, Tensor]:
        return {
            "users": table_of(self.model.user_embedding),
            "items": table_of(self.model.item_embedding),
        }

    def _step(self, done: int) -> float:
        at = done % self.steps_per_epoch
        if at == 0:  # every user once in each epoch, in random order
            shuffled = torch.randperm(len(self.active), generator=self.generator, device="cpu")
            self.order = self.active[shuffled.to(self.active.device)]
        loss = self._batch_loss(self.order.tensor_split(self.steps_per_epoch)[at])
        value = loss.item()
        if not math.isfinite(value):
            raise PeelError(
                f"pretraining diverged: the loss of step {done + 1} of {self.num_steps} is "
                f"{value}; try a lower learning rate or a higher temperature"
            )
        fall = (1 - self.config.final_learning_rate_share) * done / self.num_steps
        self.optimiser.param_groups[0]["lr"] = self.config.learning_rate * (1 - fall)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return value

    def _batch_loss(self, batch: Tensor) -> Tensor:
        users, items = self.model()
        indptr, positives = take_lists(self.indptr, self.item_rows, batch)
        arguments = (
            F.normalize(users[batch]),
            F.normalize(items),
            indptr,
            positives,
            self.config.temperature or DEFAULT_TEMPERATURE,
            self.weights[batch],
        )
        positive_weights = None
        if self.positive_weights is not None:
            positive_weights = take_lists(self.indptr, self.positive_weights, batch)[1]
        if self._samples():
            return sampled_softmax_loss(
                *arguments,
                negative_weights=self.negative_weights,
                positive_weights=positive_weights,
                num_negatives=self.config.num_negatives,
                generator=self.generator,
            )
        return full_softmax_loss(
            *arguments,
            negative_weights=self.negative_weights,
            positive_weights=positive_weights,
        )

    def _samples(self) -> bool:
        if self.config.softmax == "auto":
            return len(self.active) * self.num_items > self.config.max_full_scores
        return self.config.softmax == "sampled"


def _started(vectors: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """These vectors at a root mean square of ``scale``.

    The noise gives a direction to what the SVD leaves at zero: items nobody touched, and columns
    beyond its rank, where zeros on both sides would have no gradient.
    """
    size = vectors.square().mean().sqrt().clamp(min=torch.finfo(vectors.dtype).tiny)
    noise = torch.randn(
        vectors.shape, generator=generator, dtype=vectors.dtype, device=generator.device
    ).to(vectors.device)
    # The SVD comes column by column; rows are what training reads, and what a checkpoint restores.
    return (scale * (vectors / size + 0.01 * noise)).contiguous()


def _scaled(weights: NDArray[np.float64], config: PretrainingConfig) -> Tensor:
    scaled = np.log1p(weights) if config.weight_scale == "log" else weights
    return torch.from_numpy(scaled.astype(np.float32))


def take_lists(indptr: Tensor, item_rows: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """The CSR lists of some users, in their order."""
    counts = indptr[users + 1] - indptr[users]
    taken = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shifts = torch.repeat_interleave(indptr[users] - taken[:-1], counts)
    return taken, item_rows[torch.arange(len(shifts), device=shifts.device) + shifts]


def count_interactions(item_rows: Tensor, num_items: int) -> Tensor:
    """Float32 [num_items], at least 1 so that it has every power."""
    return torch.bincount(item_rows, minlength=num_items).clamp(min=1).float()


def _tastes(model: nn.Module, indptr: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The model's vectors of length 1, those of users without interactions 0."""
    with torch.no_grad():
        users, items = (vectors.detach() for vectors in model())
    users = F.normalize(users) * (indptr.diff() > 0)[:, None]
    return to_array(users), to_array(F.normalize(items))
