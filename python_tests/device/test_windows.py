"""What Python has on POSIX systems alone is not needed to serve a file: as far as that shows elsewhere."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext.format import write_file

pytestmark = pytest.mark.once

#: A Python without fcntl, os.pread and forks; its locks are listed.
SCRIPT = """
import os, ssl, sys, tempfile, threading, types, urllib.request  # those for this system
import numpy

locks = []
sys.modules["fcntl"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(
    LK_NBLCK=2, LK_UNLCK=0, locking=lambda handle, mode, count: locks.append((mode, count))
)
for name in ("pread", "pwrite", "fork", "register_at_fork"):
    delattr(os, name)
real, sys.platform = sys.platform, "win32"
from peel_ext.device import file_lock
sys.platform = real

from peel_ext.device import DeviceRecommender

path, url, cache = sys.argv[1:]
answers = []
with open(path, "rb") as file:
    opened = [
        DeviceRecommender.open(path),
        DeviceRecommender.open(file),
        DeviceRecommender.open(url, cache=cache),
    ]
    for recommender in opened:
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    recommender.recommend(history=["item 003", "item 007"], n=5)[0]
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        recommender.close()
assert len(answers) == 12 and all(list(each) == list(answers[0]) for each in answers), answers
assert locks == [(2, 1), (0, 1)], locks
"""


def test_serving_needs_nothing_of_posix(tmp_path: Path) -> None:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), 600, 16)
    names = [f"item {row:03}" for row in range(600)][::-1]
    write_file(tmp_path / "a.peel", table, item_ids=names)
    with contextlib.closing(Server((tmp_path / "a.peel").read_bytes())) as server:
        arguments = [str(tmp_path / "a.peel"), server.url, str(tmp_path / "cache.peel")]
        subprocess.run([sys.executable, "-P", "-W", "error", "-c", SCRIPT, *arguments], check=True)
