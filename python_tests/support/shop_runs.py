"""A small shop to train on, what a run of it holds, and ways to interrupt one."""

from __future__ import annotations

from pathlib import Path

from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.pipeline import Progress


def write_shop(path: Path) -> Path:
    """Writes a csv file of 150 users and 200 items."""
    made = make_interactions(SyntheticConfig(num_users=150, num_items=200, mean_interactions=12))
    pairs = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    path.write_text("user,item\n" + "".join(f"u{user},{7 * item}\n" for user, item in pairs))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the index, whose seconds differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def interrupting_at(stage: str, step: int) -> Progress:
    """Raises KeyboardInterrupt as soon as the stage reports that step."""

    def progress(name: str, done: int, total: int, remark: str) -> None:
        if (name, done) == (stage, step):
            raise KeyboardInterrupt

    return progress
