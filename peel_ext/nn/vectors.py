"""Vectors of any model as a table for similarity search: what is nearest to a query, in every budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peel_ext.errors import BudgetError
from peel_ext.format import PlanesLayout
from peel_ext.ops import check_memory

if TYPE_CHECKING:
    from peel_ext.nn.elastic_embedding import ElasticEmbedding

METRICS = ("ip", "cosine")

#: One bit a layer where most is to be gained: queries ask for all rows, so that all rows of few bits
#: are worth more than few rows of many. Spread so that rows of one bit and of two, side by side under
#: a budget, can be compared: what one bit decodes to is .64 of a row, spread .89, and two .88 and .95.
LAYOUT = PlanesLayout((1, 1, 1, 1, 2, 2), spread=1.4)

#: Depth of the lists of the sample queries, and the rank at which an item is worth half, with the
#: slope around it: those of exposure in training.
_DEPTH, _CUTOFF, _SLOPE = 100, 20.0, 5.0

#: Sample queries times rows that are scored at most.
_MAX_SCORES = 1 << 27

#: Queries by which layers are weighed and the rotation is chosen, the length of their lists, and the
#: recall a rotation has to gain to be worth its bytes.
_TRIAL_QUERIES, _TRIAL_DEPTH, _LEAST_GAIN = 256, 10, 0.02

#: Bits at which the rotation is chosen.
_TRIAL_BITS = 2

#: Powers of a layer's gain, and the shares of the bytes of float32 at which one is chosen. Rows of few
#: bits lie beside rows of many, and what they decode to is not equally long. Where scores lie close
#: together, that costs more than bits gain: with a power of 0 a budget holds fewer rows, but whole.
_POWERS, _TRIAL_SHARES = (1.0, 0.5, 0.25, 0.0), (0.01, 0.025, 0.05, 0.1)


def make_table(kind: Any, vectors: Tensor, queries: Tensor | None, metric: str) -> Any:
    """See :meth:`peel_ext.nn.ElasticEmbedding.from_vectors`; ``kind`` is the class of the table."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    rows = _check_vectors("vectors", vectors)
    if queries is not None:
        queries = _check_vectors("queries", queries, rows.shape[1]).to(rows.device)
    if metric == "cosine":
        rows = _normalised(rows)
    mean = rows.mean(dim=0, dtype=torch.float64).float()
    made = kind.from_pretrained(rows - mean, layout=LAYOUT)
    made.row_mean = mean
    _fill_table(made, rows, queries)
    return made


def _check_vectors(name: str, vectors: Tensor, dim: int | None = None) -> Tensor:
    """Vectors as float32 [n, dim], copied.

    Raises:
        TypeError: not a tensor of real numbers.
        ValueError: a wrong shape, none at all, no memory, or values that are not finite.
    """
    if not isinstance(vectors, Tensor) or vectors.is_complex():
        raise TypeError(f"{name} must be a tensor of real numbers, got {type(vectors).__name__}")
    if vectors.dim() != 2 or 0 in vectors.shape or dim not in (None, vectors.shape[1]):
        width = "dim" if dim is None else dim
        raise ValueError(
            f"{name} must have shape (at least 1, {width}), got {tuple(vectors.shape)}"
        )
    check_memory(name, vectors)
    rows = vectors.detach().to(torch.float32, copy=True)
    finite = rows.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise ValueError(f"{name}[{int((~finite).nonzero()[0])}] must be finite")
    return rows


@torch.no_grad()
def _fill_table(embedding: ElasticEmbedding, vectors: Tensor, queries: Tensor | None) -> None:
    """Weighs the blocks of a table of vectors, and rotates them where that pays.

    Args:
        embedding: has the rows of ``vectors`` less their mean, with one user group.
        vectors: float32 [n, dim].
        queries: float32 [m, dim] like those that will be asked, or None: the vectors themselves.
    """
    count = max(1, _MAX_SCORES // len(vectors))
    like, own = _sample(vectors, count)
    # A vector that asks for its like finds itself, which tells nothing.
    lists, values = _expose(like, vectors, own)
    asked = like
    place: Tensor | None = own[:_TRIAL_QUERIES]
    if queries is not None:
        asked, place = _sample(queries, count)[0], None
        lists, shown = _expose(asked, vectors, None)
        values += shown * (values.sum() / shown.sum())
    best = lists[:_TRIAL_QUERIES, :_TRIAL_DEPTH]
    trial = asked[:_TRIAL_QUERIES], best, place
    recalls = _measure_recalls(embedding, *trial)
    embedding.fit_rotation()
    rotated = _measure_recalls(embedding, *trial)
    if rotated[_TRIAL_BITS - 1] < recalls[_TRIAL_BITS - 1] + _LEAST_GAIN:
        embedding.rotation = None
    else:
        recalls = rotated
    # Other queries will ask for other rows: each has a share of an even load, too.
    embedding.set_row_values((values + values.mean())[None])
    _choose_power(embedding, recalls, *trial)


def _choose_power(
    embedding: ElasticEmbedding, recalls: list[float], queries: Tensor, lists: Tensor,
    own: Tensor | None,
) -> None:  # fmt: skip
    """Weighs layers by that power of their gains which finds most of the lists under budgets."""
    weights = embedding.block_weights.clone()
    float32_bytes = 4 * embedding.num_embeddings * embedding.embedding_dim
    users = embedding.rotate(queries)
    reached, chosen = -1.0, None
    for power in _POWERS:
        embedding.block_weights.copy_(weights)
        _weigh_layers(embedding, recalls, power)
        found = [
            _recall_under(embedding, int(share * float32_bytes), users, lists, own)
            for share in _TRIAL_SHARES
        ]
        if sum(found) > reached:
            reached, chosen = sum(found), embedding.block_weights.clone()
    assert chosen is not None
    embedding.block_weights.copy_(chosen)


def _recall_under(
    embedding: ElasticEmbedding, budget_bytes: int, users: Tensor, lists: Tensor, own: Tensor | None
) -> float:
    """Share of the exact lists [m, depth] found in what a budget holds; 0 where it holds nothing."""
    try:
        held = embedding.generate(0, budget_bytes)
    except BudgetError:
        return 0.0
    # One more than there are: a vector that asks for its like finds itself.
    depth = lists.shape[1] + (own is not None)
    indices, _ = held.score(users.cpu().numpy(), depth)
    found = torch.from_numpy(indices).to(lists.device)
    if own is not None:
        found = found.masked_fill(found == own[:, None], -1)
    return float((found[:, :, None] == lists[:, None, :]).any(dim=1).double().mean())


def _expose(queries: Tensor, vectors: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best rows int64 [m, depth] of queries, and the worth float64 [n] of all rows in them."""
    lists = _rank(queries, vectors, min(_DEPTH, len(vectors)), own)
    ranks = torch.arange(1, lists.shape[1] + 1, dtype=torch.float64, device=lists.device)
    worth = 1 / (1 + torch.exp((ranks - _CUTOFF) / _SLOPE))
    values = torch.zeros(len(vectors), dtype=torch.float64, device=lists.device)
    values.index_add_(0, lists.reshape(-1), worth.repeat(len(lists)))
    return lists, values


def _sample(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most so many of the vectors, drawn at random but always the same, and their rows int64."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(vectors), generator=generator, device="cpu")[:count]
    rows = rows.to(vectors.device)
    return vectors[rows], rows


def _rank(queries: Tensor, vectors: Tensor, depth: int, own: Tensor | None) -> Tensor:
    """The best rows int64 [m, depth] of each query, without its own row."""
    lists = []
    for first in range(0, len(queries), _TRIAL_QUERIES):
        scores = queries[first : first + _TRIAL_QUERIES] @ vectors.T
        if own is not None:
            scores.scatter_(1, own[first : first + _TRIAL_QUERIES, None], -torch.inf)
        lists.append(scores.topk(depth, dim=1).indices)
    return torch.cat(lists)


def _measure_recalls(
    embedding: ElasticEmbedding, queries: Tensor, lists: Tensor, own: Tensor | None
) -> list[float]:
    """Shares of the exact lists [m, depth] found with all rows at each of the bits of the layout."""
    layout = embedding.layout
    store, scales = embedding.encoded_rows()
    recalls = []
    for layer in range(layout.num_layers(embedding.embedding_dim)):
        held = (1 << layer + 1) - 1
        rows = layout.decode(
            store.cpu().numpy(), scales.cpu().numpy(), held, embedding.embedding_dim
        )
        turned = torch.from_numpy(rows).to(queries.device)
        found = _rank(embedding.rotate(queries), turned, lists.shape[1], own)
        hits = (found[:, :, None] == lists[:, None, :]).any(dim=1)
        recalls.append(float(hits.double().mean()))
    return recalls


def _weigh_layers(embedding: ElasticEmbedding, recalls: list[float], power: float) -> None:
    """Weighs layers by the recall that each adds, in place of what is right for recommendations."""
    bits = torch.tensor(embedding.layout.layer_bits, dtype=torch.float64, device="cpu")
    reached = torch.tensor([0.0, *recalls], dtype=torch.float64, device="cpu").cummax(dim=0).values
    # A layer is never worth nothing, and always less a bit than the one below it.
    gains = torch.diff(reached).clamp(min=1e-4)
    a_bit = (gains / bits).cummin(dim=0).values ** power
    a_bit *= 1 - 1e-3 * torch.arange(len(bits), dtype=torch.float64, device="cpu")
    usual = torch.from_numpy(embedding.layout.layer_gains(np.zeros((0, 1), np.float32)))
    factor = (a_bit * bits / usual).float().to(embedding.block_weights.device)
    embedding.block_weights.mul_(factor)


def _normalised(vectors: Tensor) -> Tensor:
    """Vectors of length 1; those of length 0 stay."""
    return F.normalize(vectors.double(), dim=1).float()
