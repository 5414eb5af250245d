"""Data frames of what was computed; pandas is never a dependency."""

from __future__ import annotations

import importlib
from typing import Any

from peel_ext.errors import DependencyError


def require_pandas(what: str) -> Any:
    """The module pandas.

    Args:
        what: needs it.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise DependencyError(f"{what} needs pandas: install it with pip install pandas") from error
