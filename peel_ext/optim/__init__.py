"""Optimisers that touch only the rows a batch looked up."""

from peel_ext.optim.rowwise_adagrad import RowwiseAdagrad
from peel_ext.optim.sparse_adam import SparseAdam

__all__ = ["RowwiseAdagrad", "SparseAdam"]
