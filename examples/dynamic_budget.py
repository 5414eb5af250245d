"""A device whose free memory follows a random walk, recommending all the while.

    python examples/dynamic_budget.py devices/group-0.peel --steps 200

A server on this machine serves the file; the device keeps what it has fetched in a cache file, and
holds in memory what its budget allows. Every step prints the budget, the bytes held, the bytes fetched
so far, and how many of the best 20 are those of the whole file, for users with random tastes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from peel_ext.device import DeviceRecommender
from peel_ext.errors import BudgetError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the simulation."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="a .peel file")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON, one line a step")
    options = parser.parse_args(arguments)
    data = options.file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        server = _Server(data)
        try:
            _simulate(server, Path(folder) / "cache.peel", options)
        finally:
            server.shutdown()
            server.server_close()


def _simulate(server: _Server, cache: Path, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    whole = DeviceRecommender.open(options.file, item_ids=False)
    # Tastes: the directions of a few items that the group is shown often.
    frequent, _ = whole.recommend([], n=200) if _has_centroids(whole) else (np.arange(200), None)
    tastes = [whole.fold_in(rng.choice(frequent, 5)) for _ in range(options.users)]
    best = [set(whole.recommend(user=user, rotated=True, n=20)[0].tolist()) for user in tastes]
    largest = whole.nbytes
    least = _least_bytes(whole)
    free = largest / 20
    start = max(least, int(free))
    device = DeviceRecommender.open(server.url, start, item_ids=False, cache=cache)
    if not options.json:
        print(f"{'step':>5} {'budget':>10} {'held':>10} {'fetched':>10} {'of the best 20':>15}")
    for step in range(options.steps):
        free = float(np.clip(free * np.exp(rng.normal(0, 0.4)), least, largest))
        device.resize(int(free))
        found = [
            len(best[at].intersection(device.recommend(user=user, rotated=True, n=20)[0].tolist()))
            / 20
            for at, user in enumerate(tastes)
        ]
        row = {
            "step": step,
            "budget": int(free),
            "held": device.nbytes,
            "fetched": server.sent,
            "overlap": float(np.mean(found)),
        }
        if options.json:
            print(json.dumps(row))
        else:
            print(f"{step:>5} {row['budget']:>10,} {row['held']:>10,} {row['fetched']:>10,} "
                  f"{row['overlap']:>15.2f}")  # fmt: skip
    device.close()
    whole.close()


def _least_bytes(whole: DeviceRecommender) -> int:
    try:
        whole.resize(0)
    except BudgetError as error:
        return error.minimum_bytes
    return 0


def _has_centroids(whole: DeviceRecommender) -> bool:
    try:
        whole.choose_group(np.ones(whole.embedding_dim))
    except ValueError:
        return False
    return True


class _Server(ThreadingHTTPServer):
    """Serves one file by ranges, and counts its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sent = 0
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        first, last = (
            int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-")
        )
        body = self.server.data[first : last + 1]
        self.server.sent += len(body)
        self.send_response(206)
        size = len(self.server.data)
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


if __name__ == "__main__":
    main()
