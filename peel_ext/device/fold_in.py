"""Computing a user's vector from the items in its history."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peel_ext.device.item_prior import add_component, part_tastes

#: By default: steps of a fold-in, and the length of one as a multiple of the gradient.
STEPS, STEP_SIZE = 20, 0.03

#: Upper limit of one matrix of scores while many users are folded in at once.
_CHUNK_BYTES = 16 * 2**20

#: What a device's softmax runs over at most, and how many of these are the file's first rows where rows
#: come by worth. The others come in runs of adjacent rows, which a device reads together.
_SAMPLED_ROWS, _FIRST_ROWS, _RUN_ROWS = 2048, 1024, 16

#: Positions int64 [k] of rows, and float32 [k] for how many rows each of them stands.
RowSample = tuple[NDArray[np.int64], NDArray[np.float32]]


def fold_in_mean(rows: ArrayLike, *, prior: float = 0.0) -> NDArray[np.float32]:
    """The normalised mean of the unit vectors of a history.

    Args:
        rows: [m, dim], the vectors of the history's items; zero rows (items not held) count for
            nothing.
        prior: a user's component along the axis of the prior (:mod:`peel_ext.device.item_prior`),
            where rows have one; the mean is then that of tastes. 0: they have none.

    Returns:
        float32 [dim], of length 1 without a prior, or zero when there is nothing to average.

    Raises:
        ValueError: rows that are not a matrix, or not finite; a prior below 0.
    """
    _check_prior(prior)
    matrix = np.asarray(rows, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"rows must have 2 dimensions, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        bad = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"rows[{bad}] must be finite, got {matrix[bad]}")
    return _with_prior(_unit(_tastes(matrix, prior)).sum(axis=0), prior)


def fold_in_softmax(
    rows: ArrayLike,
    history: ArrayLike,
    *,
    steps: int = STEPS,
    step_size: float = STEP_SIZE,
    temperature: float = 0.1,
    prior: float = 0.0,
) -> NDArray[np.float32]:
    """The vector that explains a history best under a softmax over the rows at hand.

    With v_j the unit vector of row j, H the history and t the temperature, the vector u starts at
    the normalised mean of v_i over H and takes ``steps`` times

        u <- normalise(u - step_size * gradient),
        gradient = (sum_j softmax_j(<u, v_j> / t) v_j - mean_{i in H} v_i) / t,

    the gradient of the cross-entropy ``log(sum_j exp(<u, v_j> / t)) - mean_{i in H} <u, v_i> / t``,
    which is the loss of pretraining for this user alone. Where rows have a prior, v_j is the unit
    vector of a row's taste, and the prior's component joins u at the end: what everybody likes says
    nothing about this user's taste.

    Args:
        rows: [n, dim], all rows at hand; zero rows (items not held) are no part of the softmax.
        history: integers [m] in [0, n), the rows of the user's items; zero rows among them count for
            nothing, one that occurs twice counts twice.
        steps: gradient steps after the mean; 0 leaves the mean.
        step_size: length of a step, as a multiple of the gradient.
        temperature: divides the cosines; that of pretraining.
        prior: as of :func:`fold_in_mean`.

    Returns:
        float32 [dim], of length 1 without a prior, or zero when no row of the history is at hand.

    Raises:
        ValueError: arguments of the wrong shape, or a setting out of range.
        TypeError: a history that is not integers.
        IndexError: a history out of range.
    """
    items = np.asarray(history)
    if items.ndim != 1:
        raise ValueError(f"history must have 1 dimension, got shape {items.shape}")
    return fold_in_users(
        rows, [0, len(items)], items, steps=steps, step_size=step_size, temperature=temperature,
        prior=prior,
    )[0]  # fmt: skip


def fold_in_users(
    rows: ArrayLike,
    indptr: ArrayLike,
    histories: ArrayLike,
    *,
    steps: int = STEPS,
    step_size: float = STEP_SIZE,
    temperature: float = 0.1,
    prior: float = 0.0,
    sample: RowSample | None = None,
) -> NDArray[np.float32]:
    """:func:`fold_in_softmax` of many users over the same rows, as matrix products.

    Args:
        rows: [n, dim], all rows at hand.
        indptr: integers [num_users + 1], from 0 and not descending.
        histories: integers [indptr[-1]], user u's are ``histories[indptr[u] : indptr[u + 1]]``.
        steps: as there.
        step_size: as there.
        temperature: as there.
        prior: as there.
        sample: positions [k] of the rows of the softmax and how often each counts [k], above 0
            (:func:`sample_rows`); None: all rows, once.

    Returns:
        float32 [num_users, dim].

    Raises:
        ValueError: arguments of the wrong shape, or a setting out of range.
        TypeError: histories that are not integers.
        IndexError: an item out of range.
    """
    _check_settings(steps, step_size, temperature)
    _check_prior(prior)
    matrix = np.asarray(rows, dtype=np.float32)
    ends, items = _check_histories(matrix, indptr, histories)
    units = _unit(_tastes(matrix, prior))  # [n, dim]
    held = np.any(units, axis=1)  # [n]
    owners = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    owners, items = owners[held[items]], items[held[items]]
    counts = np.bincount(owners, minlength=len(ends) - 1)  # [num_users]
    means = np.zeros((len(counts), matrix.shape[1]), dtype=np.float32)
    np.add.at(means, owners, units[items])
    means /= np.maximum(counts, 1)[:, None].astype(np.float32)
    vectors = _unit(means)
    positions, log_weights = np.flatnonzero(held), None
    if sample is not None:
        positions, log_weights = _check_sample(sample, held)
    candidates = units[positions]  # [num_candidates, dim]
    active = np.flatnonzero(counts)
    chunk = users_at_a_time(len(candidates))
    for start in range(0, len(active), chunk):
        users = active[start : start + chunk]
        for _ in range(steps):
            gradient = _expected_rows(vectors[users], candidates, temperature, log_weights)
            gradient -= means[users]
            gradient /= np.float32(temperature)
            vectors[users] = _unit(vectors[users] - np.float32(step_size) * gradient)
    return vectors if prior == 0 else add_component(vectors, prior)


def users_at_a_time(num_rows: int) -> int:
    """The number of users folded in at once, over so many rows that are not zero."""
    return max(1, _CHUNK_BYTES // (4 * max(1, num_rows)))


def average_user(
    rows: ArrayLike, *, prior: float = 0.0, sample: RowSample | None = None
) -> NDArray[np.float32]:
    """The user to whom a device without knowledge recommends: the normalised mean of all unit vectors.

    Args:
        rows: [n, dim], all rows at hand; zero rows (items not held) count for nothing.
        prior: as of :func:`fold_in_mean`.
        sample: as of :func:`fold_in_users`.

    Returns:
        float32 [dim], of length 1 without a prior.

    Raises:
        ValueError: arguments of the wrong shape, or a prior below 0.
        IndexError: a sample out of range.
    """
    _check_prior(prior)
    matrix = np.asarray(rows, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"rows must have 2 dimensions, got shape {matrix.shape}")
    units = _unit(_tastes(matrix, prior))  # [n, dim]
    held = np.any(units, axis=1)  # [n]
    positions, weights = np.flatnonzero(held), None
    if sample is not None:
        positions, log_weights = _check_sample(sample, held)
        weights = np.exp(log_weights)
    chosen = units[positions] if weights is None else units[positions] * weights[:, None]
    return _with_prior(chosen.sum(axis=0), prior)


def sample_rows(num_rows: int, by_worth: bool = True) -> RowSample:
    """The rows a device's fold-in takes its softmax over, so that a step is as quick under any budget.

    Up to 2,048 rows: all of them. Of more: the first 1,024 where rows come by worth, as in a file in
    planes, and of the others, up to 2,048 in all, the middle 16 of each of equal parts, which count for
    all of these.

    Args:
        num_rows: how many there are.
        by_worth: whether those worth most come first.

    Returns:
        Ascending positions int64 [k], k at most 2,048, and how often each counts, float32 [k].
    """
    if num_rows <= _SAMPLED_ROWS:
        return np.arange(num_rows), np.ones(num_rows, dtype=np.float32)
    first = _FIRST_ROWS if by_worth else 0
    rest, num_runs = num_rows - first, (_SAMPLED_ROWS - first) // _RUN_ROWS
    middles = first + (2 * np.arange(num_runs) + 1) * rest // (2 * num_runs)
    runs = middles[:, None] - _RUN_ROWS // 2 + np.arange(_RUN_ROWS)
    weights = np.ones(_SAMPLED_ROWS, dtype=np.float32)
    weights[first:] = rest / (_SAMPLED_ROWS - first)
    return np.concatenate([np.arange(first), runs.ravel()]), weights


def continue_vectors(
    vectors: ArrayLike, folded: ArrayLike, new_share: ArrayLike, *, prior: float = 0.0
) -> NDArray[np.float32]:
    """Vectors made of the whole history so far, brought up to date with what came after.

    ``u <- normalise((1 - w) u + w f)``, u the vector as it was, f the fold-in of the new items alone
    and w their share of all items: a mean over the old and the new items, as if each counted once. With
    a prior it is tastes that are averaged and normalised.

    Args:
        vectors: [..., dim], of length 1 but for the prior.
        folded: [..., dim], as :func:`fold_in_softmax` makes them; where it is zero (none of the new
            items is held) the vector stays as it was.
        new_share: [...], in [0, 1]: new items over all items.
        prior: as of :func:`fold_in_mean`.

    Returns:
        float32 [..., dim], of length 1 without a prior, or zero where both are.

    Raises:
        ValueError: shapes that do not fit, a share outside [0, 1], or a prior below 0.
    """
    _check_prior(prior)
    before, new = np.asarray(vectors, dtype=np.float32), np.asarray(folded, dtype=np.float32)
    share = np.asarray(new_share, dtype=np.float32)
    if before.ndim == 0 or before.shape != new.shape or share.shape != before.shape[:-1]:
        raise ValueError(
            "vectors and folded must have one shape and new_share that shape without the last "
            f"dimension, got {before.shape}, {new.shape} and {share.shape}"
        )
    if not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"new_share must lie in [0, 1], got {share}")
    weight = (share * new.any(axis=-1))[..., None]
    mixed = (np.float32(1) - weight) * before + weight * new
    return _with_prior(_tastes(mixed, prior), prior)


def _expected_rows(
    vectors: NDArray[np.float32],
    candidates: NDArray[np.float32],
    temperature: float,
    log_weights: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """The mean [num_users, dim] of the candidates [k, dim] under each user's softmax."""
    if len(candidates) == 0:
        return np.zeros_like(vectors)
    # The BLAS of NumPy's wheels now and then raises the flag of an invalid operation for small finite
    # matrices, in lanes that are not part of the product.
    with np.errstate(invalid="ignore"):
        shares = (vectors / np.float32(temperature)) @ candidates.T  # [num_users, num_held]
        if log_weights is not None:
            shares += log_weights
        shares -= shares.max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        total = shares.sum(axis=1, keepdims=True)
        return np.asarray(shares @ candidates / total, dtype=np.float32)


def _check_settings(steps: int, step_size: float, temperature: float) -> None:
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    for name, value in (("step_size", step_size), ("temperature", temperature)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")


def _check_prior(prior: float) -> None:
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior must be at least 0 and finite, got {prior}")


def _tastes(vectors: NDArray[np.float32], prior: float) -> NDArray[np.float32]:
    """Vectors [..., dim], without their component along the axis of the prior where there is one."""
    return vectors if prior == 0 else part_tastes(vectors)


def _with_prior(tastes: NDArray[np.float32], prior: float) -> NDArray[np.float32]:
    """Tastes [..., dim] of length 1, with a user's component where there is a prior."""
    return _unit(tastes) if prior == 0 else add_component(_unit(tastes), prior)


def _check_histories(
    rows: NDArray[np.float32], indptr: ArrayLike, histories: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ends, items = np.asarray(indptr), np.asarray(histories)
    if rows.ndim != 2:
        raise ValueError(f"rows must have 2 dimensions, got shape {rows.shape}")
    if ends.ndim != 1 or items.ndim != 1:
        raise ValueError(
            f"indptr and histories must be vectors, got shapes {ends.shape} and {items.shape}"
        )
    for name, values in (("indptr", ends), ("histories", items)):
        if values.size and values.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, got {values.dtype}")
    ends, items = ends.astype(np.int64), items.astype(np.int64)
    rises = len(ends) > 0 and ends[0] == 0 and not bool((np.diff(ends) < 0).any())
    if not rises or ends[-1] != len(items):
        raise ValueError(f"indptr must rise from 0 to the {len(items)} items of the histories")
    outside = (items < 0) | (items >= len(rows))
    if outside.any():
        raise IndexError(
            f"histories contain {items[np.argmax(outside)]}, expected rows in [0, {len(rows)})"
        )
    return ends, items


def _check_sample(
    sample: RowSample, held: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of the rows of a sample that are held the positions, and the logarithms of the weights."""
    positions, weights = np.asarray(sample[0]), np.asarray(sample[1], dtype=np.float32)
    if positions.ndim != 1 or positions.shape != weights.shape:
        raise ValueError(
            "sample must be two vectors of one length, got shapes "
            f"{positions.shape} and {weights.shape}"
        )
    outside = (positions < 0) | (positions >= len(held))
    if outside.any():
        raise IndexError(
            f"sample contains {positions[np.argmax(outside)]}, expected rows in [0, {len(held)})"
        )
    if not bool((weights > 0).all()):
        raise ValueError(f"the weights of sample must be above 0, got {weights.min()}")
    there = held[positions]
    return positions[there], np.log(weights[there])


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [..., dim] scaled to length 1; zero ones stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
