"""Stage 1: user and item vectors by LightGCN or matrix factorisation under a softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import PretrainingConfig
from peel_ext.data import ItemLists
from peel_ext.train.checkpoint import Checkpoint
from peel_ext.train.item_prior import describe_items, give_prior, weigh_features
from peel_ext.train.placement import to_array
from peel_ext.train.vector_training import DEFAULT_TEMPERATURE, VectorTraining

#: The loss of the start, an SVD, first rises: shorter trainings may well end above it.
_EPOCHS_TO_FALL = 5

#: Nats by which it may end above the start: with a handful of items there is next to nothing to fall.
_LOSS_SLACK = 0.1

#: Makes the prior of the items of tastes, those of users and those of items.
MakePrior = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


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
    prior: NDArray[np.float32] | MakePrior | None = None,
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
        prior: float32 [num_items], of each item, added to the cosine; or what makes it of the tastes that
            were learned; None: what the loss leaves out of popularity (:func:`left_out_weight`).
        on_progress: called after every step with the steps done, the steps in all and the loss of
            the step, in nats.
        checkpoint: the place to go on from and to save to; it may come from another device.
        device: the device that computes, one of :data:`peel_ext.config.DEVICES`.

    Raises:
        DataError: an item is out of range.
        PeelError: the loss is no longer a finite number.
    """
    indptr, item_rows = (
        torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for array in (lists.indptr, lists.items)
    )
    scaled = None if weights is None else _scaled(weights, config).to(device)
    training = VectorTraining(indptr, item_rows, num_items, config, scaled)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is None:
        training.start()
    else:
        training.restore(saved)
    training.run(on_progress, checkpoint)
    losses = np.array(training.losses, dtype=np.float64)
    tastes = _tastes(training.model, indptr)
    if prior is None:
        features = describe_items(lists.items, num_items)
        prior = weigh_features(features, [left_out_weight(config)])
    elif callable(prior):
        prior = prior(*tastes)
    users, rows, component = give_prior(
        *tastes, prior, np.bincount(lists.items, minlength=num_items)
    )
    return PretrainedVectors(users, rows, losses, component)


def left_out_weight(config: PretrainingConfig) -> float:
    """The weight of an item's log interactions in its prior by which scores rank as the loss has learned.

    Where the softmax weighs an item j of n_j interactions by n_j^e as a negative, the cosine over the
    temperature t is, at its best, log p(j | user) - e log n_j, up to a constant of the user (Menon et
    al., 2021, arXiv 2007.07314): e t log n_j added to the cosine orders items by p.
    """
    return config.negative_popularity_exponent * (config.temperature or DEFAULT_TEMPERATURE)


def doubt_losses(losses: NDArray[np.float64], config: PretrainingConfig) -> str | None:
    """A remark on a training whose loss has not fallen, or None.

    The mean of the last epoch is held against the first step, which no update has touched; a tenth
    of a nat above it is passed over, and so are trainings of fewer than five epochs.

    Args:
        losses: [num_steps], in nats.
        config: settings of the training.
    """
    if config.epochs < _EPOCHS_TO_FALL or len(losses) == 0:
        return None
    last = float(losses[-(len(losses) // config.epochs) :].mean())
    if last <= losses[0] + _LOSS_SLACK:
        return None
    return (
        f"the loss of pretraining did not fall: {losses[0]:.4f} in the first step, {last:.4f} on "
        f"average in the last epoch; try a lower learning rate than {config.learning_rate:g}"
    )


def _scaled(weights: NDArray[np.float64], config: PretrainingConfig) -> Tensor:
    scaled = np.log1p(weights) if config.weight_scale == "log" else weights
    return torch.from_numpy(scaled.astype(np.float32))


def _tastes(model: nn.Module, indptr: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The model's vectors of length 1, those of users without interactions 0."""
    with torch.no_grad():
        users, items = (vectors.detach() for vectors in model())
    users = F.normalize(users) * (indptr.diff() > 0)[:, None]
    return to_array(users), to_array(F.normalize(items))
