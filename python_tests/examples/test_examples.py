"""Every example runs, on little data, and tells what budgets keep."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PEERS = {"bring_your_own_vectors": ["implicit"], "drop_in": ["rectools", "pytorch_lightning"]}
# A budget, bytes held where they are printed, a quality, and the share of the full one.
LINE = re.compile(r" *([\d,]+) +(?:([\d,]+) +)?(\d\.\d{4}) +(\d+\.\d)%")


def run_example(name: str, arguments: list[str]) -> None:
    """Runs an example as its command does, in this process, which has imported torch already."""
    for module in PEERS.get(name, []):
        pytest.importorskip(module, reason=f"{module} is absent")
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what other libraries warn of is their matter
@pytest.mark.parametrize(
    "name", ["bring_your_own_vectors", "drop_in", "quickstart", "train_to_device"]
)
def test_an_example_prints_what_budgets_keep(
    name: str, trained_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trained_shop / "interactions.parquet"
    if name == "quickstart":  # whose settings are those of the run that is there
        shutil.copytree(trained_shop / "run", tmp_path / "run")
    small = ["--users", "60", "--items", "250", "--epochs", "1"]
    run_example(name, small if name == "drop_in" else [str(data), "--out", str(tmp_path / "run")])
    told = capsys.readouterr().out
    found = [match.groups() for match in map(LINE.match, told.splitlines()) if match]
    assert len(found) == 4, told
    full = re.search(
        r"(?:full table|ALS, full|whole file) +(?:[\d,]+ +)?(\d\.\d{4}) +100\.0%", told
    )
    assert full is not None, told
    for budget, held, quality, kept in found:
        if held is not None:
            assert 0 < int(held.replace(",", "")) <= int(budget.replace(",", ""))
        if float(full[1]) > 0:
            share = 100 * float(quality) / float(full[1])
            assert abs(share - float(kept)) < 100 * 0.0001 / float(full[1]) + 0.1
    if name != "drop_in":  # which is trained for a moment on 60 users
        assert float(found[0][3]) > 80, told


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    names = [path.name for path in EXAMPLES.iterdir() if not path.name.startswith(("_", "."))]
    assert len(names) >= 9
    assert [name for name in names if f"](../examples/{name}" not in page] == []
