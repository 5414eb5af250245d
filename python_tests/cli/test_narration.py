from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from peel_ext.cli.narration import Narration
from peel_ext.config import ClusteringConfig, PipelineConfig, PretrainingConfig, RefinementConfig
from peel_ext.data import SyntheticConfig, make_interactions
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
