"""Recommenders that take the embedding tables they train."""

from __future__ import annotations

from peel_ext.models.lightgcn import LightGCN, normalised_adjacency

__all__ = ["LightGCN", "normalised_adjacency"]
