from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call

import peel_ext
from peel_ext.cli import train
from peel_ext.cli.main import main
from peel_ext.config import PipelineConfig
from peel_ext.data import SyntheticConfig, make_interactions, split_interactions
from peel_ext.train.pipeline import TrainedRun


@pytest.fixture(scope="module")
def run(synthetic_run: Path) -> Path:
    (synthetic_run.parent / "notes.json").write_text("")
    return synthetic_run


def test_training_tells_of_stages_on_stderr_alone(small_data: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    code, told, narrated = call(capsys, "train", small_data, "--out", out, "--epochs", 1)
    assert (code, told) == (0, f"{out}\n")
    stages = [line.split()[0] for line in narrated.splitlines()]
    assert stages == [
        "data", "tuning", "pretraining", "clustering", "refinement", "block_weights",
    ]  # fmt: skip
    code, _, narrated = call(capsys, "train", small_data, "--out", out, "--epochs", 1)
    assert code == 0
    assert narrated.count("done before") == 6
    code, _, narrated = call(capsys, "train", small_data, "--out", out, "--epochs", 2)
    assert code == 1
    assert "other settings (pretraining.epochs 2 instead of 1)" in narrated
    assert "make tuning, pretraining, clustering, refinement, block_weights invalid" in narrated
    assert narrated.count("\n") == 1


def test_vectors_of_another_model(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "users.npy", rng.normal(size=(2000, 8)))
    np.save(tmp_path / "items.npy", rng.normal(size=(3000, 8)))
    data = ("train", "synthetic", "--out", tmp_path / "run", "--quiet")
    given = ("--user-embeddings", tmp_path / "users.npy")
    code, _, narrated = call(capsys, *data, *given)
    assert (code, narrated) == (
        1, "peel: --user-embeddings and --item-embeddings must be given together\n",
    )  # fmt: skip
    code, _, narrated = call(capsys, *data, *given, "--item-embeddings", tmp_path / "items.npy")
    assert (code, narrated) == (0, "")
    run = TrainedRun.open(tmp_path / "run")
    assert np.array_equal(
        run.embedding.weight.detach().numpy(), np.load(tmp_path / "items.npy").astype(np.float32)
    )


def test_redo_repeats_what_a_setting_makes_invalid(
    small_data: Path, tmp_path: Path, capsys
) -> None:
    command = ("train", small_data, "--out", tmp_path / "run", "--epochs", 1)
    assert call(capsys, *command, "--groups", 2)[0] == 0
    code, _, narrated = call(capsys, *command, "--groups", 3, "--redo")
    assert code == 0
    assert narrated.count("done before") == 3
    assert len(TrainedRun.open(tmp_path / "run").centroids) == 3


def test_budgets_that_are_too_small_are_left_out(run: Path, capsys) -> None:
    code, printed, told = call(capsys, "evaluate", run, "--budgets", "10%,12,5%", "--json")
    assert code == 0
    summary = json.loads(printed)
    assert [row["budget"] for row in summary["rows"]] == ["full", "10%", "5%"]
    assert len(summary["left_out"]) == 1
    assert f"peel: left out: {summary['left_out'][0]}" in told
    assert summary["left_out"][0].startswith(
        "budget 12: budget_bytes is 12, but user group 0 needs"
    )


def test_ids_with_commas_are_quoted(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    lines = {f'u{user},"a,{item}"' for user, item in rng.integers(0, (30, 40), size=(600, 2))}
    (tmp_path / "a.csv").write_text("\n".join(["user,item", *sorted(lines)]) + "\n")
    out = tmp_path / "run"
    command = ("train", tmp_path / "a.csv", "--out", out, "--epochs", 1, "--temperature", 0.2)
    assert call(capsys, *command)[0] == 0
    code, printed, _ = call(capsys, "recommend", out, "--history", '"a,3","a,5"', "-n", 40)
    assert code == 0
    found = {line.split("\t")[0] for line in printed.splitlines()}
    assert found == {f"a,{item}" for item in range(40)} - {"a,3", "a,5"}


def test_version(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"peel_ext {peel_ext.__version__}\n"


@pytest.mark.slow
def test_an_interruption_while_it_starts_is_one_line() -> None:
    # A job in the background inherits that SIGINT is ignored; here it must not be.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from peel_ext.cli.main import main; print('ready', flush=True); sys.exit(main())"
    )
    for wait in (0.02, 0.1, 0.3, 0.6):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "train", "synthetic", "--out", "/proc/none"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert "Traceback" not in told, wait
        assert told.splitlines()[-1].startswith("peel: ")


def test_options_of_the_method_reach_the_settings() -> None:
    parser = argparse.ArgumentParser()
    train.add_parser(parser.add_subparsers())
    words = "train synthetic --out x --controller bilevel --refinement-steps 7 --temperature 0.3"
    config = train.config_of(parser.parse_args([*words.split(), "--model", "matrix-factorisation"]))
    assert config.control.controller == "bilevel"
    assert config.refinement.steps == 7
    assert config.pretraining.temperature == 0.3
    assert config.pretraining.num_layers == 0
    plain = train.config_of(parser.parse_args(["train", "synthetic", "--out", "x"]))
    assert plain == PipelineConfig()


def test_options_beside_the_preset_replace_what_it_says() -> None:
    parser = argparse.ArgumentParser()
    train.add_parser(parser.add_subparsers())
    words = ["train", "synthetic", "--out", "x", "--preset", "paper"]
    assert train.config_of(parser.parse_args(words)) == PipelineConfig.paper()
    others = (
        "--groups 3 --embedding-dim 32 --controller exposure --layout planes --epochs 4 --seed 5"
    )
    config = train.config_of(
        parser.parse_args([*words, *others.split(), "--refinement-steps", "0"])
    )
    assert config.clustering.num_groups == 3
    assert config.pretraining.embedding_dim == 32
    assert config.pretraining.epochs == 4
    assert config.control.controller == "exposure"
    assert config.layout == "planes"
    assert config.refinement.steps == 0
    assert config.refinement.rows_per_group == 0  # the preset's, which nothing replaces
    seeds = (config.split, config.tuning, config.pretraining, config.clustering, config.control)
    assert {section.seed for section in seeds} == {5}


def test_leaving_out_the_last_of_each_user() -> None:
    parser = argparse.ArgumentParser()
    train.add_parser(parser.add_subparsers())
    words = "train synthetic --out x --split last --test-share 0.001"
    data = make_interactions(SyntheticConfig(num_users=50, num_items=80, mean_interactions=10))
    split = split_interactions(data, None, train.config_of(parser.parse_args(words.split())).split)
    assert np.bincount(split.target.user_rows).tolist() == [1] * split.train.num_users


def test_losses_for_tensorboard(small_data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    written: list[tuple[str, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "losses")

        def add_scalar(self, name: str, loss: float, step: int) -> None:
            assert np.isfinite(loss)
            written.append((name, step))

        def close(self) -> None:
            written.append(("closed", 0))

    command = ("train", small_data, "--epochs", 1, "--quiet", "--temperature", 0.1)
    folder = ("--tensorboard", tmp_path / "losses")
    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    assert call(capsys, *command, "--out", tmp_path / "run", *folder)[0] == 0
    # Two tables are compared and a prior is chosen first, each after a training of one epoch.
    tuning = [("tuning/loss", step) for step in range(1, 49)]
    pretraining = [("pretraining/loss", step) for step in range(1, 17)]
    assert written == [*tuning, *pretraining, ("closed", 0)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, narrated = call(capsys, *command, "--out", tmp_path / "other", *folder)
    assert code == 1
    assert (
        narrated
        == "peel: --tensorboard needs tensorboard: install it with pip install tensorboard\n"
    )


def test_evaluate_prints_json_and_a_table_of_the_same(run: Path, capsys) -> None:
    arguments = ("evaluate", run, "--budgets", "5%,16KiB", "-n", 10)
    code, printed, _ = call(capsys, *arguments, "--json")
    assert code == 0
    summary = json.loads(printed)
    assert (summary["n"], summary["items"], summary["groups"]) == (10, 3000, 3)
    assert [row["budget"] for row in summary["rows"]] == ["full", "5%", "16KiB"]
    for row, most in zip(summary["rows"][1:], (38_400, 16_384), strict=True):
        assert row["max_bytes"] <= row["budget_bytes"] == most
        assert row["recall_share"] == row["recall"] / summary["rows"][0]["recall"]
    code, table, _ = call(capsys, *arguments)
    assert code == 0
    assert len(table.splitlines()) == 5
    for row, line in zip(summary["rows"], table.splitlines()[2:], strict=True):
        assert f"{row['recall']:.4f}" in line
        assert f"{row['max_bytes']:,}" in line


@pytest.mark.parametrize("budget", [None, "1%"])
def test_recommend_leaves_out_what_the_user_knows(run: Path, capsys, budget: str | None) -> None:
    trained = TrainedRun.open(run)
    limits = () if budget is None else ("--budget", budget)
    code, printed, _ = call(capsys, "recommend", run, "--user", 5, "-n", 7, "--json", *limits)
    assert code == 0
    answer = json.loads(printed)
    items = [entry["item"] for entry in answer["items"]]
    scores = [entry["score"] for entry in answer["items"]]
    known = trained.seen([5]).items
    assert len(set(items)) == 7
    assert not set(items) & set(known.tolist())
    assert scores == sorted(scores, reverse=True)
    assert answer["bytes"] <= (trained.full_bytes if budget is None else trained.full_bytes // 100)
    if budget is None:
        exact = trained.embedding.weight.detach().numpy() @ trained.user_vectors[5]
        exact[known] = -np.inf
        assert items == np.argsort(-exact, kind="stable")[:7].tolist()


def test_recommend_from_a_history(run: Path, capsys) -> None:
    code, printed, told = call(capsys, "recommend", run, "--history", "3, 1,3", "-n", 4)
    assert code == 0
    items = [line.split("\t")[0] for line in printed.splitlines()]
    assert len(items) == 4
    assert not {"1", "3"} & set(items)
    assert told.startswith("group ")


def test_n_beyond_the_rows_held_returns_all_of_them(run: Path, capsys) -> None:
    trained = TrainedRun.open(run)
    known = len(trained.seen([1]).items)
    for limits in ((), ("--budget", "100%")):
        arguments = ("recommend", run, "--user", 1, "-n", 2**31 - 1, "--json", *limits)
        code, printed, _ = call(capsys, *arguments)
        assert code == 0
        assert len(json.loads(printed)["items"]) == len(trained.items) - known
    code, printed, _ = call(capsys, "evaluate", run, "--budgets", "100%", "-n", 2**31 - 1, "--json")
    assert code == 0
    assert [row["recall"] for row in json.loads(printed)["rows"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("evaluate", "{run}", "--budgets", "10,9"),
            "budget 10: budget_bytes is 10, but user group",
        ),
        (
            (
                "train",
                "synthetic",
                "--out",
                "{tmp}/out",
                "--user-embeddings",
                "a",
                "--epochs",
                "1",
                "--item-embeddings",
                "b",
            ),
            "--epochs is of pretraining",
        ),
        (
            ("train", "synthetic", "--out", "{run}/.."),
            "expected a run, or no .json and .safetensors files, found notes.json",
        ),
        (("recommend", "{run}", "--user", "1", "--no-item-ids"), "--no-item-ids is for a .peel"),
        (("export", "{run}", "--out", "{run}/run.json"), "run.json cannot be made: File exists"),
        (("evaluate", "{tmp}"), "holds no run: expected a folder made by 'peel train'"),
        (("recommend", "{tmp}", "--user", "1"), "holds no run"),
        (("recommend", "{run}", "--user", "99999"), "user id 99999 is not known"),
        (("recommend", "{run}", "--user", "bob"), "user 'bob' is not known: ids of this run are"),
        (("recommend", "{run}", "--history", "1,,2"), "item '' is not known"),
        (("recommend", "{run}", "--history", ""), "item '' is not known"),
        (("recommend", "{run}", "--user", "1", "--budget", "9"), "needs at least"),
        (("train", "{tmp}/none.csv", "--out", "{tmp}/out"), "none.csv: no such file"),
        (("train", "{tmp}", "--out", "{tmp}/out"), "expected one data file"),
        (("train", "synthetic", "--out", "{tmp}/out", "--seed", "-1"), "seed must be at least 0"),
        (("train", "synthetic", "--out", "{tmp}/out", "--seed", str(2**32)), "below 2^32, got 429"),
        (
            ("train", "synthetic", "--out", "{tmp}/out", "--groups", "513"),
            "num_groups must be between 0 and max_groups (512), got 513",
        ),
        (("train", "synthetic", "--out", "/proc/none"), "/proc/none: cannot be made"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(
    run: Path, tmp_path: Path, capsys, arguments: tuple[str, ...], message: str
) -> None:
    filled = [part.format(run=run, tmp=tmp_path) for part in arguments]
    code, printed, told = call(capsys, *filled)
    assert (code, printed) == (1, "")
    # Narration may come before, the error is the last line.
    last = told.splitlines()[-1]
    assert last.startswith("peel: ")
    assert message in last
    assert "Traceback" not in told


def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,2\n3\n")
    code, _, told = call(capsys, "train", tmp_path / "a.csv", "--out", tmp_path / "out")
    assert code == 1
    assert told.splitlines()[-1] == f"peel: {tmp_path / 'a.csv'}:3: expected 2 fields, got 1"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "arguments are required: VERB"),
        (("fly",), "invalid choice: 'fly'"),
        (("evaluate", "x", "--budgets", "ten"), "'ten' is no budget"),
        (("evaluate", "x", "--budgets", "9" * 400), "is no budget"),
        (("evaluate", "x", "-n", "0"), "'0' is no integer from 1 to 2147483647"),
        (("evaluate", "x", "-n", str(2**31)), "is no integer from 1 to 2147483647"),
        (("evaluate", "x", "-n", "9" * 5000), "is no integer from 1 to 2147483647"),
        (("recommend", "x"), "one of the arguments --user --history --users is required"),
        (("train", "x"), "arguments are required: --out"),
        (("train", "x", "--out", "y", "--layout", "rows"), "invalid choice: 'rows'"),
        (("train", "x", "--out", ""), "argument --out: expected a path, got ''"),
        (("train", "", "--out", "y"), "argument data: expected a path, got ''"),
        (("train", "x", "--out", "y", "--refinement-steps", "-1"), "'-1' is no integer from 0"),
        (("train", "x", "--out", "y", "--refinement-steps", "x"), "'x' is no integer from 0"),
        (("export", "x", "--out", ""), "argument --out: expected a path, got ''"),
        (("evaluate", ""), "argument folder: expected a path, got ''"),
        (("inspect", ""), "argument file: expected a path, got ''"),
        (("recommend", "", "--history", "1"), "argument source: expected a path, got ''"),
        (("bundle", "x", ""), "FILES_OR_FOLDER: expected a path, got ''"),
        (("recommend", "x", "--history", '"1'), "is no list of ids"),
    ],
)
def test_a_usage_error_is_exit_2(capsys, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_doctor(capsys) -> None:
    code, printed, _ = call(capsys, "doctor", "--json")
    assert code == 0
    facts = json.loads(printed)
    assert facts["kernels"] == "right"
    assert facts["instruction set"] in facts["instruction sets"]
    assert facts["threads"] >= 1
    code, printed, _ = call(capsys, "doctor")
    assert code == 0
    assert len(printed.splitlines()) == len(facts)


def test_an_instruction_set_that_is_not_there_is_said_in_one_line() -> None:
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "peel_ext.cli.main", "doctor"],
        env={"PEEL_ISA": "abacus", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert "abacus" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_said_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            [sys.executable, "-P", "-m", "peel_ext.cli.main", "doctor", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.returncode == 1
    assert finished.stderr == "peel: cannot write the result: No space left on device\n"


def test_a_full_disk_is_said_in_one_line(small_data: Path, tmp_path: Path) -> None:
    # A limit on the size of a file fails a write as a full disk does, in the middle. One process tries
    # all of them, for what it imports takes longer than the rest.
    limits = [100, 10_000, 100_000]
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from peel_ext.cli.main import main\n"
        f"for limit in {limits}:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    assert main([*sys.argv[1:], f'run-{limit}']) == 1\n"
    )
    command = ["train", str(small_data), "--epochs", "1", "--temperature", "0.1", "--quiet"]
    command += ["--out"]
    finished = subprocess.run(
        [sys.executable, "-P", "-c", code, *command],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    told = finished.stderr.splitlines()
    for limit, line in zip(limits, told, strict=True):
        assert line.startswith(f"peel: run-{limit}")
        assert "cannot be written: File too large" in line
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    # With room again the run goes on.
    assert main([*command, str(tmp_path / "run-10000")]) == 0


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        f"{sys.executable} -P -m peel_ext.cli.main doctor --json | head -c 1; "
        "exit ${PIPESTATUS[0]}"
    )
    finished = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("options", "next_step"),
    [
        ((), "peel evaluate '{}' --rivals"),
        (("--test-share", "0"), "peel export '{}' --out '{}/devices'"),
    ],
)
def test_training_on_a_terminal_ends_with_what_to_do_next(
    options: tuple[str, ...], next_step: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("peel_ext.train.pipeline.run_pipeline", lambda *_, **__: None)
    out = tmp_path / "a run"
    arguments = ("train", "synthetic", "--out", str(out), *options)
    assert "next:" not in call(capsys, *arguments)[2]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "next:" not in call(capsys, *arguments, "--quiet")[2]
    assert call(capsys, *arguments)[2] == f"next: {next_step.format(out, out)}\n"


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        (lambda: np.empty(1 << 60, dtype=np.uint8), "1.00 EiB more were asked for"),
        (lambda: torch.empty(1 << 60, dtype=torch.uint8), f"{1 << 60} bytes more were asked for"),
        (lambda: bytes(1 << 62), "not enough memory"),
    ],
)
def test_too_little_memory_is_told_in_a_line(allocate, told: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("peel_ext.cli.doctor.run", lambda options: allocate())
    code, _, errors = call(capsys, "doctor")
    assert code == 1
    assert errors.startswith("peel: not enough memory")
    assert errors.endswith(f"{told}\n")
    assert errors.count("\n") == 1


def test_another_error_of_torch_is_no_lack_of_memory(monkeypatch) -> None:
    monkeypatch.setattr("peel_ext.cli.doctor.run", lambda options: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        main(["doctor"])
