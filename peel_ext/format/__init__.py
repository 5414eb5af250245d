"""Blocks as bytes: layouts, the quantiser, the ``.peel`` format. NumPy only."""

from peel_ext.format.bundle import BundleIndex, write_bundle
from peel_ext.format.file import write_file
from peel_ext.format.header import FoldInSettings, Header, read_header
from peel_ext.format.layout import ColumnsLayout, Layout, PlanesLayout, resolve_layout
from peel_ext.format.packing import EncodedRows
from peel_ext.format.reader import read_blocks, unpack_embedding
from peel_ext.format.writer import GroupTable, pack_embedding, pack_prefix

__all__ = [
    "BundleIndex",
    "ColumnsLayout",
    "EncodedRows",
    "FoldInSettings",
    "GroupTable",
    "Header",
    "Layout",
    "PlanesLayout",
    "pack_embedding",
    "pack_prefix",
    "read_blocks",
    "read_header",
    "resolve_layout",
    "unpack_embedding",
    "write_bundle",
    "write_file",
]
