"""Training from frames in a notebook, as Jupyter runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

CELLS = [
    """
import numpy as np, polars as pl
rng = np.random.default_rng(0)
plays = pl.DataFrame({"user": rng.integers(0, 40, 900), "item": rng.integers(0, 50, 900)}).unique()
""",
    """
from peel_ext.config import PipelineConfig, PretrainingConfig
from peel_ext.train.narration import Narration
from peel_ext.train.pipeline import run_pipeline
config = PipelineConfig(pretraining=PretrainingConfig(epochs=1, temperature=0.1))
run = run_pipeline(plays, "run", config, Narration())
""",
    """
frame = run.recommend(run.users.ids, n=5).to_frame()
pairs = set(map(tuple, plays.select("user", "item").rows()))
assert not pairs & set(zip(frame.user_id, frame.item_id))
print(len(frame), "recommended")
""",
]


@pytest.mark.slow
def test_a_polars_frame_in_a_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    told = "".join(output.get("text", "") for cell in notebook.cells for output in cell["outputs"])
    assert "200 recommended" in told
    assert "pretraining" in told  # a line for each stage, where there are no widgets
    assert "Warning" not in told
