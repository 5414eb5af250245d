"""Blocks as bytes: layouts, the quantiser, byte arithmetic, packing. NumPy only."""

from peel_ext.format.layout import ColumnsLayout, Layout, PlanesLayout, resolve_layout
from peel_ext.format.packing import EncodedRows, pack_embedding, unpack_embedding

__all__ = [
    "ColumnsLayout",
    "EncodedRows",
    "Layout",
    "PlanesLayout",
    "pack_embedding",
    "resolve_layout",
    "unpack_embedding",
]
