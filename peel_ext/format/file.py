"""A whole ``.peel`` file on disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from peel_ext.format.appendix import (
    centroid_section,
    item_id_section,
    pack_section,
    rotation_section,
)
from peel_ext.format.atomic import write_atomically
from peel_ext.format.header import FoldInSettings, header_checksum
from peel_ext.format.writer import GroupTable, pack_prefix


def write_file(
    path: str | os.PathLike[str],
    table: GroupTable,
    *,
    fold_in: FoldInSettings | None = None,
    centroids: ArrayLike | None = None,
    item_ids: Sequence[int | str] | NDArray[Any] | None = None,
    rotation: ArrayLike | None = None,
) -> None:
    """Writes the ``.peel`` file of a user group; at any moment the old or the new one is there.

    Args:
        path: of the file.
        table: of the user group.
        fold_in: how a device computes a user's vector; None: the settings of the table.
        centroids: [num_groups, dim] of all user groups, in the space of the rows, by which a device
            chooses a group, and falls back on for a user of whom it knows nothing.
        item_ids: [num_embeddings], by which a device tells items; None: they are known by row.
        rotation: [dim, dim], that of the rows, by which a device rotates vectors of the model's space;
            None: it cannot, and vectors must come rotated.

    Raises:
        ValueError: arguments that do not fit the table.
        OSError: the file cannot be written.
    """
    if fold_in is not None:
        table = dataclasses.replace(table, fold_in=fold_in)
    sections = []
    if item_ids is not None:
        sections.append(item_id_section(item_ids, table.num_embeddings))
    if centroids is not None:
        sections.append(centroid_section(centroids, table.dim))
    if rotation is not None:
        if not table.rotated:
            raise ValueError("rotation is for a table whose rows are rotated, got one that is not")
        sections.append(rotation_section(rotation, table.dim))
    checksum = header_checksum(table.header)
    behind = b"".join(pack_section(section, checksum) for section in sections)
    write_atomically(Path(path), pack_prefix(table).tobytes() + behind)
