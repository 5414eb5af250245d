from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import peel_ext
from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.format import EncodedRows, PlanesLayout, pack_embedding


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    before = {name: value for name, value in os.environ.items() if name != "PEEL_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**before, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_number_is_kept() -> None:
    before = peel_ext.num_threads()
    try:
        for count in (1, 3, 1024):
            peel_ext.set_num_threads(count)
            assert peel_ext.num_threads() == count
    finally:
        peel_ext.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (1025, ValueError), (1 << 70, ValueError),
                         (1.0, TypeError), ("2", TypeError), (True, TypeError)]
)  # fmt: skip
def test_rejects(count: object, error: type[Exception]) -> None:
    before = peel_ext.num_threads()
    with pytest.raises(error, match=f"num_threads must be .*got {count!r}"):
        peel_ext.set_num_threads(count)  # type: ignore[arg-type]
    assert peel_ext.num_threads() == before


OPS = "import torch; torch.set_num_threads(5); import peel_ext.ops; "
SHOW = "import peel_ext; print(peel_ext.num_threads())"


@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [
        (SHOW, {}, len(os.sched_getaffinity(0))),
        (SHOW, {"PEEL_NUM_THREADS": "3"}, 3),
        (SHOW, {"PEEL_NUM_THREADS": ""}, len(os.sched_getaffinity(0))),
        (OPS + SHOW, {}, 5),
        (OPS + SHOW, {"PEEL_NUM_THREADS": "3"}, 3),
        ("import peel_ext; peel_ext.set_num_threads(7); " + OPS + SHOW, {}, 7),
        (OPS + "import peel_ext; peel_ext.set_num_threads(7); " + SHOW, {}, 7),
        (
            "import peel_ext; peel_ext.set_num_threads(7); " + SHOW,
            {"PEEL_NUM_THREADS": "3"},
            7,
        ),
    ],
)
def test_what_was_asked_for_comes_first(
    code: str, environment: dict[str, str], expected: int
) -> None:
    finished = run(code, **environment)
    assert finished.stdout == f"{expected}\n", finished.stderr


def test_a_senseless_environment_is_named() -> None:
    finished = run(SHOW, PEEL_NUM_THREADS="two")
    assert finished.returncode == 1
    assert "ValueError: PEEL_NUM_THREADS is 'two', expected an integer between 1 and 1024" in (
        finished.stderr
    )


def test_asking_imports_no_torch() -> None:
    finished = run(SHOW + "; import sys; sys.exit('torch' in sys.modules)")
    assert finished.returncode == 0


def make_problem(seed: int) -> tuple[PersonalizedElasticEmbedding, np.ndarray]:
    layout = PlanesLayout()
    rng = np.random.default_rng(seed)
    rows = EncodedRows(*layout.encode(rng.normal(size=(5000, 16)).astype(np.float32)))
    buffer = pack_embedding(layout, 16, rows, [np.arange(5000)], [31])
    return PersonalizedElasticEmbedding(buffer), rng.normal(size=(64, 16)).astype(np.float32)


def test_callers_in_several_threads_get_the_same(seed: int) -> None:
    pee, users = make_problem(seed)
    before = peel_ext.num_threads()
    peel_ext.set_num_threads(1)
    expected = pee.score(users, 10)

    def call(number: int) -> bool:
        peel_ext.set_num_threads(1 + number % 5)
        ids, scores = pee.score(users, 10)
        return np.array_equal(ids, expected[0]) and np.array_equal(scores, expected[1])

    try:
        with ThreadPoolExecutor(4) as callers:
            assert all(callers.map(call, range(60)))
    finally:
        peel_ext.set_num_threads(before)


# Python 3.12 warns of a fork of a process with threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_computes(seed: int) -> None:
    pee, users = make_problem(seed)
    before = peel_ext.num_threads()
    try:
        peel_ext.set_num_threads(4)
        expected, _ = pee.score(users, 10)  # the pool has workers now, which a child has not
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a hang must fail, not block
            same = np.array_equal(pee.score(users, 10)[0], expected)
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        peel_ext.set_num_threads(before)
