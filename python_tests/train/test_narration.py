from __future__ import annotations

import importlib.machinery
import io
import sys
import types
from pathlib import Path

import pytest

from peel_ext.config import ClusteringConfig, PipelineConfig, PretrainingConfig, RefinementConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.narration import Narration
from peel_ext.train.pipeline import run_pipeline


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_counts_steps_and_gives_way_to_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Narration(quiet=False) as narration:
        narration.stage("data", 0, 0, "")
        assert narration._bars is not None
        narration._bars.refresh()
        narration.stage("data", 1, 1, "5 users")
        narration.stage("pretraining", 2, 40, "loss 1.5")
        narration._bars.refresh()
        narration.stage("pretraining", 1, 1, "done")
    told = terminal.getvalue()
    assert "None" not in told
    assert "2/40" in told
    assert told.index("loss 1.5") < told.index("pretraining   done")
    assert told.count("data          5 users") == 1


def test_no_bar_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Narration(quiet=False) as narration:
        narration.stage("pretraining", 2, 40, "loss 1.5")
        narration.stage("pretraining", 1, 1, "done")
    assert capsys.readouterr().err == "pretraining   done\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Narration(quiet=True) as narration:
        narration.stage("pretraining", 2, 40, "loss 1.5")
        narration.stage("pretraining", 1, 1, "done")
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_stage_of_one_step_is_told_once(tmp_path: Path, capsys) -> None:
    made = make_interactions(SyntheticConfig(num_users=60, num_items=80, mean_interactions=10))
    pairs = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    (tmp_path / "a.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
    config = PipelineConfig(
        pretraining=PretrainingConfig(embedding_dim=8, epochs=1, steps_per_epoch=1),
        clustering=ClusteringConfig(num_groups=1),
        refinement=RefinementConfig(steps=3),
    )
    with Narration(quiet=False) as narration:
        run_pipeline(tmp_path / "a.csv", tmp_path / "run", config, narration.stage)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == [
        "data", "tuning", "pretraining", "clustering", "refinement", "block_weights",
    ]  # fmt: skip


def test_a_bar_goes_with_its_stage_without_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Narration()
    shown, hidden = "\x1b[?25h", "\x1b[?25l"  # what is written to show and hide the cursor
    for stage in ("tuning", "pretraining"):
        progress(stage, 2, 40, "loss 1.5")
        told = terminal.getvalue()
        assert told.rindex(hidden) > told.rfind(shown)
        progress(stage, 1, 1, "done")
        told = terminal.getvalue()
        assert told.rindex(shown) > told.rindex(hidden)
        assert f"{stage:13} done" in told
    progress("clustering", 2, 40, "")
    del progress  # as an error does that nobody catches
    assert terminal.getvalue().rindex(shown) > terminal.getvalue().rindex(hidden)


class Notebook:
    """Stands in for what a notebook has of IPython and ipywidgets, and keeps what is displayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, widgets: bool) -> None:
        self.lines: list[str] = []
        self.widgets: list[object] = []
        notebook = self

        class Output:
            closed = False

            def __init__(self) -> None:
                notebook.widgets.append(self)

            def __enter__(self) -> None:
                notebook.lines.append("in a widget")

            def __exit__(self, *_: object) -> None:
                notebook.lines.append("out of it")

            def clear_output(self, wait: bool = False) -> None:
                """Forgets what was drawn before."""

            def close(self) -> None:
                self.closed = True

        def display(shown: object) -> None:
            if not isinstance(shown, Output):
                self.lines.append(str(shown._repr_mimebundle_([], [])["text/plain"]))  # type: ignore[attr-defined]

        modules = {"IPython": types.ModuleType("IPython"), "ipywidgets": None}
        modules["IPython.display"] = types.SimpleNamespace(display=display)  # type: ignore[assignment]
        if widgets:
            spec = importlib.machinery.ModuleSpec("ipywidgets", None)
            modules["ipywidgets"] = types.SimpleNamespace(Output=Output, __spec__=spec)  # type: ignore[assignment]
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)


def tell(progress: Narration) -> None:
    progress("data", 0, 0, "shop.csv")
    progress("data", 1, 1, "5 users")
    progress("pretraining", 2, 40, "loss 1.5")
    progress("pretraining", 1, 1, "done")


def test_bars_in_a_notebook_are_widgets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook(monkeypatch, widgets=True)
    tell(Narration())
    assert len(notebook.widgets) == 2
    assert all(widget.closed for widget in notebook.widgets)  # type: ignore[attr-defined]
    drawn = "".join(notebook.lines)
    assert drawn.index("loss 1.5") < drawn.index("pretraining   done")
    assert "2/40" in drawn
    assert capsys.readouterr().err == ""


def test_a_notebook_without_widgets_has_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook(monkeypatch, widgets=False)
    tell(Narration())
    assert notebook.lines == []
    assert capsys.readouterr().err == "data          5 users\npretraining   done\n"


def test_lines_without_rich(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tell(Narration())
    assert capsys.readouterr().err == "data          5 users\npretraining   done\n"
