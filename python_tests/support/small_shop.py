"""A small shop on which pages and examples are tried, and a run trained on it."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet

from peel_ext.config import PipelineConfig, PretrainingConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.pipeline import run_pipeline

#: The settings of the pages and of the quickstart, and as options of ``peel train``.
SETTINGS = PipelineConfig(pretraining=PretrainingConfig(epochs=2, temperature=0.1))
OPTIONS = ["--epochs", "2", "--temperature", "0.1"]


def train_shop(folder: Path) -> Path:
    """Makes ``interactions.parquet`` and ``run`` in a folder.

    300 users and almost 900 items, among them those that pages name.
    """
    made = make_interactions(SyntheticConfig(num_users=300, num_items=900))
    table = {"user": made.user_rows, "item": made.item_rows, "timestamp": made.timestamps}
    path = folder / "interactions.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    run_pipeline(path, folder / "run", SETTINGS)
    return folder
