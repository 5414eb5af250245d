"""A server of files, for the tests of what reads from one."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A local HTTP server of one file; counts what it sends."""

    def __init__(self, data: bytes, ranges: bool = True) -> None:
        self.data, self.ranges, self.tag = data, ranges, "one"
        self.sent: list[tuple[int, int]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/a.peel":
                    self.send_error(404)
                    return
                asked = self.headers.get("Range", "").removeprefix("bytes=")
                if not asked or not owner.ranges:
                    self.send_response(200)
                    body = owner.data
                else:
                    first, last = (int(part) for part in asked.split("-"))
                    if first >= len(owner.data):
                        self.send_error(416)
                        return
                    body = owner.data[first : last + 1]
                    owner.sent.append((first, first + len(body)))
                    self.send_response(206)
                    end = first + len(body) - 1
                    self.send_header("Content-Range", f"bytes {first}-{end}/{len(owner.data)}")
                self.send_header("Content-Length", str(len(body)))
                if owner.tag:
                    self.send_header("ETag", owner.tag)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/a.peel"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
