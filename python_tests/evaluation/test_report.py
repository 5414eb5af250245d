"""What a report reads from run folders of every kind, and that it tells the truth about them."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_runs import HOSTILE_NAMES, QUICK, keep_evaluations, write_names
from shop_runs import interrupting_at, write_shop

from peel_ext.cli.main import main
from peel_ext.config import (
    ClusteringConfig,
    ColumnsConfig,
    ControlConfig,
    RefinementConfig,
    SplitConfig,
)
from peel_ext.evaluation.report import Report, read_report, render_page
from peel_ext.evaluation.report.blocks import MAX_COLUMNS, GroupBlocks
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import TrainedRun, run_pipeline
from peel_ext.train.vectors import VectorPair

NUM_ITEMS = 199


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 users, and items of which ``NUM_ITEMS`` have interactions."""
    return write_shop(tmp_path_factory.mktemp("shop") / "shop.csv")


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 groups, of which nothing was measured."""
    place = tmp_path_factory.mktemp("run") / "run"
    run_pipeline(data, place, QUICK)
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return read_report(folder)


def test_a_run_that_was_not_measured(report: Report) -> None:
    assert report.evaluations == []
    assert [line for line in report.missing if line.startswith("Quality: not measured yet")]
    assert [line for line in report.missing if line.startswith("Names of items")]
    assert len(report.missing) == 2
    assert report.versions["peel_ext"] == report.version
    assert set(report.versions) == {"peel_ext", "python", "torch", "numpy"}
    assert all(stage.seconds is not None for stage in report.stages)
    assert list(report.budgets.values()) == ["10%", "5%"]  # the others have no room for a block
    page = render_page(report)
    assert "peel evaluate" in page
    assert 'id="quality"' not in page
    assert 'id="blocks"' in page


def test_no_budget_with_room_for_a_block(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("peel_ext.evaluation.report.contents._SHARES", (0.01, 0.001))
    report = read_report(folder)
    assert report.budgets == {}
    assert any("no block fits under 1%, 0.1%" in line for line in report.missing)
    assert [len(example.lists) for example in report.examples] == [1, 1, 1]
    page = render_page(report)
    assert 'id="bytes"' not in page
    assert 'id="blocks"' in page


def test_the_numbers_are_those_that_were_measured(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    summary = keep_evaluations(copy, "known")["known"]
    report = read_report(copy)
    assert [each.summary for each in report.evaluations] == [summary]
    assert not any(line.startswith(("Quality", "Rivals")) for line in report.missing)
    assert list(report.budgets.values()) == ["10%", "5%"]
    page = render_page(report)
    for row in (*summary["rows"], *summary["rivals"]):
        cell = f'<td class="recall">{row["recall"]:.4f} <span class="interval">'
        low, high = row["recall_interval"]
        assert f"{cell}{low:.4f}–{high:.4f}" in page  # noqa: RUF001
    assert len(page.encode()) < 2_000_000


def test_an_evaluation_of_another_run_is_left_out(folder: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    keep_evaluations(copy, "known", rivals=False)
    run_pipeline(
        data, copy, dataclasses.replace(QUICK, control=ControlConfig("regression")), redo=True
    )
    report = read_report(copy)
    assert report.evaluations == []
    assert any("measured before the run was trained anew" in line for line in report.missing)


def test_what_a_budget_holds_is_what_a_device_holds(
    folder: Path, report: Report, seed: int
) -> None:
    run = TrainedRun.open(folder)
    pictures = report.blocks
    assert pictures is not None
    rng = np.random.default_rng(seed)
    for group in pictures.groups:
        for budget in rng.choice(pictures.budgets, 8, replace=False).tolist():
            pee, held = run.embedding.generate(group.group, budget), group.held(budget)
            assert (held["bytes"], held["rows"]) == (pee.nbytes, len(pee.row_ids))
        assert group.count(int(group.parts.total[1]) - 1) == 0


def test_a_picture_shows_every_block_once(report: Report) -> None:
    pictures = report.blocks
    assert pictures is not None
    for group in pictures.groups:
        cells = group.cells(pictures.layout)
        assert sorted(cell["place"] for cell in cells) == list(range(len(cells)))
        assert max(cell["power"] for cell in cells) == 0
        assert (cells[0]["x"], cells[-1]["x2"]) == (1, NUM_ITEMS + 1)
        assert all(before["x2"] > before["x"] for before in cells)
        placed = sorted(cells, key=lambda cell: cell["place"])
        assert all(cell["y"] == 0 for cell in placed[:1])


def test_neighbouring_item_groups_share_a_column_where_there_are_many(seed: int) -> None:
    import torch

    from peel_ext import ElasticEmbedding
    from peel_ext.format import PlanesLayout

    embedding = ElasticEmbedding(1000, 8, layout=PlanesLayout(rows_per_block=1))
    generator = torch.Generator().manual_seed(seed)
    embedding.set_row_values(torch.rand(1, 1000, generator=generator))
    group = GroupBlocks.of_group(embedding, 0, 1)
    cells = group.cells(embedding.layout)
    assert 100 < len(cells) / 5 <= MAX_COLUMNS
    of_layer = [cell for cell in cells if cell["y"] == 0]
    assert (of_layer[0]["x"], of_layer[-1]["x2"]) == (1, 1001)
    assert all(a["x2"] == b["x"] for a, b in itertools.pairwise(of_layer))
    for cell in cells:  # a cell is kept once all its blocks are
        rows = range(int(cell["x"]) - 1, int(cell["x2"]) - 1)
        assert cell["place"] == max(group.place[row, int(cell["y"])] for row in rows)


def test_topics_are_shares_of_users(folder: Path, report: Report) -> None:
    run = TrainedRun.open(folder)
    lists = [set(own.tolist()) for own in run.train]
    assert len(report.topics) == 3
    for topic in report.topics:
        members = [lists[user] for user in np.flatnonzero(run.user_group == topic.group)]
        assert topic.num_users == len(members)
        leads = []
        for item in topic.distinctive:
            assert item.in_group == pytest.approx(np.mean([item.row in own for own in members]))
            assert item.overall == pytest.approx(np.mean([item.row in own for own in lists]))
            leads.append(item.in_group - item.overall)
        assert leads == sorted(leads, reverse=True)
        assert leads[-1] > 0


def test_lists_are_those_of_the_run(folder: Path, report: Report) -> None:
    run = TrainedRun.open(folder)
    assert len(report.examples) == 3
    for example in report.examples:
        user = run.users.to_rows([example.user])[0]
        own, targets = run.train[user], run.test[user]
        exclude = [run.items.to_ids(own)]
        full = example.lists[0].rows
        assert [each.budget_bytes for each in example.lists] == [None, *report.budgets]
        for each in example.lists:
            found = run.recommend([example.user], 10, each.budget_bytes, exclude=exclude)
            rows = [run.items.to_rows([item])[0] for item in found.items[0]]
            assert each.rows == rows
            assert each.hits == [row in targets for row in rows]
            assert each.kept == [row in full for row in rows]
            assert each.nbytes <= (each.budget_bytes or run.full_bytes)


@pytest.mark.parametrize("value_type", ["float32", "int8"])
def test_columns_layout(data: Path, tmp_path: Path, value_type: str) -> None:
    columns = ColumnsConfig(num_item_groups=5, block_dim=4, value_type=value_type)
    control = ControlConfig("bilevel", steps=4)
    config = dataclasses.replace(
        QUICK, layout="columns", columns=columns, control=control,
        refinement=RefinementConfig(steps=3, rows_per_group=20),
    )  # fmt: skip
    run = run_pipeline(data, tmp_path / "run", config)
    report = read_report(tmp_path / "run")
    assert report.blocks is not None
    assert report.blocks.layers == ["0-3", "4-7", "8-11", "12-15"]
    for budget in report.blocks.budgets[::10]:
        held = report.blocks.groups[0].held(budget)
        assert held["bytes"] == run.embedding.generate(report.topics[0].group, budget).nbytes
    curves = {curve.stage: curve for curve in report.curves}
    assert list(curves) == ["pretraining", "refinement", "block_weights"]
    assert (len(curves["refinement"].steps), curves["block_weights"].steps[-1]) == (3, 4)
    assert "losses-block_weights" in render_page(report)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_few_groups(data: Path, tmp_path: Path, num_groups: int) -> None:
    config = dataclasses.replace(QUICK, clustering=ClusteringConfig(num_groups=num_groups))
    run_pipeline(data, tmp_path / "run", config)
    report = read_report(tmp_path / "run")
    assert len(report.topics) == len(report.examples) == num_groups
    assert ("the group is everybody" in render_page(report)) == (num_groups == 1)


def test_vectors_of_another_model(data: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = VectorPair(
        *(rng.normal(size=(count, 16)).astype(np.float32) for count in (150, NUM_ITEMS))
    )
    run_pipeline(data, tmp_path / "run", QUICK, vectors=vectors)
    report = read_report(tmp_path / "run")
    assert "Training curves: the vectors were brought from another model." in report.missing
    assert report.curves == []
    assert report.examples
    render_page(report)


def test_a_run_on_all_interactions(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, split=SplitConfig(test_share=0))
    run_pipeline(data, tmp_path / "run", config)
    report = read_report(tmp_path / "run")
    assert any("nothing to measure on" in line for line in report.missing)
    assert all(example.num_targets == 0 for example in report.examples)


@pytest.mark.parametrize(
    ("stage", "step"),
    [("tuning", 0), ("pretraining", 4), ("block_weights", 0)],
)
def test_an_interrupted_run(
    stage: str, step: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timer, "is_due", lambda self: True)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(data, tmp_path / "run", QUICK, interrupting_at(stage, step))
    report = read_report(tmp_path / "run")
    unfinished = [each.name for each in report.stages if each.seconds is None]
    assert unfinished[0] == stage
    assert any(f"The stages {stage}" in line for line in report.missing)
    assert (report.blocks, report.examples, report.evaluations) == (None, [], [])
    assert bool(report.topics) == (stage == "block_weights")
    if stage == "pretraining":
        assert [(curve.steps[-1], curve.is_finished) for curve in report.curves] == [(4, False)]
        assert "Up to the last checkpoint" in render_page(report)
    else:
        assert bool(report.curves) == (stage == "block_weights")
        render_page(report)


def test_names_are_escaped(folder: Path, tmp_path: Path) -> None:
    items = TrainedRun.open(folder).items.ids.tolist()
    names = write_names(tmp_path / "names.csv", items)
    page = render_page(read_report(folder, names))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "x" * 81 not in page
    assert "<bdi>שלום עולם</bdi>" in page
    assert "\u202e" not in page
    assert max(len(name) for name in HOSTILE_NAMES) > 1000


def test_the_command(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def call(*arguments: object) -> tuple[int, list[str], str]:
        capsys.readouterr()
        code = main(["report", *map(str, arguments)])
        streams = capsys.readouterr()
        return code, streams.out.splitlines(), streams.err

    out, pictures = tmp_path / "report.html", tmp_path / "png"
    code, printed, _ = call(folder, "--out", out, "--png", pictures)
    assert code == 0
    assert printed == [str(out), *(str(pictures / f"{name}.png") for name in (
        "bytes", "losses-pretraining", "blocks"
    ))]  # fmt: skip
    for name in printed[1:]:
        assert Path(name).read_bytes()[:4] == b"\x89PNG"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    code, printed, told = call(folder)
    assert (code, printed) == (1, [])
    assert told == "peel: report needs --out FILE for a page, --png FOLDER for pictures, or both\n"
    code, _, told = call(tmp_path, "--out", out)
    assert (code, told.count("\n")) == (1, 1)
    assert "holds no run" in told
    code, _, told = call(folder, "--out", tmp_path / "no" / "report.html")
    assert (code, told.count("\n")) == (1, 1)
    code, _, told = call(folder, "--png", out)
    assert (code, told.count("\n")) == (1, 1)
    monkeypatch.setitem(__import__("sys").modules, "altair", None)
    code, _, told = call(folder, "--out", out)
    assert code == 1
    assert told == "peel: this needs altair: install it with pip install 'peel_ext[report]'\n"
