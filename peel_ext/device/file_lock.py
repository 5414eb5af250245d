"""A lock on an open file, which other processes that ask for it see."""

from __future__ import annotations

import sys
from io import FileIO

if sys.platform == "win32":
    import msvcrt

    #: The byte that stands for the whole file: the last that can be named, for nobody else can read it.
    _BYTE = (1 << 31) - 2

    def lock(file: FileIO) -> None:
        """Takes the lock; BlockingIOError where another process has it."""
        try:
            _apply(file, msvcrt.LK_NBLCK)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None

    def unlock(file: FileIO) -> None:
        """Gives the lock back; OSError where it was not taken."""
        _apply(file, msvcrt.LK_UNLCK)

    def _apply(file: FileIO, mode: int) -> None:
        place = file.tell()
        file.seek(_BYTE)
        try:
            msvcrt.locking(file.fileno(), mode, 1)
        finally:
            file.seek(place)

else:
    import fcntl

    def lock(file: FileIO) -> None:
        """Takes the lock; BlockingIOError where another process has it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(file: FileIO) -> None:
        """Gives the lock back, that of forked processes, too."""
        fcntl.flock(file, fcntl.LOCK_UN)
