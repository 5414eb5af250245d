"""Where a device reads a ``.peel`` file from, when that is neither a path nor memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import string
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO

from peel_ext import _core
from peel_ext.errors import FormatError, SourceError
from peel_ext.format.header import MAGIC, read_header
from peel_ext.format.layout import HEADER_BYTES


class FileObjectSource:
    """A binary file object that can seek; shared with nobody while a recommender has it.

    Args:
        file: opened for reading; it stays the caller's to close.

    Raises:
        SourceError: it cannot seek.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        try:
            self.size = file.seek(0, os.SEEK_END)
        except (OSError, AttributeError, ValueError) as error:
            raise SourceError(f"{file!r} cannot seek: {error}") from None

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count).

        Raises:
            SourceError: they are not there, or cannot be read.
        """
        parts = []
        with self._lock:
            try:
                self._file.seek(offset)
                while count > 0:
                    part = self._file.read(count)
                    if not part:
                        raise SourceError(
                            f"{self._file!r} was shortened while in use: it had {self.size} bytes"
                        )
                    parts.append(part)
                    count -= len(part)
            except (OSError, ValueError) as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"{self._file!r} cannot be read: {error}") from error
        return b"".join(parts)


class HttpSource:
    """A file on an HTTP server that answers range requests: only what is asked for is fetched.

    Args:
        url: of the file.
        timeout: seconds without an answer after which a request fails.

    Raises:
        SourceError: the server cannot be reached, has no such file, or answers no ranges.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self._url = url
        # As browsers do with what a URL may not hold; what is escaped already stays.
        self._request_url = urllib.parse.quote(url, safe=string.punctuation)
        self._timeout = timeout
        self._tag: str | None = None
        self.size = HEADER_BYTES  # until the server has told
        self._start = self._fetch(0, HEADER_BYTES, first=True)

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count).

        Raises:
            SourceError: the server fails, or has another file by now.
        """
        if offset + count <= len(self._start):
            return self._start[offset : offset + count]
        return self._fetch(offset, count)

    def close(self) -> None:
        """Nothing to be done: every request has a connection of its own."""

    def _fetch(self, offset: int, count: int, first: bool = False) -> bytes:
        request = urllib.request.Request(
            self._request_url, headers={"Range": f"bytes={offset}-{offset + count - 1}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                size = self._check(response, offset)
                tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
                data: bytes = response.read(count)
        except urllib.error.HTTPError as error:
            raise SourceError(f"{self._url}: the server answers {error.code}") from None
        except (OSError, HTTPException) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{self._url}: cannot be read: {error}") from error
        if first:
            self.size, self._tag = size, tag
        elif (size, tag) != (self.size, self._tag):
            raise SourceError(f"{self._url}: the server has another file than the one opened")
        wanted = min(count, self.size - offset)
        if len(data) != wanted:
            raise SourceError(f"{self._url}: {len(data)} bytes came, expected {wanted}")
        return data

    def _check(self, response: HTTPResponse, offset: int) -> int:
        """Bytes of the whole file."""
        if response.status != 206:
            raise SourceError(
                f"{self._url}: the server answers no ranges ({response.status} to a range request)"
            )
        told = response.headers.get("Content-Range", "")
        span, _, size = told.removeprefix("bytes ").partition("/")
        if not size.isdigit() or span.partition("-")[0] != str(offset):
            raise SourceError(f"{self._url}: Content-Range {told!r} does not say what was sent")
        return int(size)


class CachedSource:
    """A server's file, of whose blocks what was fetched once is kept in a local file.

    Memory given back and taken again is read from there, not from the server. The cache is itself
    the first bytes of the ``.peel`` file: without a network, open it by its path. It serves one
    source at a time.

    Args:
        source: of the file.
        path: of the cache. What is there of another ``.peel`` file is replaced.

    Raises:
        FormatError: the server's is no ``.peel`` file.
        SourceError: the cache cannot be written, is in use, or is a file of something else.
    """

    def __init__(self, source: HttpSource, path: str | os.PathLike[str]) -> None:
        self._source = source
        self._path = path
        self._lock = threading.Lock()
        self.size = source.size
        self._start = source.read(0, min(HEADER_BYTES, source.size))
        self._end = read_header(self._start).blocks_end
        try:
            # Without a buffer, which would keep what there was no room for.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the source
        except OSError as error:
            raise SourceError(f"{path}: cannot be a cache: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            if self._file.closed or not kept:
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
            if self._file.closed or 0 < self._held <= offset:
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
            if not self._file.closed:
                fcntl.flock(self._file, fcntl.LOCK_UN)  # of a forked process's file, too
                self._file.close()

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
    url: str, budget: int | None, cache: str | os.PathLike[str] | None
) -> tuple[_core.PeelFile, HttpSource | CachedSource]:
    """Opens a file on a server; where what a cache holds is damaged, with an emptied one.

    Raises:
        FormatError: not a ``.peel`` file, or damaged on the server.
        SourceError: it cannot be read, or the cache cannot be used.
        BudgetError: too few bytes for the first block.
    """
    http = HttpSource(url)
    if cache is None:
        return _core.PeelFile.open_callable(http.read, http.size, budget), http
    cached = CachedSource(http, os.fspath(cache))
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
