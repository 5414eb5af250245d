"""Sources of a ``.peel`` file that are neither a path nor memory."""

from __future__ import annotations

import contextlib
import io
import os
import reprlib
import sys
import threading
from collections.abc import Mapping
from typing import BinaryIO

from peel_ext import _core
from peel_ext.device import file_lock
from peel_ext.device.bundle_starts import BUNDLE_STARTS
from peel_ext.device.http_source import HttpSource
from peel_ext.device.user_source import Readable
from peel_ext.errors import FormatError, SourceError
from peel_ext.format.header import MAGIC, read_header
from peel_ext.format.layout import HEADER_BYTES


def describe(file: object) -> str:
    """The name of a source in a message: not all of its bytes."""
    short = reprlib.Repr()
    short.maxother = short.maxstring = 100
    return short.repr(file)


class FileObjectSource:
    """A binary file object that can seek; shared with nobody while a recommender has it.

    An open file of the system is read without its position, so that a process forked from this one can
    read it, too. Any other object has one position for both, and cannot be read in a fork.

    Args:
        file: opened for reading; it stays the caller's to close.

    Raises:
        SourceError: it cannot seek.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._name = describe(file)
        self._lock = threading.Lock()
        self._process = os.getpid()
        # Not by fileno() alone: what unpacks a file has that of the packed one.
        buffered = type(file) in (io.BufferedReader, io.BufferedRandom)
        self._is_plain = type(getattr(file, "raw", None) if buffered else file) is io.FileIO
        try:
            file.seek(0, os.SEEK_END)
            size = file.tell()
        except (OSError, AttributeError, ValueError, TypeError) as error:
            raise SourceError(f"{self._name} cannot seek: {error}") from None
        if not isinstance(size, int) or not 0 <= size < 1 << 63:
            raise SourceError(f"{self._name} cannot seek: it tells a position of {size!r}")
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count).

        Raises:
            SourceError: they are not there, or cannot be read.
        """
        if not self._is_plain and os.getpid() != self._process:
            raise SourceError(
                f"{self._name} cannot be read in a forked process, which shares its position with the "
                "first one: open the file there by its path"
            )
        parts = []
        with self._lock:
            try:
                while count > 0:
                    part = self._read_some(offset, count)
                    if not part:
                        raise SourceError(
                            f"{self._name} was shortened while in use: it had {self.size} bytes"
                        )
                    parts.append(part)
                    offset, count = offset + len(part), count - len(part)
            except (OSError, ValueError) as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"{self._name} cannot be read: {error}") from error
        return b"".join(parts)

    def _read_some(self, offset: int, count: int) -> bytes:
        if self._is_plain and hasattr(os, "pread"):  # Windows has neither that nor forks
            return os.pread(self._file.fileno(), count, offset)
        self._file.seek(offset)
        part = self._file.read(count)
        if not isinstance(part, bytes):
            raise SourceError(f"{self._name} cannot be read: it gives {type(part).__name__}")
        return part


class CachedSource:
    """A server's file, of whose blocks what was fetched once is kept in a local file.

    A process forked from this one reads from the server: the cache is the first one's.

    Memory given back and taken again is read from there, not from the server. The cache is itself
    the first bytes of the ``.peel`` file: without a network, open it by its path. It serves one
    source at a time.

    Args:
        source: the source of the file.
        path: the cache. What is there of another ``.peel`` file is replaced.

    Raises:
        FormatError: the server's is no ``.peel`` file.
        SourceError: the cache cannot be written, is in use, or is a file of something else.
    """

    def __init__(self, source: Readable, path: str | os.PathLike[str]) -> None:
        self._source = source
        self._path = path
        self._lock = threading.Lock()
        self._process = os.getpid()
        self.size = source.size
        self._start = source.read(0, min(HEADER_BYTES, source.size))
        self._end = read_header(self._start).blocks_end
        try:
            # Without a buffer, which would keep what there was no room for.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the source
        except OSError as error:
            raise SourceError(f"{path}: cannot be a cache: {error.strerror}") from error
        try:
            file_lock.lock(self._file)
            self._file.seek(0)
            found = self._file.read(HEADER_BYTES)
            if found[: len(MAGIC)] != MAGIC[: len(found)]:
                raise SourceError(f"{path}: cannot be a cache: it holds something else")
            self._held = self._file.seek(0, os.SEEK_END)
            if found != self._start or self._held > self._end:
                self.forget(0)
        except OSError as error:
            self._file.close()
            if isinstance(error, SourceError):
                raise
            in_use = isinstance(error, BlockingIOError)
            reason = "it is in use as one" if in_use else error.strerror
            raise SourceError(f"{path}: cannot be a cache: {reason}") from error

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count).

        Raises:
            SourceError: they cannot be fetched, or the cache cannot be read or written.
        """
        with self._lock:
            kept = offset <= self._held and offset + count <= self._end
            if not self._in_use() or not kept:
                return self._source.read(offset, count)
            missing = offset + count - self._held
            try:
                if missing > 0:
                    self._append(self._source.read(self._held, missing))
                self._file.seek(offset)
                return self._file.read(count)
            except OSError as error:
                raise self._failure(error) from error

    def forget(self, offset: int) -> None:
        """Drops what lies behind the bytes [0, offset), to be fetched again; not the header.

        Raises:
            SourceError: the cache cannot be written.
        """
        with self._lock:
            if not self._in_use() or 0 < self._held <= offset:
                return
            try:
                self._file.truncate(offset)
                self._held = offset
                if offset == 0:
                    self._append(self._start)
            except OSError as error:
                raise self._failure(error) from error

    def close(self) -> None:
        """Lets others have the cache; what is read from now on comes from the server."""
        with self._lock, contextlib.suppress(OSError):  # of bytes that there was no room for
            if self._in_use():
                file_lock.unlock(self._file)
            self._file.close()

    def _in_use(self) -> bool:
        return not self._file.closed and os.getpid() == self._process

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._file.truncate(self._held)
            raise
        self._held += len(data)

    def _failure(self, error: OSError) -> SourceError:
        if isinstance(error, SourceError):
            return error
        return SourceError(f"{self._path}: the cache fails: {error.strerror}")

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def open_url(
    url: str,
    budget: int | None,
    user: str | None,
    cache: str | os.PathLike[str] | None,
    headers: Mapping[str, str] | None,
    timeout: float | None,
) -> tuple[_core.PeelFile, HttpSource | CachedSource]:
    """Opens a file on a server; where what a cache holds is damaged, with an emptied one.

    With a user, its file in the bundle that the server has.

    Raises:
        FormatError: not a ``.peel`` file, no bundle, or damaged on the server.
        NoUserError: the bundle has no file of this user.
        SourceError: it cannot be read, or the cache cannot be used.
        BudgetError: too few bytes for the first block.
        TypeError: headers or a timeout of a wrong type.
        ValueError: headers or a timeout that cannot be.
    """
    source: Readable
    if user is None:
        source = http = HttpSource(url, headers, timeout)
    else:
        # A cache may have all but the header.
        ahead = 0 if cache is not None else sys.maxsize if budget is None else budget
        http, source = BUNDLE_STARTS.open_user(url, user, ahead, headers, timeout)
    if cache is None:
        return _core.PeelFile.open_callable(source.read, source.size, budget), http
    cached = CachedSource(source, os.fspath(cache))
    try:
        with contextlib.suppress(FormatError):
            return _open_or_forget(cached, budget), cached
        return _open_or_forget(cached, budget), cached
    except BaseException:
        cached.close()
        raise


def _open_or_forget(cached: CachedSource, budget: int | None) -> _core.PeelFile:
    try:
        return _core.PeelFile.open_callable(cached.read, cached.size, budget)
    except FormatError:
        cached.forget(0)
        raise
