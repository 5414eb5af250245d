"""Recommenders that take the embedding tables they train."""

from __future__ import annotations

from peel_ext.models.lightgcn import LightGCN, normalised_adjacency
from peel_ext.models.matrix_factorisation import MatrixFactorisation
from peel_ext.models.tables import table_of

__all__ = ["LightGCN", "MatrixFactorisation", "normalised_adjacency", "table_of"]
