"""The file of one user in a bundle of many, where neither a path nor memory has it."""

from __future__ import annotations

import threading
from typing import Protocol

from peel_ext import _core
from peel_ext.errors import FormatError
from peel_ext.format.header import header_checksum
from peel_ext.format.layout import HEADER_BYTES


class Readable(Protocol):
    """Bytes that are read in ranges."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count)."""


class UserSource:
    """A user's file in a bundle, as far as it has arrived.

    Args:
        bundle: where the bundle's bytes come from.
        user: the id as text.
        ahead: bytes to ask for at once, as far as blocks go, so that a caller who wants them all makes
            one request. They are kept until they have all been taken.

    Raises:
        FormatError: not a bundle, or a damaged one.
        NoUserError: the bundle has no file of this user.
        SourceError: it cannot be read.
    """

    def __init__(self, bundle: Readable, user: str, ahead: int) -> None:
        self._bundle = bundle
        self._lock = threading.Lock()
        found = _core.find_user(bundle.read, bundle.size, user)
        self._offset, size, blocks_end, checksum = found
        self.size = min(size, max(0, bundle.size - self._offset))
        if self.size < HEADER_BYTES:
            raise FormatError(f"cut short: {bundle.size} bytes, the user's file has not arrived")
        wanted = max(HEADER_BYTES, min(ahead, blocks_end, self.size))
        self._ahead = bundle.read(self._offset, wanted)
        told = int.from_bytes(self._ahead[44:48], "little") * 64
        if told != blocks_end or header_checksum(self._ahead) != checksum:
            raise FormatError(
                f"damaged: the file at byte {self._offset} of the bundle is not the one that the "
                "index means"
            )

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count) of the user's file.

        Raises:
            SourceError: they cannot be read.
        """
        with self._lock:
            ahead = self._ahead
            if offset + count == len(ahead):
                self._ahead = b""
        if offset + count <= len(ahead):
            return ahead[offset : offset + count]
        return self._bundle.read(self._offset + offset, count)
