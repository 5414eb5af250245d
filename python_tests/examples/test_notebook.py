"""The notebook of the quickstart, on a frame, as Jupyter runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "quickstart.ipynb"

#: In the place of the cell tagged "parameters".
PARAMETERS = """
import numpy as np, polars as pl
rng = np.random.default_rng(0)
data = pl.DataFrame({"user": rng.integers(0, 40, 900), "item": rng.integers(0, 200, 900)})
data = data.unique(maintain_order=True)  # the same data each time
"""

CHECK = """
pairs = set(map(tuple, data.rows()))
found = lists.to_frame()
assert not pairs & set(zip(found.user_id, found.item_id))
print(len(found), "recommended")
"""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without what it printed
    [given] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    given["source"] = PARAMETERS
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output.get("text", "") for output in outputs)
    assert "15 recommended" in told
    assert "pretraining" in told  # a line for each stage, where there are no widgets
    assert "Warning" not in told
    assert told.count("bytes: items") == 4
    assert any("kept" in output.get("data", {}).get("text/plain", "") for output in outputs)
