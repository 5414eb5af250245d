"""First bytes of bundles on servers, by which only the first user of one takes a request for its header."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

from peel_ext.device.http_source import ChangedFileError, FirstBytes, HttpSource, check_headers
from peel_ext.device.user_source import UserSource
from peel_ext.errors import FormatError, NoUserError

#: Of a bundle, at once: header, and what is there of the index, as much as comes without a wait.
_START_BYTES = 8192
_MOST_BUNDLES = 16


class BundleStarts:
    """The first bytes of the bundles that users were last found in.

    Only of servers that tag their files: a bundle that has changed is told by its tag.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, FirstBytes] = {}

    def open_user(
        self,
        url: str,
        user: str,
        ahead: int,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> tuple[HttpSource, UserSource]:
        """The source of a bundle on a server, and of a user's file in it; errors are those of both."""
        # Not the headers themselves, which may be secret.
        asked = repr((url, sorted(check_headers(headers).items())))
        key = hashlib.sha256(asked.encode()).digest()
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            try:
                return self._open(key, HttpSource(url, headers, timeout, known=known), user, ahead)
            except (FormatError, NoUserError, ChangedFileError):
                pass  # it may be another bundle by now
        http = HttpSource(url, headers, timeout, first_bytes=_START_BYTES)
        return self._open(key, http, user, ahead)

    def _open(
        self, key: bytes, http: HttpSource, user: str, ahead: int
    ) -> tuple[HttpSource, UserSource]:
        source = UserSource(http, user, ahead)
        with self._lock:
            self._known.pop(key, None)
            if http.first.tag is not None:
                self._known[key] = http.first
            while len(self._known) > _MOST_BUNDLES:
                del self._known[next(iter(self._known))]  # that of longest ago
        return http, source


BUNDLE_STARTS = BundleStarts()
