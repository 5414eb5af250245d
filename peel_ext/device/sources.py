"""Where a device reads a ``.peel`` file from, when that is neither a path nor memory."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO

from peel_ext.errors import SourceError
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

    def _fetch(self, offset: int, count: int, first: bool = False) -> bytes:
        request = urllib.request.Request(
            self._url, headers={"Range": f"bytes={offset}-{offset + count - 1}"}
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
        if len(data) != min(count, self.size - offset):
            raise SourceError(f"{self._url}: {len(data)} bytes came, expected {count}")
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
    """A server's file, of which what was fetched once from its beginning is kept in a local file.

    Memory given back and taken again is read from there, not from the server. The cache is itself
    the first bytes of the ``.peel`` file: without a network, open it by its path.

    Args:
        source: of the file.
        path: of the cache. What is there of another file is replaced.

    Raises:
        SourceError: the cache cannot be written.
    """

    def __init__(self, source: HttpSource, path: str | os.PathLike[str]) -> None:
        self._source = source
        self._path = path
        self._lock = threading.Lock()
        self.size = source.size
        start = source.read(0, min(HEADER_BYTES, source.size))
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 - open as long as the source
            self._file.seek(0)
            if self._file.read(len(start)) != start:
                self._file.truncate(0)
            self._held = self._file.seek(0, os.SEEK_END)
            if self._held == 0:
                self._append(start)
        except OSError as error:
            raise SourceError(f"{path}: cannot be a cache: {error.strerror}") from error

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count).

        Raises:
            SourceError: they cannot be fetched, or the cache cannot be read or written.
        """
        with self._lock:
            if offset > self._held:
                return self._source.read(offset, count)
            missing = offset + count - self._held
            try:
                if missing > 0:
                    self._append(self._source.read(self._held, missing))
                self._file.seek(offset)
                return self._file.read(count)
            except OSError as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"{self._path}: the cache fails: {error.strerror}") from error

    def _append(self, data: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        self._held += len(data)

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()
