"""Personalized Elastic Embeddings: train a recommender once, serve every byte budget.

Importing this package is light: names load on first use, and only those that need torch import it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peel_ext.c_library import get_include as get_include
    from peel_ext.c_library import get_library as get_library
    from peel_ext.device import PersonalizedElasticEmbedding as PersonalizedElasticEmbedding
    from peel_ext.format import ColumnsLayout as ColumnsLayout
    from peel_ext.format import PlanesLayout as PlanesLayout
    from peel_ext.nn import ElasticEmbedding as ElasticEmbedding
    from peel_ext.nn import replace_embeddings as replace_embeddings
    from peel_ext.threads import num_threads as num_threads
    from peel_ext.threads import set_num_threads as set_num_threads

__version__ = version("peel_ext")

_HOMES = {
    "ColumnsLayout": "peel_ext.format",
    "ElasticEmbedding": "peel_ext.nn",
    "PersonalizedElasticEmbedding": "peel_ext.device",
    "PlanesLayout": "peel_ext.format",
    "get_include": "peel_ext.c_library",
    "get_library": "peel_ext.c_library",
    "num_threads": "peel_ext.threads",
    "set_num_threads": "peel_ext.threads",
    "replace_embeddings": "peel_ext.nn",
}

__all__ = [
    "ColumnsLayout",
    "ElasticEmbedding",
    "PersonalizedElasticEmbedding",
    "PlanesLayout",
    "get_include",
    "get_library",
    "num_threads",
    "replace_embeddings",
    "set_num_threads",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peel_ext' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
