"""The training of user and item vectors: the model, its optimiser and its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import PretrainingConfig
from peel_ext.errors import DataError, PeelError
from peel_ext.models import LightGCN, MatrixFactorisation, normalised_adjacency, table_of
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.checkpoint import Checkpoint, run_steps
from peel_ext.train.losses import full_softmax_loss, sampled_softmax_loss
from peel_ext.train.placement import to_array
from peel_ext.train.svd import scale_start, truncated_svd

#: Of the softmax where no temperature was given or chosen.
DEFAULT_TEMPERATURE = 0.1

#: Values of a vector where they were not given or chosen.
DEFAULT_DIM = 64


class VectorTraining:
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
            *(scale_start(part, config.start_scale, self.generator) for part in (users, items))
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
        run_steps(self, on_progress, checkpoint)

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

    def step(self, done: int) -> float:
        """Makes a step after so many; returns the loss before it, in nats."""
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


def take_lists(indptr: Tensor, item_rows: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """The CSR lists of some users, in their order."""
    counts = indptr[users + 1] - indptr[users]
    taken = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shifts = torch.repeat_interleave(indptr[users] - taken[:-1], counts)
    return taken, item_rows[torch.arange(len(shifts), device=shifts.device) + shifts]


def count_interactions(item_rows: Tensor, num_items: int) -> Tensor:
    """Float32 [num_items], at least 1 so that it has every power."""
    return torch.bincount(item_rows, minlength=num_items).clamp(min=1).float()
