"""User and item vectors of another model, in place of pretraining."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from peel_ext.errors import DataError

#: What float32 can square and add up.
_LARGEST = 1e15


class VectorPair(NamedTuple):
    """Vectors whose dot products rank items for users.

    Attributes:
        users: float32 [num_users, dim].
        items: float32 [num_items, dim].
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]


def read_vectors(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """A matrix from a ``.npy`` file or from a ``.safetensors`` file that holds one tensor.

    Pickled objects are refused.

    Returns:
        float32 [n, dim].

    Raises:
        DataError: not such a file, or not a matrix of numbers.
    """
    place = Path(path)
    try:
        if place.suffix == ".safetensors":
            tensors = load_file(place)
            if len(tensors) != 1:
                raise DataError(
                    f"{place}: expected one tensor, found {len(tensors)}: {', '.join(tensors)}"
                )
            array: NDArray[Any] = next(iter(tensors.values()))
        elif place.suffix == ".npy":
            with place.open("rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        else:
            raise DataError(f"{place}: expected a .npy or .safetensors file")
    except OSError as error:
        raise DataError(f"{place}: not readable: {error.strerror or error}") from error
    except (ValueError, EOFError, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place}: not readable: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{place}: expected a matrix of numbers, found shape {array.shape} of {array.dtype}"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def check_vectors(vectors: VectorPair, num_users: int, num_items: int) -> VectorPair:
    """The vectors as a run keeps them: users of length 1, which ranks items as before.

    Raises:
        DataError: not one row for each user and item, of different widths or none, not finite or too
            large.
    """
    for name, rows, count in (
        ("user_embeddings", vectors.users, num_users),
        ("item_embeddings", vectors.items, num_items),
    ):
        if rows.ndim != 2 or len(rows) != count:
            raise DataError(
                f"{name} must have one row for each of the {count} {name.split('_')[0]}s, in "
                f"ascending order of their ids, got shape {rows.shape}"
            )
        if rows.shape[1] == 0:
            raise DataError(f"{name} must have at least one column, got shape {rows.shape}")
        if not (np.abs(rows) < _LARGEST).all():  # also where it is not a number
            bad = int(np.argmin((np.abs(rows) < _LARGEST).all(axis=1)))
            value = rows[bad][np.argmin(np.abs(rows[bad]) < _LARGEST)]
            raise DataError(
                f"{name} must be finite and below {_LARGEST:g}, row {bad} has {value:g}"
            )
    if vectors.users.shape[1] != vectors.items.shape[1]:
        raise DataError(
            "user_embeddings and item_embeddings must have the same width, got "
            f"{vectors.users.shape[1]} and {vectors.items.shape[1]}"
        )
    lengths = np.linalg.norm(vectors.users, axis=1, keepdims=True)
    units = np.divide(vectors.users, lengths, out=np.zeros_like(vectors.users), where=lengths > 0)
    return VectorPair(units, vectors.items)
