"""Stage 1: user and item vectors by LightGCN under a softmax over all items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.config import PretrainingConfig
from peel_ext.errors import DataError, PeelError
from peel_ext.models import LightGCN, normalised_adjacency
from peel_ext.train.losses import full_softmax_loss

#: The number of interactions at which an item's vector has length 1.
_REFERENCE_DEGREE = 10

#: Randomised SVD: extra columns, and rounds of subspace iteration. The start need not be exact.
_SVD_OVERSAMPLING = 16
_SVD_ROUNDS = 4


def pretrain(
    indptr: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    num_items: int,
    config: PretrainingConfig,
    *,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Learns vectors whose plain dot product ranks the items for each user.

    LightGCN (:class:`peel_ext.models.LightGCN`) starts from a truncated SVD of the normalised
    interactions and is trained with Adam on the softmax over all items of the cosines
    (:func:`peel_ext.train.losses.full_softmax_loss`). Two runs with one seed and one number of
    threads give the same bits. The global random state is neither read nor changed.

    Args:
        indptr: [num_users + 1], interactions in CSR form.
        item_rows: [num_interactions], user u's are ``item_rows[indptr[u] : indptr[u + 1]]``.
        num_items: number of items, those without interactions included.
        config: all settings.
        on_progress: called after every step with the steps done, the steps in all and the loss of
            the step, in nats.

    Returns:
        user vectors [num_users, embedding_dim] of length 1, those of users without interactions 0,
        and item vectors [num_items, embedding_dim] of length
        ``(max(1, interactions) / 10) ** item_popularity_exponent``.

    Raises:
        DataError: the interactions are not in CSR form, or an item is out of range.
        PeelError: the loss is no longer a finite number.
    """
    positions = torch.from_numpy(np.ascontiguousarray(indptr, dtype=np.int64))
    items = torch.from_numpy(np.ascontiguousarray(item_rows, dtype=np.int64))
    generator = torch.Generator().manual_seed(config.seed)
    model = _build_model(positions, items, num_items, config, generator)
    _train(model, positions, items, config, generator, on_progress)
    return _ranking_vectors(model, positions, items, config.item_popularity_exponent)


def _build_model(
    indptr: Tensor,
    item_rows: Tensor,
    num_items: int,
    config: PretrainingConfig,
    generator: torch.Generator,
) -> LightGCN:
    try:
        adjacency = normalised_adjacency(indptr, item_rows, num_items)
    except ValueError as error:
        raise DataError(f"unusable interactions: {error}") from error
    users, items = _truncated_svd(*adjacency, config.embedding_dim, generator)
    return LightGCN(
        _embedding(users, config.start_scale, generator),
        _embedding(items, config.start_scale, generator),
        indptr,
        item_rows,
        config.num_layers,
    )


def _embedding(vectors: Tensor, scale: float, generator: torch.Generator) -> nn.Embedding:
    """A table of these vectors at a root mean square of ``scale``.

    The noise gives a direction to what the SVD leaves at zero: items nobody touched, and columns
    beyond its rank, where zeros on both sides would have no gradient.
    """
    size = vectors.square().mean().sqrt().clamp(min=torch.finfo(vectors.dtype).tiny)
    noise = torch.randn(vectors.shape, generator=generator)
    start = scale * (vectors / size + 0.01 * noise)
    table: nn.Embedding = nn.Embedding.from_pretrained(start, freeze=False)
    return table


def _truncated_svd(
    matrix: Tensor, transposed: Tensor, dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Leading singular vectors, each times the root of its singular value.

    Subspace iteration from a random start (Halko et al., 2011, arXiv 0909.4061, algorithm 4.4).

    Returns:
        [rows, dim] and [columns, dim]; columns beyond the rank are 0.
    """
    num_rows, num_columns = matrix.shape
    rank = min(dim + _SVD_OVERSAMPLING, num_rows, num_columns)
    basis = matrix @ torch.randn(num_columns, rank, generator=generator)  # [rows, rank]
    for _ in range(_SVD_ROUNDS):
        basis = _orthonormal(matrix @ _orthonormal(transposed @ basis))
    # matrix is about basis @ small.T
    small = transposed @ basis  # [columns, rank]
    right, values, mixing = torch.linalg.svd(small, full_matrices=False)
    left = basis @ mixing.T  # [rows, rank]
    kept = min(dim, rank)
    padding = (0, dim - kept)
    roots = values[:kept].sqrt()
    return F.pad(left[:, :kept] * roots, padding), F.pad(right[:, :kept] * roots, padding)


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis


def _train(
    model: LightGCN,
    indptr: Tensor,
    item_rows: Tensor,
    config: PretrainingConfig,
    generator: torch.Generator,
    on_progress: Callable[[int, int, float], None] | None,
) -> None:
    degrees = indptr.diff()
    active = degrees.nonzero()[:, 0]
    steps_per_epoch = min(config.steps_per_epoch, len(active))
    num_steps = config.epochs * steps_per_epoch
    if num_steps == 0:
        return
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1.0, config.final_learning_rate_share, total_iters=num_steps
    )
    weights = degrees.float() ** config.user_weight_exponent
    batches = _batches(active, steps_per_epoch, config.epochs, generator)
    for done, batch in enumerate(batches, start=1):
        optimiser.zero_grad()
        loss = _batch_loss(model, batch, indptr, item_rows, weights, config.temperature)
        if not math.isfinite(loss.item()):
            raise PeelError(
                f"pretraining diverged: the loss of step {done} of {num_steps} is {loss.item()}; "
                "try a lower learning rate or a higher temperature"
            )
        loss.backward()
        optimiser.step()
        schedule.step()
        if on_progress is not None:
            on_progress(done, num_steps, loss.item())


def _batches(
    users: Tensor, steps_per_epoch: int, epochs: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Every user once in each epoch, in random order."""
    for _ in range(epochs):
        order = torch.randperm(len(users), generator=generator)
        yield from users[order].tensor_split(steps_per_epoch)


def _batch_loss(
    model: LightGCN,
    batch: Tensor,
    indptr: Tensor,
    item_rows: Tensor,
    weights: Tensor,
    temperature: float,
) -> Tensor:
    users, items = model()
    batch_indptr, positives = _take_lists(indptr, item_rows, batch)
    return full_softmax_loss(
        F.normalize(users[batch]),
        F.normalize(items),
        batch_indptr,
        positives,
        temperature,
        weights[batch],
    )


def _take_lists(indptr: Tensor, item_rows: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """The CSR lists of some users, in their order."""
    counts = indptr[users + 1] - indptr[users]
    taken = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shifts = torch.repeat_interleave(indptr[users] - taken[:-1], counts)
    return taken, item_rows[torch.arange(len(shifts)) + shifts]


def _ranking_vectors(
    model: LightGCN, indptr: Tensor, item_rows: Tensor, exponent: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.no_grad():
        users, items = model()
    users = F.normalize(users) * (indptr.diff() > 0)[:, None]
    degrees = torch.bincount(item_rows, minlength=len(items)).clamp(min=1)
    lengths = (degrees / _REFERENCE_DEGREE) ** exponent
    return users.numpy(), (F.normalize(items) * lengths[:, None]).numpy()
