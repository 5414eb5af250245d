"""Product quantisation: every row as a few codes into learned codebooks (Jegou et al., 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import BudgetError, DataError, DependencyError
from peel_ext.evaluation.rivals.rival import HeldRows

_BITS = (4, 6, 8)

#: Rounds in which the rotation and the codes are fitted to each other.
_ROTATION_ROUNDS = 5


class ProductCodes:
    """Holds every row in the product quantiser with the least error among those that fit.

    Codebooks are charged in float16. Quantisers have 4, 6 or 8 bits a code and any number of codes
    that divides the dimensions. With ``rotated`` the rows are turned first so that the quantiser
    does well (optimised product quantisation; Ge et al., 2013); the rotation is not charged.

    Raises:
        DependencyError: faiss is missing.
        DataError: fewer rows than the smallest codebook has entries.
    """

    family = "product quantisation"
    per_group = False

    def __init__(self, items: NDArray[np.float32], rotated: bool) -> None:
        self._faiss = require_faiss()
        if len(items) < 1 << _BITS[0]:
            raise DataError(
                f"product quantisation needs at least {1 << _BITS[0]} items, got {len(items)}"
            )
        self.name = "rotated" if rotated else "plain"
        self._items, self._rotated = np.ascontiguousarray(items), rotated
        self._made: dict[tuple[int, int], NDArray[np.float32]] = {}

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        num_items, dim = self._items.shape
        every = [(codes, bits) for codes in range(1, dim + 1) if dim % codes == 0 for bits in _BITS]
        # A codebook needs more rows than entries to learn from.
        sizes = {
            shape: _nbytes(num_items, dim, *shape) for shape in every if 1 << shape[1] <= num_items
        }
        fitting = [shape for shape, nbytes in sizes.items() if nbytes <= budget_bytes]
        if not fitting:
            minimum = min(sizes.values())
            raise BudgetError(
                f"budget_bytes is {budget_bytes}, but product codes need at least {minimum}",
                minimum,
            )
        # More bytes seldom do worse: the largest quantiser of each number of bits is enough to try.
        largest = {
            bits: max(s for s in fitting if s[1] == bits) for bits in {s[1] for s in fitting}
        }
        rows = {shape: self._decoded(*shape) for shape in largest.values()}
        best = min(rows, key=lambda shape: float(np.square(rows[shape] - self._items).sum()))
        return HeldRows(np.arange(num_items), rows[best], sizes[best])

    def _decoded(self, codes: int, bits: int) -> NDArray[np.float32]:
        """The rows after coding; made once."""
        if (codes, bits) not in self._made:
            rows, turn = self._items, None
            if self._rotated and codes > 1:
                turn = self._faiss.OPQMatrix(rows.shape[1], codes)
                turn.niter = _ROTATION_ROUNDS
                turn.pq = self._quantiser(codes, bits)
                turn.train(rows)
                rows = turn.apply_py(rows)
            quantiser = self._quantiser(codes, bits)
            quantiser.train(rows)
            books = self._faiss.vector_to_array(quantiser.centroids)
            books = books.astype(np.float16).astype(np.float32)
            self._faiss.copy_array_to_vector(books, quantiser.centroids)
            decoded = quantiser.decode(quantiser.compute_codes(rows))
            self._made[codes, bits] = decoded if turn is None else turn.reverse_transform(decoded)
        return self._made[codes, bits]

    def _quantiser(self, codes: int, bits: int) -> Any:
        quantiser = self._faiss.ProductQuantizer(self._items.shape[1], codes, bits)
        quantiser.cp.min_points_per_centroid = 1  # of small catalogues faiss would warn on stderr
        return quantiser


def _nbytes(num_items: int, dim: int, codes: int, bits: int) -> int:
    return (num_items * codes * bits + 7) // 8 + 2 * dim * (1 << bits)


def require_faiss() -> Any:
    """The module faiss.

    Raises:
        DependencyError: it is missing; says how to get it.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError(
            "product quantisation needs faiss: install it with pip install 'peel_ext[rivals]'"
        ) from error
    return faiss
