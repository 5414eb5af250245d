"""A Personalized Elastic Embedding in memory: the blocks one user group keeps under one budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peel_ext import _core
from peel_ext.device import _bridge
from peel_ext.device.exclusion import exclusion_lists
from peel_ext.device.fold_in import RowSample, sample_rows
from peel_ext.device.scoring import check_users
from peel_ext.device.similarity import check_count, check_indices
from peel_ext.errors import DataError


class PersonalizedElasticEmbedding:
    """The held blocks of one user group, scored and decoded straight from their bytes.

    It is copied and pickled as these bytes: the same under the same budget, also in another process.

    Args:
        buffer: a ``.peel`` file or a prefix of one, as :meth:`peel_ext.nn.ElasticEmbedding.generate`
            makes them, in whatever has the buffer protocol; kept, not copied, when the bytes are 8-byte
            aligned. Of a prefix that ends
            inside a block the blocks before it are used.
        budget_bytes: upper limit of ``nbytes``; None: all blocks there are. What of the buffer does not
            fit is not counted, but stays in memory as long as the object.

    Raises:
        FormatError: the bytes are not a ``.peel`` file, are damaged, or end before the first block.
        BudgetError: too few bytes; names the minimum.
        TypeError: budget_bytes is not an integer.
        ValueError: bytes that do not lie one after another.
    """

    def __init__(self, buffer: _bridge.Buffer, budget_bytes: int | None = None) -> None:
        data = _bridge.aligned(buffer)
        # What was checked once must stay as it is.
        data.setflags(write=False)
        with _bridge.native_budget(budget_bytes) as budget:
            self._pee = _core.PeelFile.open_buffer(data, budget).pee()
        self._buffer = data[: self._pee.prefix_bytes]

    @property
    def buffer(self) -> NDArray[np.uint8]:
        """The bytes of the blocks held and all before them, uint8, read-only."""
        return self._buffer

    @property
    def nbytes(self) -> int:
        """Bytes held for the table: those of ``buffer``, and the directory to find blocks by."""
        return self._pee.nbytes

    @property
    def num_embeddings(self) -> int:
        """Rows of the whole table."""
        return self._pee.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Values of a row."""
        return self._pee.dim

    @cached_property
    def row_ids(self) -> NDArray[np.int64]:
        """Ascending ids int64 [num_rows] of the rows with at least one block held."""
        return np.sort(np.array(self._pee.row_ids(), dtype=np.int64))

    @cached_property
    def row_sample(self) -> RowSample:
        """Positions in ``row_ids`` of the rows that a device folds in over, and how often each counts.

        Those of :func:`peel_ext.device.fold_in.sample_rows`, in the order of the file.
        """
        ids = np.array(self._pee.row_ids(), dtype=np.int64)
        positions, weights = sample_rows(len(ids), self._pee.rows_by_worth)
        return np.searchsorted(self.row_ids, ids[positions]), weights

    def lookup(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Decoded rows; what is not held is zero.

        Args:
            indices: integer ids of any shape.

        Returns:
            float32 [*indices.shape, embedding_dim], in the space the table was encoded in.

        Raises:
            TypeError: ids that are not integers.
            IndexError: an id out of range.
        """
        ids = np.asarray(indices)
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"indices must be integers, got {ids.dtype}")
        flat = np.ascontiguousarray(ids, dtype=np.int64).reshape(-1)  # [ids.size]
        status, position, rows = _bridge.lookup(self._pee, flat)
        if status:
            raise IndexError(
                f"indices contain {ids.flat[position]}, expected ids in [0, {self.num_embeddings})"
            )
        return rows.reshape(*ids.shape, self.embedding_dim)

    def score(
        self,
        users: ArrayLike,
        n: int,
        exclude: Sequence[ArrayLike] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n best held rows for each user vector.

        Args:
            users: [num_users, embedding_dim], in the space the table was encoded in.
            n: rows to return, from 1 to 2^31 - 1.
            exclude: for each user the ids not to return.

        Returns:
            ids int64 and scores float32, both [num_users, n], in descending score, ties by ascending
            id; -1 and -inf where fewer rows are held.

        Raises:
            TypeError: users that are not real numbers, excluded ids that are not integers.
            ValueError: a wrong shape, n out of range, or users that are not finite.
            IndexError: an excluded id out of range.
        """
        vectors, count = check_users(users, self.embedding_dim), check_count(n)
        lists = None
        if exclude is not None:
            lists = exclusion_lists(exclude, len(vectors), self.num_embeddings)
        return _bridge.score(self._pee, vectors, count, lists)

    def similar(self, indices: ArrayLike, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n held rows with the largest cosine ``<a, b> / (|a| |b|)`` to each of some held rows.

        Rows are compared as they are decoded; one of zeros has cosine 0 with all.

        Args:
            indices: integer ids [m].
            n: rows to return for each, from 1 to 2^31 - 1.

        Returns:
            ids int64 and cosines float32, both [m, n], in descending cosine, equal ones by ascending
            id, without the row itself; -1 and -inf where fewer rows are held.

        Raises:
            TypeError: ids that are not integers.
            ValueError: ids of another shape, or n out of range.
            IndexError: an id out of range.
            DataError: an id of which nothing is held.
        """
        items = check_indices(indices, self.num_embeddings)
        position, ids, scores = _bridge.similar(self._pee, items, check_count(n))
        if position >= 0:
            raise DataError(f"indices[{position}] is {items[position]}, which is not held")
        return ids, scores

    def __reduce__(self) -> tuple[object, ...]:
        """For copies and pickles: what is held, without what a budget left out of the bytes."""
        return type(self), (self._buffer, self.nbytes)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_embeddings={self.num_embeddings}, "
            f"embedding_dim={self.embedding_dim}, nbytes={self.nbytes})"
        )
