"""A ``.peel`` file on a server, of which ranges of bytes are fetched."""

from __future__ import annotations

import base64
import re
import ssl
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, NamedTuple

from peel_ext.errors import SourceError
from peel_ext.format.layout import HEADER_BYTES

_TIMEOUT = 30.0
_MOST_SECONDS = 86_400  # sockets cannot wait for any number

#: Seconds to wait before another attempt, where a server fails in a way that may pass.
_WAITS = (0.2, 1.0)
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_NO_SUCH_RANGE = 416

#: A file's size is a number of 64 bits with a sign in what reads it.
_CONTENT_RANGE = re.compile(r"bytes +(\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII | re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = ("range", "accept-encoding", "host")


def is_url(file: object) -> bool:
    """True for the URL of a server, not a path: its scheme in any letters."""
    return isinstance(file, str) and file.lower().startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """A URL as messages have it: without user, password and query, which may be secret; a path as it is."""
    if not is_url(url):
        return url
    return re.sub(r"(?<=//)[^/?#]*@", "", url).partition("?")[0].partition("#")[0]


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers that may go with a request. Messages do not have their values, which may be secret.

    Raises:
        TypeError: not a mapping of text to text.
        ValueError: a name or a value that HTTP does not have, or a header that is set here.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, got a {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers must map text to text, got another type at {name!r}")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"headers must have names as HTTP has them, got {name!r}")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"headers must not have {name!r}, which every request sets")
        if any(not (" " <= letter <= "\xff" or letter == "\t") for letter in value):
            raise ValueError(f"headers[{name!r}] must be one line of Latin-1 text")
    return dict(headers)


def check_timeout(timeout: float | None) -> float:
    """Seconds above 0, at most a day, 30 where none are given; TypeError or ValueError else."""
    if timeout is None:
        return _TIMEOUT
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, got {timeout!r}")
    if not 0 < timeout <= _MOST_SECONDS:
        raise ValueError(f"timeout must be above 0 and at most {_MOST_SECONDS}, got {timeout}")
    return float(timeout)


class ChangedFileError(SourceError):
    """The server has another file by now."""


class FirstBytes(NamedTuple):
    """The answer to the first request for a file: its first bytes, how many it has, and its tag."""

    data: bytes
    size: int
    tag: str | None


class HttpSource:
    """A file on an HTTP server that answers range requests: only what is asked for is fetched.

    What fails in a way that may pass, as a connection that breaks or an answer of 503, is tried three
    times, with a wait between. Redirections are followed, to another server without the headers.

    Args:
        url: URL of the file; a user and a password in it are sent as basic authentication.
        headers: to send with every request.
        timeout: seconds without an answer after which a request fails; None: 30.
        first_bytes: bytes of the file to ask for at once, and to keep.
        known: what another source of the same URL was told first; then nothing is asked for yet.

    Attributes:
        size: bytes of the file.
        first: what the first request told.

    Raises:
        SourceError: the URL is malformed, the server cannot be reached, has no such file, answers no
            ranges or sends them encoded.
        TypeError: headers or a timeout of a wrong type.
        ValueError: headers or a timeout that cannot be.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        first_bytes: int = HEADER_BYTES,
        known: FirstBytes | None = None,
    ) -> None:
        self._headers = check_headers(headers)
        self._timeout = check_timeout(timeout)
        self._shown = shown_url(url)
        self._request_url = self._parse(url)
        self._opener = urllib.request.build_opener(_Redirections)
        self.first = known or FirstBytes(b"", first_bytes, None)  # until the server has told
        if known is None:
            data = self._fetch(0, first_bytes, first=True)
            self.first = self.first._replace(data=data)
        self.size = self.first.size

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count).

        Raises:
            SourceError: the server fails, or has another file by now.
        """
        if offset + count <= len(self.first.data):
            return self.first.data[offset : offset + count]
        return self._fetch(offset, count)

    def close(self) -> None:
        """Nothing to be done: every request has a connection of its own."""

    def _parse(self, url: str) -> str:
        """The URL to request; its user and password become a header."""
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
            name = parts.hostname or ""
            host = name.encode("ascii" if ":" in name else "idna").decode()
        except ValueError:
            # Nothing of it is shown: where it is malformed, a password may be anywhere.
            raise SourceError("the URL is malformed: no host and port can be told") from None
        if not host:
            raise SourceError(f"{self._shown}: the URL is malformed: it names no host")
        if parts.username is not None:
            user = urllib.parse.unquote(parts.username)
            pair = f"{user}:{urllib.parse.unquote(parts.password or '')}"
            if "authorization" not in {name.lower() for name in self._headers}:
                basic = base64.b64encode(pair.encode()).decode()
                self._headers["Authorization"] = f"Basic {basic}"
        place = f"[{host}]" if ":" in host else host
        netloc = place if port is None else f"{place}:{port}"
        # As browsers do with what a URL may not hold; what is escaped already stays.
        path, query = (
            urllib.parse.quote(part, safe=string.punctuation) for part in (parts.path, parts.query)
        )
        return urllib.parse.urlunsplit((parts.scheme, netloc, path, query, ""))

    def _fetch(self, offset: int, count: int, first: bool = False) -> bytes:
        for wait in _WAITS:
            try:
                return self._fetch_once(offset, count, first)
            except _PassingError:
                time.sleep(wait)
        try:
            return self._fetch_once(offset, count, first)
        except _PassingError as error:
            raise SourceError(*error.args) from error.__cause__

    def _fetch_once(self, offset: int, count: int, first: bool) -> bytes:
        asked = {"Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self._request_url, headers={**self._headers, **asked})
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                size = self._check(response, offset)
                tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
                data: bytes = response.read(count)
        except urllib.error.HTTPError as error:
            kind = _PassingError if error.code in _PASSING else SourceError
            if error.code == _NO_SUCH_RANGE and not first:
                kind = ChangedFileError
            error.close()
            raise kind(f"{self._shown}: the server answers {error.code}") from None
        except (OSError, HTTPException) as error:
            if isinstance(error, SourceError):
                raise
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            lasting = isinstance(cause, TimeoutError | ssl.SSLCertVerificationError)
            kind = SourceError if lasting else _PassingError
            raise kind(f"{self._shown}: cannot be read: {cause}") from error
        if first:
            self.first = FirstBytes(b"", size, tag)
        elif (size, tag) != self.first[1:]:
            raise ChangedFileError(
                f"{self._shown}: the server has another file than the one opened"
            )
        wanted = min(count, size - offset)
        if len(data) != wanted:
            raise _PassingError(f"{self._shown}: {len(data)} bytes came, expected {wanted}")
        return data

    def _check(self, response: HTTPResponse, offset: int) -> int:
        """Bytes of the whole file."""
        if response.status != 206:
            raise SourceError(
                f"{self._shown}: the server answers no ranges ({response.status} to a range request)"
            )
        encoding = response.headers.get("Content-Encoding", "identity").strip()
        if encoding.lower() not in ("", "identity"):
            raise SourceError(
                f"{self._shown}: the server sends the file encoded (Content-Encoding "
                f"{encoding[:40]!r}), expected its bytes as they are"
            )
        told = response.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(told.strip())
        if found is None or int(found[1]) != offset or not offset < int(found[3]) < 1 << 63:
            raise SourceError(
                f"{self._shown}: Content-Range {told[:80]!r} does not say what was sent"
            )
        return int(found[3])


class _PassingError(SourceError):
    """A failure after which another attempt may succeed."""


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows to other HTTP servers, without the headers that were meant for the first."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fresh = super().redirect_request(req, fp, code, msg, headers, newurl)
        if fresh is None or not is_url(newurl):
            return None
        if _origin(req.full_url) != _origin(newurl):
            for name in [name for name in fresh.headers if name.lower() not in _OWN_HEADERS]:
                fresh.remove_header(name)
        return fresh


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()
