"""The layout that the settings of a run ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from peel_ext.format import ColumnsLayout, Layout, resolve_layout
from peel_ext.format.layout import fitting_block_dim


def layout_of(settings: Mapping[str, Any], dim: int) -> Layout:
    """The layout of settings as :attr:`peel_ext.train.run_folder.RunFolder.config` has them.

    Args:
        settings: settings of a run.
        dim: values of a row, which blocks of 8 columns, the default, may not fit.
    """
    if settings["layout"] != "columns":
        return resolve_layout(settings["layout"])
    # Runs made before there was such a section were cut by its defaults.
    layout = ColumnsLayout(**settings.get("columns", {}))
    if layout.block_dim == ColumnsLayout.block_dim:
        return dataclasses.replace(layout, block_dim=fitting_block_dim(dim))
    return layout
