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

#: Iterations of k-means in the first round. The 40 of faiss leave no less error in the end.
_FIRST_ITERATIONS = 10


class ProductQuantisers:
    """Product quantisers of some rows, each trained when it is first asked for.

    Codebooks are charged in float16. There are 4, 6 or 8 bits a code, and any number of codes that
    divides the dimensions. A rotation is not charged.

    Raises:
        DependencyError: faiss is missing.
        DataError: fewer rows than the smallest codebook has entries.
    """

    def __init__(self, items: NDArray[np.float32]) -> None:
        self._faiss = require_faiss()
        if len(items) < 1 << _BITS[0]:
            raise DataError(
                f"product quantisation needs at least {1 << _BITS[0]} items, got {len(items)}"
            )
        self.items = np.ascontiguousarray(items)
        num_items, dim = items.shape
        every = [(codes, bits) for codes in range(1, dim + 1) if dim % codes == 0 for bits in _BITS]
        # A codebook needs more rows than entries to learn from.
        self.nbytes = {
            shape: _nbytes(num_items, dim, *shape) for shape in every if 1 << shape[1] <= num_items
        }
        self._decoded: dict[tuple[int, int, bool], NDArray[np.float32]] = {}

    def choose(self, budget_bytes: int) -> tuple[int, int]:
        """The codes and bits that have the least error under a budget, without a rotation.

        Raises:
            BudgetError: none fits; names the minimum.
        """
        fitting = [shape for shape, nbytes in self.nbytes.items() if nbytes <= budget_bytes]
        if not fitting:
            minimum = min(self.nbytes.values())
            raise BudgetError(
                f"budget_bytes is {budget_bytes}, but product codes need at least {minimum}",
                minimum,
            )
        # More bytes seldom do worse: the largest quantiser of each number of bits is enough to try.
        largest = {
            bits: max(s for s in fitting if s[1] == bits) for bits in {s[1] for s in fitting}
        }

        def error(shape: tuple[int, int]) -> float:
            return float(np.square(self.decoded(*shape, rotated=False) - self.items).sum())

        return min(largest.values(), key=error)

    def decoded(self, codes: int, bits: int, rotated: bool) -> NDArray[np.float32]:
        """The rows float32 [num_items, dim] after coding, with a rotation fitted to it or without.

        Fewer rows than they have values are not rotated: faiss writes beyond its memory there.
        """
        key = codes, bits, rotated
        if key not in self._decoded:
            if rotated and codes > 1 and len(self.items) >= self.items.shape[1]:
                turn = self._faiss.OPQMatrix(self.items.shape[1], codes)
                turn.niter, turn.niter_pq_0 = _ROTATION_ROUNDS, _FIRST_ITERATIONS
                turn.pq = self._quantiser(codes, bits)
                turn.train(self.items)
                coded = self._code(turn.apply_py(self.items), codes, bits)
                self._decoded[key] = turn.reverse_transform(coded)
            else:
                self._decoded[key] = self._code(self.items, codes, bits)
        return self._decoded[key]

    def _code(self, rows: NDArray[np.float32], codes: int, bits: int) -> NDArray[np.float32]:
        """Rows after coding by a quantiser trained on them."""
        quantiser = self._quantiser(codes, bits)
        quantiser.train(rows)
        books = self._faiss.vector_to_array(quantiser.centroids)
        books = books.astype(np.float16).astype(np.float32)
        self._faiss.copy_array_to_vector(books, quantiser.centroids)
        decoded: NDArray[np.float32] = quantiser.decode(quantiser.compute_codes(rows))
        return decoded

    def _quantiser(self, codes: int, bits: int) -> Any:
        quantiser = self._faiss.ProductQuantizer(self.items.shape[1], codes, bits)
        quantiser.cp.min_points_per_centroid = 1  # of small catalogues faiss would warn on stderr
        return quantiser


class ProductCodes:
    """Holds every row in the product quantiser with the least error among those that fit.

    With ``rotated`` the rows are turned first so that the quantiser does well (optimised product
    quantisation; Ge et al., 2013). Numbers of codes and bits are chosen without.
    """

    family = "product quantisation"
    per_group = False

    def __init__(self, quantisers: ProductQuantisers, rotated: bool) -> None:
        self.name = "rotated" if rotated else "plain"
        self._quantisers, self._rotated = quantisers, rotated

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        shape = self._quantisers.choose(budget_bytes)
        rows = self._quantisers.decoded(*shape, self._rotated)
        return HeldRows(np.arange(len(rows)), rows, self._quantisers.nbytes[shape])


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
