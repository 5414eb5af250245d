"""Every verb prints and writes the same whatever torch's default dtype and device are."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from peel_ext.cli.main import main

COMMANDS = [
    "recommend RUN --history 12,80",
    "recommend RUN --history 12,80 --budget 8KiB",
    "recommend RUN --user 7 --budget 8KiB",
    "export RUN --out OUT --group 1",
    "export RUN --out OUT --history 12,80",
    "evaluate RUN --budgets 4KiB,8KiB --rivals",
    "evaluate RUN --budgets 4KiB --protocol new --blends",
    "evaluate RUN --budgets 4KiB --protocol offline",
]


class Verb:
    """A command, the folder it may write to, and what it gives under torch's own defaults."""

    def __init__(self, command: str, run: Path, out: Path) -> None:
        places = {"RUN": str(run), "OUT": str(out)}
        self.arguments = [places.get(word, word) for word in command.split()]
        self.out = out
        self.usual = self.call()

    def call(self) -> tuple[str, list[bytes]]:
        """What is printed, and the files that are written."""
        shutil.rmtree(self.out, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(self.arguments) == 0
        return printed.getvalue(), [path.read_bytes() for path in sorted(self.out.glob("*"))]


@pytest.fixture(scope="module", params=COMMANDS)
def verb(
    request: pytest.FixtureRequest, small_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Verb:
    return Verb(request.param, small_run, tmp_path_factory.mktemp("verb") / "out")


def test_a_verb(verb: Verb, other_defaults: Callable[[], AbstractContextManager[None]]) -> None:
    with other_defaults():
        got = verb.call()
    assert got == verb.usual
