"""The C library in this package: what another program includes and links with."""

from __future__ import annotations

import sys
from pathlib import Path

_NAMES = {"win32": "peel.dll", "darwin": "libpeel.dylib"}


def get_include() -> Path:
    """The folder of ``peel.h``.

    Raises:
        FileNotFoundError: this installation lacks it.
    """
    return _installed("include", "peel.h").parent


def get_library() -> Path:
    """The shared library, which needs neither Python nor NumPy.

    Raises:
        FileNotFoundError: this installation lacks it.
    """
    return _installed("lib", _NAMES.get(sys.platform, "libpeel.so"))


def _installed(folder: str, name: str) -> Path:
    from peel_ext import _core

    # What was built lies together, which in an editable installation is not beside this file.
    path = Path(_core.__file__).parent / folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: peel_ext was not installed by pip, which builds it"
        )
    return path
