"""Files that are there whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
