"""The layout that the settings of a run ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peel_ext.format import ColumnsLayout, Layout, resolve_layout


def layout_of(settings: Mapping[str, Any]) -> Layout:
    """The layout of settings as :attr:`peel_ext.train.run_folder.RunFolder.config` has them."""
    if settings["layout"] == "columns":
        # Runs made before there was such a section were cut by its defaults.
        return ColumnsLayout(**settings.get("columns", {}))
    return resolve_layout(settings["layout"])
