from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import call

from peel_ext.errors import RunError
from peel_ext.train.run_folder import RunFolder


@pytest.fixture
def run(small_run: Path) -> Path:
    return small_run


@pytest.mark.parametrize("protocol", ["known", "new"])
def test_every_protocol_says_whom_it_measured(run: Path, capsys, protocol: str) -> None:
    arguments = ("evaluate", run, "--protocol", protocol, "--budgets", "2KiB", "--json")
    summary = json.loads(call(capsys, *arguments)[1])
    assert (summary["protocol"], summary["split"]) == (protocol, "random")
    assert summary["users"] == (160 if protocol == "known" else 40)
    assert len(summary["others"]) == (protocol == "new")
    assert summary["floor"] is None
    assert summary["rivals"] == []


def test_blends_of_known_users_are_refused(run: Path, capsys) -> None:
    code, printed, told = call(capsys, "evaluate", run, "--blends")
    assert (code, printed) == (1, "")
    assert "--blends needs --protocol new or offline, got known" in told


def test_json_and_the_tables_say_the_same(run: Path, capsys) -> None:
    protocol = "offline"
    arguments = (
        "evaluate", run, "--protocol", protocol, "--budgets", "10%,2KiB", "--rivals",
        "--blends",
    )  # fmt: skip
    code, printed, _ = call(capsys, *arguments, "--json")
    assert code == 0
    summary = json.loads(printed)
    assert summary["protocol"] == protocol
    assert summary["users"] == 40
    assert summary["new_user_share"] == 0.2
    lines = [*summary["rows"], *summary["others"], *summary["rivals"]]
    assert summary["choosers"] == 40
    assert len(lines) == 3 + 4 + len(summary["rivals"])
    assert len(summary["rivals"]) > 8
    for line in lines:
        assert line["budget_bytes"] is None or 0 < line["max_bytes"] <= line["budget_bytes"]
        assert 0 <= line["ndcg"] <= 1
        assert 0 <= line["mrr"] <= line["hit_rate"] <= 1
    code, tables, _ = call(capsys, *arguments)
    assert code == 0
    for row in summary["rows"]:
        assert f"{row['recall']:>10.4f} {row['ndcg']:>9.4f}" in tables
    for family in {rival["method"] for rival in summary["rivals"]}:
        recalls = {
            rival["budget"]: rival["recall"]
            for rival in summary["rivals"]
            if rival["method"] == family
        }
        best = [recalls.get(budget) for budget in ("10%", "2KiB")]
        cells = " ".join(f"{'-':>8}" if value is None else f"{value:>8.4f}" for value in best)
        assert any(t.startswith(family) and t.endswith(cells) for t in tables.splitlines())
    assert "of the two variants best for 40 of them" in tables
    ours = {row["budget"]: row for row in summary["rows"]}
    for rival in summary["rivals"]:
        mean, low, high = rival["recall_lead"]
        assert mean == pytest.approx(ours[rival["budget"]]["recall"] - rival["recall"])
        assert low <= mean <= high


def test_the_offline_table_tells_of_the_gap(run: Path, capsys) -> None:
    arguments = ("evaluate", run, "--protocol", "offline", "--budgets", "10%")
    summary = json.loads(call(capsys, *arguments, "--json")[1])
    full, held = summary["rows"]
    gap = full["recall"] - summary["floor"]["recall"]
    if gap > 0:
        assert (full["gap_recovered"], summary["floor"]["gap_recovered"]) == (1, 0)
        expected = (held["recall"] - summary["floor"]["recall"]) / gap
        assert held["gap_recovered"] == pytest.approx(expected)
    else:
        assert held["gap_recovered"] is None
    assert summary["others"][0]["method"] == "PEE, vector never updated"
    tables = call(capsys, *arguments)[1]
    assert "of the gap" in tables
    assert "shipped" in tables


def test_what_a_run_cannot_be_asked(run: Path, capsys) -> None:
    code, printed, told = call(capsys, "evaluate", run, "--protocol", "time")
    assert (code, printed) == (1, "")
    assert told.splitlines()[-1].endswith("train with --split time")


def test_the_last_evaluation_of_a_protocol_is_kept(run: Path, tmp_path: Path, capsys) -> None:
    from peel_ext.evaluation.record import kept_evaluations

    copy = shutil.copytree(run, tmp_path / "run")
    for budget in ("4KiB", "2KiB"):
        arguments = ("evaluate", copy, "--budgets", budget, "--json")
        summary = json.loads(call(capsys, *arguments)[1])
    kept = next(
        each for each in kept_evaluations(RunFolder(copy)) if each.summary["protocol"] == "known"
    )
    assert kept.summary == summary
    assert kept.is_current
    for row in summary["rows"]:
        low, high = row["recall_interval"]
        assert low < row["recall"] < high
    folder = RunFolder(copy)
    facts = {**folder.stages["block_weights"]}
    tensors = folder.load("block_weights")
    tensors["block_weights"] = tensors["block_weights"] * 2
    folder.finish("block_weights", tensors, facts)
    assert not any(each.is_current for each in kept_evaluations(RunFolder(copy)))


def test_an_evaluation_that_cannot_be_kept_is_printed_all_the_same(
    run: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: RunFolder, name: str, value: object) -> None:
        raise RunError(f"{name}: cannot be written: Read-only file system")

    monkeypatch.setattr(RunFolder, "add_document", refuse)
    code, printed, told = call(capsys, "evaluate", run, "--budgets", "2KiB", "--json")
    assert code == 0
    assert json.loads(printed)["protocol"] == "known"
    assert (
        "peel: note: not kept for 'peel report': evaluation-known.json: cannot be written" in told
    )


def test_a_terminal_is_told_what_to_do_next(run: Path, capsys, monkeypatch) -> None:
    arguments = ("evaluate", run, "--budgets", "2KiB")
    assert "next:" not in call(capsys, *arguments)[2]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "next:" not in call(capsys, *arguments, "--quiet")[2]
    told = call(capsys, *arguments)[2]
    assert told.endswith(f"next: peel report {run} --out report.html\n")
