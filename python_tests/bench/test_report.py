"""The benchmark report: ratios, verdicts and what a run left out."""

import json
import re

import pytest
import report

MACHINE = {
    "cpu": {"brand_raw": "a processor"}, "processor": "", "usable_cores": 2, "caches": {"L2": "1M"},
    "isa": {}, "blas": {}, "python_version": "3.12.0",
}  # fmt: skip


def measured(contender, median, case="10% of 2^26", kernel="topk_blocks", **more):
    info = {
        "kernel": kernel,
        "case": case,
        "contender": contender,
        "threads": 1,
        "shape": [1, 1000],
    }
    stats = {"median": median, "iqr": 0.0, "min": median, "rounds": 5}
    return {"extra_info": {**info, "bytes": 8, **more}, "stats": stats}


def run_of(*benchmarks):
    return {
        "machine_info": MACHINE,
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-11-24T01:02:03",
        "benchmarks": list(benchmarks),
    }


def test_ratios_are_within_a_case():
    run = run_of(
        measured("peel_ext", 0.2),
        measured("streaming read", 0.1, to_ours=0.25),
        measured("torch.topk", 2.0, to_ours=8.0),
        measured("torch.topk", 9.0, case="another"),
    )
    ours, limit, peer, alone = report.rows_of(run)
    # What was measured by turns counts, not the medians of each alone.
    assert (ours["to_limit"], ours["to_ours"], ours["limit"]) == (4.0, 1.0, 0.1)
    assert (limit["to_limit"], limit["to_ours"]) == (1.0, 0.25)
    assert (peer["to_limit"], peer["to_ours"]) == (32.0, 8.0)
    assert (alone["to_limit"], alone["to_ours"], alone["limit"]) == (None, None, None)


def test_targets_are_judged_and_the_missing_ones_named(capsys):
    run = run_of(
        measured("peel_ext", 0.2),
        measured("streaming read", 0.1, to_ours=0.5),
        measured("torch.topk", 2.0, to_ours=10.0),
        measured("torch.topk, unsorted", 2.0),
    )
    report.print_table(report.rows_of(run), run)
    out = capsys.readouterr().out
    assert "streaming read: 2.00, wanted <= 5: met" in out
    assert "torch.topk: 10.00, wanted >= 20: MISSED" in out
    assert "not measured: topk_blocks, 10% of 2\\^26, against numpy.argpartition" in out
    assert "torch.topk, unsorted 2 s" in out  # without a turn beside ours: its time
    assert "1 of 2 targets met" in out


def test_cost_against_budget_is_time_a_byte():
    full = measured(
        "peel_ext", 1.0, "planes, 8 bits, 100% of the bytes", "gathered_score", bytes=1000
    )
    part = measured(
        "peel_ext", 0.2, "planes, 8 bits, 10% of the bytes", "gathered_score", bytes=100
    )
    rows = report.rows_of(run_of(full, part))
    (target,) = report.targets_of(("gathered_score", rows[1]["case"], 1))
    assert report.value_against(target, rows[1], report.groups_of(rows)) == pytest.approx(2.0)


def test_appended_rows_say_where_they_come_from(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text(json.dumps(run_of(measured("peel_ext", 0.2))))
    rows = tmp_path / "kernels.jsonl"
    for _ in range(2):
        arguments = ["report.py", str(tmp_path / "run.json"), "--append", str(rows)]
        monkeypatch.setattr("sys.argv", arguments)
        report.main()
    first, second = (json.loads(line) for line in rows.read_text().splitlines())
    assert first == second
    assert first["commit"] == "0123456789-dirty"
    assert first["machine"]["processor"] == "a processor"
    assert "peel_ext" in first["versions"]


def test_every_target_can_be_judged():
    for target in report.TARGETS:
        assert ("at_most" in target) != ("at_least" in target), target
        re.compile(target["case"])
