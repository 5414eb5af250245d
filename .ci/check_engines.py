"""Ray Data and Spark make the files that one process makes; a fresh folder is the argument."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

from pyarrow import parquet

from peel_ext.cli.main import main
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.scale import export_users

EXAMPLES = Path(__file__).parents[1] / "examples"
BUDGET = 65_536


def check(folder: Path) -> None:
    """Trains on little, and compares what each engine writes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = make_interactions(SyntheticConfig(num_users=120, num_items=200))
    lines = [f"u{user},{item}\n" for user, item in zip(made.user_rows, made.item_rows, strict=True)]
    (folder / "data.csv").write_text("user,item\n" + "".join(lines))
    command = ["train", str(folder / "data.csv"), "--out", str(folder / "run"), "--epochs", "1"]
    assert main([*command, "--temperature", "0.2", "--groups", "2", "--quiet"]) == 0
    for engine in ("ray", "spark"):
        script = runpy.run_path(str(EXAMPLES / f"{engine}_users.py"))
        script["main"]([str(folder / "run"), str(folder / engine)])
        written = parquet.read_table(folder / engine).sort_by("user")
        wanted = export_users(written.select(["user"]), folder / "run", BUDGET)
        assert len(written) == 120
        for name in ("user", "group", "known_count", "file"):
            assert written[name].to_pylist() == wanted[name].to_pylist(), (engine, name)
        print(f"{engine}: {len(written)} users, the files of one process")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
