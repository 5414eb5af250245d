"""Optional dependencies of the verbs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping

from peel_ext.errors import DependencyError

#: Import name and distribution of what the ``train`` extra brings.
_TRAIN = {
    "torch": "torch",
    "sklearn": "scikit-learn",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "rich": "rich",
}

#: The same of the ``report`` extra.
_REPORT = {"altair": "altair", "vl_convert": "vl-convert-python", "jinja2": "jinja2"}


def optional_packages() -> list[str]:
    """Distributions of the ``train`` and ``report`` extras."""
    return [*_TRAIN.values(), *_REPORT.values()]


def require_train(*names: str) -> None:
    """Checks that the ``train`` extra is there, by importing it.

    Args:
        names: those of its packages that are needed; none: all.

    Raises:
        DependencyError: one is not there; says how to get it.
    """
    _require(_TRAIN, names or _TRAIN, "train")


def require_report() -> None:
    """Checks that the ``report`` extra is there, by importing it.

    Raises:
        DependencyError: one of its packages is not there; says how to get it.
    """
    _require(_REPORT, _REPORT, "report")


def _require(packages: Mapping[str, str], names: Iterable[str], extra: str) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DependencyError(
                f"this needs {packages[name]}: install it with pip install 'peel_ext[{extra}]'"
            ) from error
