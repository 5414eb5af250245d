"""A whole ``.peel`` file on disk; and files that are there whole, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import ArrayLike, NDArray

from peel_ext.format.appendix import (
    centroid_section,
    item_id_section,
    pack_section,
    rotation_section,
    row_mean_section,
)
from peel_ext.format.header import FoldInSettings, header_checksum
from peel_ext.format.writer import GroupTable, Outline, pack_prefix


def write_file(
    path: str | os.PathLike[str] | BinaryIO,
    table: GroupTable,
    *,
    fold_in: FoldInSettings | None = None,
    centroids: ArrayLike | None = None,
    item_ids: Sequence[int | str] | NDArray[Any] | None = None,
    rotation: ArrayLike | None = None,
    row_mean: ArrayLike | None = None,
) -> None:
    """Writes the ``.peel`` file of a user group; at any moment the old or the new one is there.

    Args:
        path: the file; or an open binary file, which is written to as it is.
        table: the table of the user group.
        fold_in: how a device computes a user's vector; None: the settings of the table.
        centroids: [num_groups, dim] of all user groups, in the space of the rows, by which a device
            chooses a group, and falls back on for a user of whom it knows nothing.
        item_ids: [num_embeddings], by which a device tells items; None: they are known by row.
        rotation: [dim, dim], that of the rows, by which a device rotates vectors of the model's space;
            None: it cannot, and vectors must come rotated.
        row_mean: [dim], in the space of the rows, what was subtracted from all of them; None: nothing.

    Raises:
        ValueError: arguments that do not fit the table.
        OSError: the file cannot be written.
    """
    if fold_in is not None:
        table = dataclasses.replace(table, fold_in=fold_in)
    behind = pack_appendix(
        table.outline, centroids=centroids, item_ids=item_ids, rotation=rotation, row_mean=row_mean
    )
    data = pack_prefix(table).tobytes() + behind
    if isinstance(path, str | os.PathLike):
        write_atomically(Path(path), data)
    else:
        path.write(data)


def pack_appendix(
    outline: Outline,
    *,
    centroids: ArrayLike | None = None,
    item_ids: Sequence[int | str] | NDArray[Any] | None = None,
    rotation: ArrayLike | None = None,
    row_mean: ArrayLike | None = None,
) -> bytes:
    """The sections behind the blocks; arguments and errors are those of :func:`write_file`."""
    sections = []
    if item_ids is not None:
        sections.append(item_id_section(item_ids, outline.num_embeddings))
    if centroids is not None:
        sections.append(centroid_section(centroids, outline.dim))
    if rotation is not None:
        if not outline.rotated:
            raise ValueError("rotation is for a table whose rows are rotated, got one that is not")
        sections.append(rotation_section(rotation, outline.dim))
    if row_mean is not None:
        sections.append(row_mean_section(row_mean, outline.dim))
    checksum = header_checksum(outline.header)
    return b"".join(pack_section(section, checksum) for section in sections)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that at any moment the old or the new one is there, whole.

    Of a symbolic link, the file it points to.

    Raises:
        OSError: it cannot be written; the old one, if any, is still there.
    """
    with replace_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which at the end takes the place of the old one, if any.

    After an error in between the old one is still there. Of a symbolic link, the file it points to.

    Raises:
        OSError: it cannot be made, or at the end not be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "nt":  # where a folder is no file
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
