"""Runs of the command line, each trained once for all who ask it."""

from __future__ import annotations

from pathlib import Path

import pytest

from peel_ext.cli.main import main
from peel_ext.data import SyntheticConfig, make_interactions


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 users and 300 items, made up."""
    made = make_interactions(SyntheticConfig(200, 300, 12, num_tastes=8))
    pairs = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    path = tmp_path_factory.mktemp("small") / "a.csv"
    path.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
    return path


@pytest.fixture(scope="session")
def small_run(small_data: Path) -> Path:
    """Of that, with 40 users new and 4 user groups."""
    out = small_data.parent / "run"
    command = ["train", str(small_data), "--out", str(out), "--epochs", "1"]
    assert main([*command, "--groups", "4", "--new-user-share", "0.2", "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 made-up users, 3,000 items and 3 user groups."""
    folder = tmp_path_factory.mktemp("synthetic") / "run"
    command = ["train", "synthetic", "--out", str(folder), "--epochs", "1", "--groups", "3"]
    # Given, these are not searched for.
    assert main([*command, "--temperature", "0.1", "--embedding-dim", "64", "--quiet"]) == 0
    return folder
