"""Every verb prints and writes the same whatever torch's default dtype and device are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from peel_ext.cli.main import main
from peel_ext.data import SyntheticConfig, make_interactions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_interactions(SyntheticConfig(200, 300, 12, num_tastes=8))
    pairs = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    folder = tmp_path_factory.mktemp("runs")
    (folder / "a.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
    command = ["train", str(folder / "a.csv"), "--out", str(folder / "run"), "--epochs", "1"]
    assert main([*command, "--groups", "4", "--new-user-share", "0.2", "--quiet"]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    "command",
    [
        "recommend RUN --history 12,80",
        "recommend RUN --history 12,80 --budget 8KiB",
        "recommend RUN --user 7 --budget 8KiB",
        "export RUN --out OUT --group 1",
        "export RUN --out OUT --history 12,80",
        "evaluate RUN --budgets 4KiB,8KiB --rivals",
        "evaluate RUN --budgets 4KiB --protocol new --blends",
        "evaluate RUN --budgets 4KiB --protocol offline",
    ],
)
def test_a_verb(
    command: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other_defaults: Callable[[], AbstractContextManager[None]],
) -> None:
    out = tmp_path / "out"
    places = {"RUN": str(run), "OUT": str(out)}
    arguments = [places.get(word, word) for word in command.split()]

    def call() -> tuple[str, list[bytes]]:
        capsys.readouterr()
        assert main(arguments) == 0
        return capsys.readouterr().out, [path.read_bytes() for path in sorted(out.glob("*"))]

    want = call()
    with other_defaults():
        got = call()
    assert got == want
