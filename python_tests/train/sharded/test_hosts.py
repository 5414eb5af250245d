"""Two hosts train together, one is cut off in the middle, and the same command goes on.

A host is a network namespace with an address of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import slow_rank

from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.trained_run import TrainedRun

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _join(names: list[str]) -> None:
    """Makes two namespaces, and a cable between them."""
    for name in names:
        _ip("netns", "add", name)
    first, second = (["cable", "netns", name] for name in names)
    _ip("link", "add", *first, "type", "veth", "peer", "name", *second)
    for name, address in zip(names, ADDRESSES, strict=True):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
        for link in ("lo", "cable"):
            _ip("-n", name, "link", "set", link, "up")


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces, joined by a cable."""
    names = [f"peel-{os.getpid()}-{i}" for i in range(2)]
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the command ip, and root")
    try:
        try:
            _join(names)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _start(hosts: list[str], data: Path, run: Path, *, slow: bool) -> list[subprocess.Popen[str]]:
    """Training on both hosts; what they say is beside the run."""
    started = []
    for at, (name, address) in enumerate(zip(hosts, ADDRESSES, strict=True)):
        command = [
            "ip", "netns", "exec", name, sys.executable, "-P", "-m", "torch.distributed.run",
            "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", f"{ADDRESSES[0]}:29500", "--rdzv-conf", f"is_host={1 - at}",
            "--local-addr", address, slow_rank.__file__, "train", str(data), "--out", str(run),
            "--epochs", "6", "--temperature", "0.2", "--embedding-dim", "8", "--groups", "2",
        ]  # fmt: skip
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        if slow:
            environment["SLOW_STEPS"] = "1"
        with (run.parent / f"{run.name}-{at}.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    command, env=environment, cwd=run.parent, stdout=log, stderr=log, text=True
                )
            )
    return started


def _wait(until: Callable[[], bool], seconds: float, what: str) -> float:
    """The seconds until something is so."""
    began = time.monotonic()
    while not until():
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {waited:.0f} s {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def _ranks_of(host: str) -> list[int]:
    """The processes of a host that train."""
    found = []
    for pid in _ip("netns", "pids", host).split():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except FileNotFoundError:
            continue  # it has ended
        if b"torch.distributed.run" not in words and slow_rank.__file__.encode() in words:
            found.append(int(pid))
    return found


@pytest.mark.slow
def test_a_host_that_is_cut_off_ends_the_run_and_it_goes_on(
    hosts: list[str], tmp_path: Path
) -> None:
    made = make_interactions(
        SyntheticConfig(num_users=200, num_items=100, mean_interactions=15, seed=5)
    )
    data, run = tmp_path / "shop.parquet", tmp_path / "run"
    pyarrow.parquet.write_table(
        pyarrow.table({"user_id": made.user_rows, "item_id": made.item_rows}), data
    )
    started = _start(hosts, data, run, slow=True)
    try:
        saved = run / "pretraining.checkpoint" / "index.json"
        _wait(saved.exists, 120, "for a checkpoint")
        _ip("-n", hosts[0], "link", "set", "cable", "down")
        _wait(lambda: not any(map(_ranks_of, hosts)), 40, "for all ranks to end")
    finally:
        for each in started:  # torchrun itself waits for its store for minutes
            each.kill()
            each.wait()
    said = [(tmp_path / f"run-{at}.log").read_text() for at in range(2)]
    assert "peel: rank 1 does not answer: its process or host is gone;" in said[0]
    assert "peel: the process that keeps the ranks together does not answer;" in said[1]
    assert saved.exists()

    _ip("-n", hosts[0], "link", "set", "cable", "up")
    for each in _start(hosts, data, run, slow=False):
        assert each.wait(120) == 0
    said = [(tmp_path / f"run-{at}.log").read_text() for at in range(2)]
    assert re.search("^tuning +done before", said[0], re.MULTILINE), said[0]
    assert said[0].count("\npretraining ") == 1
    assert str(run) not in said[1]  # one rank tells
    assert TrainedRun.open(run).folder.stages["pretraining"]["steps"] == 96
