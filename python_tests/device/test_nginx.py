"""A device that reads from a real server: nginx, with compression and redirections on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tables import LAYOUTS, draw_table

from peel_ext.device import DeviceRecommender
from peel_ext.errors import SourceError
from peel_ext.format import write_file

pytestmark = pytest.mark.once

ROWS, DIM = 600, 16
NAMES = [f"item {row}" for row in range(ROWS)]

_CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log {folder}/errors warn;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/requests combined;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  default_type application/octet-stream;
  gzip on;
  gzip_types *;
  gzip_min_length 1;
  gzip_proxied any;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/files;
    location /moved/ {{ return 302 /; }}
    location /old/ {{ rewrite ^/old/(.*)$ /$1 permanent; }}
    location /closed/ {{
      auth_basic "closed";
      auth_basic_user_file {folder}/users;
      alias {folder}/files/;
    }}
    location /keyed/ {{
      if ($http_x_key != "open") {{ return 403; }}
      alias {folder}/files/;
    }}
    location /whole/ {{ max_ranges 0; alias {folder}/files/; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server, and its folder."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip(
            "nginx IS NOT INSTALLED, nothing was read from a real server: nginx-light has it"
        )
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "files").mkdir()
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), ROWS, DIM)
    write_file(folder / "files" / "a.peel", table, item_ids=NAMES)
    (folder / "users").write_text("me:{PLAIN}secret word\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Else its workers would be a user who may not read here.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(user + _CONFIGURATION.format(folder=folder, port=port))
    command = [program, "-p", str(folder), "-c", str(folder / "conf"), "-e", str(folder / "errors")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        for _ in range(200):
            if server.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        if server.poll() is not None:
            assert server.stderr is not None
            pytest.fail(f"nginx does not start: {server.stderr.read()}")
        try:
            yield f"http://127.0.0.1:{port}", folder
        finally:
            server.terminate()


def test_a_file_on_nginx(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    path = folder / "files" / "a.peel"
    user = np.ones(DIM)
    with DeviceRecommender.open(path, 9_000) as local:
        want = local.recommend(user=user)
    closed = address.replace("//", "//me:secret%20word@")
    for url, options in (
        (f"{address}/a.peel", {}),
        (f"{address}/old/a.peel", {"cache": tmp_path / "cache.peel"}),
        (f"{closed}/closed/a.peel", {}),
        (f"{address}/keyed/a.peel", {"headers": {"X-KEY": "open"}, "timeout": 10}),
    ):
        with DeviceRecommender.open(url, 5_000, **options) as recommender:
            recommender.resize(9_000)
            items, scores = recommender.recommend(user=user)
            assert items == want[0]
            assert np.array_equal(scores, want[1])
    # Nothing of it was sent whole, and nothing of it compressed.
    answers = [
        line.split('"')[2].split() for line in (folder / "requests").read_text().splitlines()
    ]
    assert {status for status, _ in answers} == {"206", "301"}
    sent = sum(int(count) for status, count in answers if status == "206")
    size = path.stat().st_size
    assert sent < 4 * size

    for url, says in (
        (f"{address}/none.peel", "answers 404"),
        (f"{address}/closed/a.peel", "answers 401"),
        (f"{address}/keyed/a.peel", "answers 403"),
        (f"{address}/whole/a.peel", r"answers no ranges \(200"),
        (f"{address}/moved/a.peel", "answers 403"),  # to the folder, which it does not list
    ):
        with pytest.raises(SourceError, match=says):
            DeviceRecommender.open(url)


def test_a_file_that_changes_on_nginx_is_told(served: tuple[str, Path]) -> None:
    address, folder = served
    path = folder / "files" / "b.peel"
    write_file(path, draw_table(LAYOUTS[0], np.random.default_rng(1), ROWS, DIM))
    with DeviceRecommender.open(f"{address}/b.peel", 5_000) as recommender:
        before = recommender.nbytes
        write_file(path, draw_table(LAYOUTS[0], np.random.default_rng(2), ROWS + 1, DIM))
        with pytest.raises(SourceError, match="another file than the one opened"):
            recommender.resize(9_000)
        assert recommender.nbytes == before
