"""gathered_score: the best rows of a table for each user vector."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.device.exclusion import check_exclusions
from peel_ext.ops import _bridge, _launching
from peel_ext.ops._checks import (
    check_int,
    check_shape,
    check_tensor,
    is_traced,
    rows_with_unit_stride,
)

# As many as DeviceRecommender and PersonalizedElasticEmbedding return.
_MOST_ROWS = (1 << 31) - 1

_Lists = tuple[Tensor | None, Tensor | None, Tensor | None]


def _score(
    users: Tensor,
    table: Tensor,
    n: int,
    candidates: Tensor | None,
    exclude_indptr: Tensor | None,
    exclude: Tensor | None,
) -> tuple[Tensor, Tensor]:
    # A saved program calls the registered op with whatever it is given.
    check_tensor("table", table, (torch.float32,), 2)
    num_embeddings, dim = table.shape
    lists = _check(users, n, num_embeddings, dim, candidates, exclude_indptr, exclude)
    return _bridge.gathered_score(
        rows_with_unit_stride(users), rows_with_unit_stride(table), n, *lists
    )


_score_op = torch.library.custom_op("peel_ext::gathered_score", _score, mutates_args=())


@_score_op.register_fake
def _(
    users: Tensor, table: Tensor, n: int, candidates: Tensor | None, indptr: Tensor | None,
    exclude: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (users.shape[0], n)
    return users.new_empty(shape, dtype=torch.int64), users.new_empty(shape)


def gathered_score(
    users: Tensor,
    table: Tensor | PersonalizedElasticEmbedding,
    n: int,
    *,
    candidates: Tensor | None = None,
    exclude_indptr: Tensor | None = None,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The n rows with the largest dot product for each user, without a users x items matrix.

    Args:
        users: float32 [num_users, dim], finite.
        table: float32 [num_embeddings, dim], or a Personalized Elastic Embedding, of which the rows
            with a block held are scored, decoded.
        n: rows to return, from 1 to 2^31 - 1.
        candidates: int64 [num_candidates], the only rows to score of a dense table, in any order,
            duplicates counting once.
        exclude_indptr: int64 [num_users + 1]; with ``exclude``.
        exclude: int64; user u's ``exclude[exclude_indptr[u] : exclude_indptr[u + 1]]`` are left out.

    Returns:
        indices int64 and scores float32, both [num_users, n], in descending score, ties by ascending
        index; -1 and -inf where fewer rows remain. A row whose score is NaN is never returned.
        Not differentiable.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, n out of range, users that are not finite.
        IndexError: a candidate or excluded index out of range. On a CUDA device users and what is
            excluded are not looked at, and a candidate out of range is told by a later call.
    """
    traced = is_traced(users)
    if not traced and candidates is None and exclude_indptr is None and exclude is None:
        # Of few rows a call takes as long as its checks: they are made in one native call.
        rows = table._pee if isinstance(table, PersonalizedElasticEmbedding) else table
        best = _bridge.adjacent_score(users, rows, n)
        if best is not None:
            return best
    if isinstance(table, PersonalizedElasticEmbedding):
        if candidates is not None:
            raise ValueError("candidates cannot be combined with a PersonalizedElasticEmbedding")
        num_embeddings, dim = table.num_embeddings, table.embedding_dim
        _, *lists = _check(users, n, num_embeddings, dim, None, exclude_indptr, exclude)
        packed: Any = table._pee
        if _launching.is_device(users):
            packed = _packed_on(table, users.device)
        vectors = rows_with_unit_stride(users)
        return _bridge.gathered_score(vectors, packed, n, None, *lists)
    if not traced:
        return _score(users, table, n, candidates, exclude_indptr, exclude)
    check_tensor("users", users, (torch.float32,), 2)
    check_tensor("table", table, (torch.float32,), 2)
    check_shape("users", users, (-1, table.shape[1]))
    check_int("n", n, 1, _MOST_ROWS)
    return _score_op(users.detach(), table.detach(), n, candidates, exclude_indptr, exclude)


def _check(
    users: Tensor,
    n: int,
    num_embeddings: int,
    dim: int,
    candidates: Tensor | None,
    exclude_indptr: Tensor | None,
    exclude: Tensor | None,
) -> _Lists:
    """Candidates and exclusions as the kernel takes them: ascending and in range."""
    check_tensor("users", users, (torch.float32,), 2)
    check_int("n", n, 1, _MOST_ROWS)
    check_shape("users", users, (-1, dim))
    _bridge.check_memory("users", users)
    # A finite sum has finite terms only, and is quicker to have than a look at each of them.
    if users.is_cpu and not math.isfinite(users.detach().sum().item()):
        odd = (~torch.isfinite(users).all(dim=1)).nonzero()
        if len(odd):
            user = int(odd[0])
            raise ValueError(f"users[{user}] must be finite, got {users[user].tolist()}")
    if candidates is not None:
        check_tensor("candidates", candidates, (torch.int64,), 1)
        _bridge.check_memory("candidates", candidates)
        candidates = torch.unique(candidates)
        bad = _bridge.first_out_of_range(candidates, num_embeddings) if candidates.is_cpu else -1
        if bad >= 0:
            raise IndexError(
                f"candidates contain {int(candidates[bad])}, expected values in "
                f"[0, {num_embeddings})"
            )
    if (exclude_indptr is None) != (exclude is None):
        raise ValueError("exclude and exclude_indptr must be given together")
    if exclude is None or exclude_indptr is None:
        return candidates, None, None
    check_tensor("exclude", exclude, (torch.int64,), 1)
    check_tensor("exclude_indptr", exclude_indptr, (torch.int64,), 1)
    if not exclude.is_cpu:
        check_shape("exclude_indptr", exclude_indptr, (len(users) + 1,))
        return candidates, *_sorted_exclusions(exclude_indptr, exclude, num_embeddings)
    _bridge.check_memory("exclude", exclude)
    _bridge.check_memory("exclude_indptr", exclude_indptr)
    both = exclude_indptr.resolve_neg().numpy(), exclude.resolve_neg().numpy()
    lists = check_exclusions(*both, len(users), num_embeddings)
    return candidates, torch.from_numpy(lists[0]), torch.from_numpy(lists[1])


def _sorted_exclusions(
    indptr: Tensor, exclude: Tensor, num_embeddings: int
) -> tuple[Tensor, Tensor]:
    """The lists as a kernel takes them, without waiting for the device: ascending, within bounds."""
    indptr = indptr.clamp(0, len(exclude)).cummax(dim=0).values
    places = torch.arange(len(exclude), device=exclude.device)
    owners = torch.bucketize(places, indptr, right=True)
    order = (owners * num_embeddings + exclude.clamp(0, num_embeddings - 1)).argsort()
    return indptr, exclude[order].contiguous()


_on_device: WeakKeyDictionary[PersonalizedElasticEmbedding, dict[torch.device, Any]] = (
    WeakKeyDictionary()
)


def _packed_on(table: PersonalizedElasticEmbedding, device: torch.device) -> Any:
    """The copy of an embedding on a device, made once."""
    copies = _on_device.setdefault(table, {})
    if device not in copies:
        copies[device] = _launching.packed_table(table._pee, device)
    return copies[device]
