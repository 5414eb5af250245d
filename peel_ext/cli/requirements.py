"""Optional dependencies of the verbs."""

from __future__ import annotations

import importlib

from peel_ext.errors import DependencyError

#: Import name and distribution of what the ``train`` extra brings.
_TRAIN = {
    "torch": "torch",
    "sklearn": "scikit-learn",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "rich": "rich",
}


def optional_packages() -> list[str]:
    """Distributions of the ``train`` extra."""
    return list(_TRAIN.values())


def require_train(*names: str) -> None:
    """Checks that the ``train`` extra is there, by importing it.

    Args:
        names: those of its packages that are needed; none: all.

    Raises:
        DependencyError: one is not there; says how to get it.
    """
    for name in names or _TRAIN:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DependencyError(
                f"this needs {_TRAIN[name]}: install it with pip install 'peel_ext[train]'"
            ) from error
