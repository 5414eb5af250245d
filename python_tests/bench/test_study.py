"""The study of the parts: what has a row is not measured again, and the documentation is its rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from study import __main__ as command
from study import runs, tables
from study.parts import PARTS
from study.rows import read_rows
from study.runs import Task

from peel_ext.config import PretrainingConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train import pipeline

ROOT = Path(__file__).parent.parent.parent
PAGE = "# A page\n\n<!-- table synthetic/random {} -->\n<!-- end of table -->\n\nIts end.\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command on few interactions, with settings that need no choice."""
    small = make_interactions(SyntheticConfig(num_users=150, num_items=400))
    monkeypatch.setattr(pipeline, "make_interactions", lambda: small)
    given = PretrainingConfig(embedding_dim=16, temperature=0.2, prior=(0.05,), epochs=1)
    full = dataclasses.replace(
        PARTS["full"], change=lambda config: dataclasses.replace(config, pretraining=given)
    )
    monkeypatch.setitem(PARTS, "full", full)
    monkeypatch.setattr(runs, "circumstances", dict)
    (tmp_path / "pictures").mkdir()
    rows = tmp_path / "rows.jsonl"

    def run(parts: str, protocol: str = "known") -> list[dict]:
        (tmp_path / "study.md").write_text(PAGE.format(protocol))
        places = ["--runs", tmp_path / "runs", "--rows", rows, "--docs", tmp_path]
        command.main([str(tmp_path), "--sources", "synthetic/random", "--seeds", "1", "--parts",
                      parts, "--protocol", protocol, *map(str, places)])  # fmt: skip
        return read_rows(rows)

    return run


def test_a_study_that_is_interrupted_goes_on(study, tmp_path, monkeypatch):
    measured = []
    really_measure = command.measure

    def measure(task, *places):
        measured.append(task.part)
        return really_measure(task, *places)

    def killed(stages):
        if stages.config.layout == "columns":
            raise KeyboardInterrupt
        return stages.block_weights()

    monkeypatch.setattr(command, "measure", measure)
    with monkeypatch.context() as patch:
        last = pipeline.STAGES[-1]._replace(make=killed)
        patch.setattr(pipeline, "STAGES", (*pipeline.STAGES[:-1], last))
        with pytest.raises(KeyboardInterrupt):
            study("full,columns")
    (before,) = read_rows(tmp_path / "rows.jsonl")
    full, bits, columns = study("full,columns,bits-4")
    assert measured == ["full", "columns", "bits-4", "columns"]
    assert full == before
    assert columns["training_processor_seconds"] is None  # an earlier process did part of it
    assert (bits["part"], columns["part"]) == ("bits-4", "columns")
    for row in (full, bits, columns):
        assert row["lines"][0] == full["lines"][0]  # the same table, before it is made small
        for line in row["lines"][1:]:
            assert 0 < line["bytes"] <= line["budget_bytes"]
    assert full["lines"][1:] != bits["lines"][1:]
    assert full["lines"][1:] != columns["lines"][1:]
    page = (tmp_path / "study.md").read_text()
    assert page.startswith("# A page\n")
    assert page.endswith("Its end.\n")
    assert "| 4 bits for every value | 1 |" in page
    assert (tmp_path / "pictures" / "study-synthetic-random-known-parts.svg").exists()


def test_blends_and_gaps_are_measured_on_users_held_out(study):
    full, blends = study("full,blends", "offline")
    assert [line["method"] for line in full["lines"][:2]] == ["fresh server", "PEE"]
    assert full["lines"][0]["gap_recovered"] in (1.0, None)
    assert {line["method"] for line in blends["lines"]} == {"PEE, blended for the user"}
    assert blends["training_processor_seconds"] == 0  # the run is that of the base


def row_of(part: str, seed: int, recall: float, ndcg: float = 0.25) -> dict:
    """A row with one budget, 1% of the bytes of a hundred items."""
    line = {"method": "PEE", "budget_bytes": 256, "bytes": 250, "recall": recall, "ndcg": ndcg}
    where = {"data": "synthetic", "split": "random", "protocol": "known", "table_bytes": 25_600}
    return {**where, "part": part, "seed": seed, "lines": [line]}


def test_a_part_is_compared_with_the_same_seeds_of_its_base():
    rows = [row_of("full", 0, 0.5), row_of("full", 1, 0.3), row_of("full", 2, 0.9)]
    rows += [row_of("no-rotation", 0, 0.4), row_of("no-rotation", 1, 0.3)]
    table = tables.make_tables(rows)["synthetic/random known"].splitlines()
    assert table[2].startswith("| peel_ext as it is | 3 | - |")
    assert ".5667 / .2500 | - | |" in table[2]
    assert table[3].endswith(".3500 / .2500 | - | -.0500 ± .0500 |")


def test_shares_are_of_the_gap_or_of_the_full_table_with_the_same_seed():
    new = [row_of("full", seed, 0.5 - 0.1 * seed) | {"protocol": "new"} for seed in (0, 1)]
    for row in new:
        whole = {"method": "full table", "budget_bytes": None, "recall": 0.5, "ndcg": 0.25}
        row["lines"].insert(0, whole)
    offline = row_of("full", 0, 0.5) | {"protocol": "offline"}
    offline["lines"][0]["gap_recovered"] = 1.204
    made = tables.make_tables([*new, offline])
    assert "| 2 | - | - | - | 90.0% ± 10.0 | - |" in made["synthetic/random new shares"]
    assert "| 1 | - | - | - | 120.4% | - |" in made["synthetic/random offline shares"]


def test_a_page_that_asks_for_a_table_without_rows_is_refused():
    with pytest.raises(ValueError, match="got 'toys/last known'"):
        tables.fill("<!-- table toys/last known --><!-- end of table -->", {})


def test_every_part_differs_from_its_base_alone():
    for name, part in PARTS.items():
        task = Task("synthetic/random", "known", 3, name)
        config = task.config()
        assert config.split.seed == config.pretraining.seed == config.control.seed == 3
        base = task.base()
        if base is not None:
            assert list(PARTS).index(base.part) < list(PARTS).index(name)
            assert (config == base.config()) == (part.change is None)


def test_the_documentation_has_the_figures_of_the_rows():
    page = (ROOT / "docs" / "study.md").read_text()
    rows = read_rows(ROOT / "bench" / "results" / "study.jsonl")
    made = tables.make_tables(rows) | {
        "models": tables.make_model_table(read_rows(command.MODEL_ROWS))
    }
    assert page.count("<!-- table ") >= 3
    assert tables.fill(page, made) == page
