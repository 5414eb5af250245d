from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from shop_runs import contents, interrupting_at, write_shop

from peel_ext.cli.main import main
from peel_ext.config import (
    ClusteringConfig,
    ColumnsConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
    SplitConfig,
)
from peel_ext.errors import DataError, RunError, TrainingWarning
from peel_ext.format import ColumnsLayout
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import TrainedRun, load_split, run_pipeline
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.vectors import VectorPair

SMALL = PipelineConfig(pretraining=PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4))
STAGES = ["data", "tuning", "pretraining", "clustering", "refinement", "block_weights"]


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """A file that a test may change."""
    return write_shop(tmp_path / "shop.csv")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Contents of a run on that file that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_pipeline(write_shop(folder / "shop.csv"), folder / "run", SMALL)
    return contents(folder / "run")


def test_a_loss_that_does_not_fall_is_told_of(data_file: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL.pretraining, epochs=5, temperature=0.2)
    usual = dataclasses.replace(SMALL, pretraining=settings)
    told: list[str] = []
    run_pipeline(data_file, tmp_path / "usual", usual, on_remark=told.append)
    assert told == []
    wild = dataclasses.replace(usual, pretraining=dataclasses.replace(settings, learning_rate=1e30))
    run_pipeline(data_file, tmp_path / "wild", wild, on_remark=told.append)
    (remark,) = told
    assert remark.startswith("the loss of pretraining did not fall: ")
    assert remark.endswith("try a lower learning rate than 1e+30")
    with pytest.warns(TrainingWarning, match="the loss of pretraining did not fall"):
        run_pipeline(data_file, tmp_path / "warned", wild)


def test_a_run_holds_what_it_was_given(data_file: Path, tmp_path: Path) -> None:
    run = run_pipeline(data_file, tmp_path / "run", SMALL)
    assert list(run.folder.stages) == STAGES
    parts = load_split(data_file, SMALL.split)
    assert run.items.to_ids(np.arange(3)) == [0, 7, 14]
    assert run.users.to_ids([0]) == ["u0"]
    assert np.array_equal(run.train.items, parts.train.csr().items)
    assert np.array_equal(run.test.items, parts.target.csr().items)
    assert run.user_vectors.shape == (150, 16)
    assert run.embedding.num_groups == len(run.centroids) == 2
    assert run.folder.config == json.loads(json.dumps(dataclasses.asdict(SMALL)))
    again = TrainedRun.open(tmp_path / "run")
    assert torch.equal(again.embedding.weight, run.embedding.weight)
    pees = [made.embedding.generate(0, 2000).buffer for made in (run, again)]
    assert np.array_equal(*pees)


def test_copies_of_a_run_are_the_same(data_file: Path, tmp_path: Path) -> None:
    run = run_pipeline(data_file, tmp_path / "run", SMALL)
    pee = run.embedding.generate(1, 2000)
    for again in (copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))):
        twin = again(run)
        assert twin.folder.stages == run.folder.stages
        assert twin.items.to_ids(np.arange(3)) == run.items.to_ids(np.arange(3))
        assert np.array_equal(twin.train.items, run.train.items)
        assert np.array_equal(twin.user_vectors, run.user_vectors)
        assert torch.equal(twin.embedding.weight, run.embedding.weight)
        for made in (twin.embedding.generate(1, 2000), again(pee)):
            assert np.array_equal(made.buffer, pee.buffer)
            assert made.nbytes == pee.nbytes


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_equals_uninterrupted(
    stage: str,
    data_file: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = RunFolder.finish

    def stop(self: RunFolder, name: str, *args: object) -> None:
        if name == stage:
            raise KeyboardInterrupt
        before(self, name, *args)

    monkeypatch.setattr(RunFolder, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(data_file, tmp_path / "torn", SMALL)
    with pytest.raises(RunError, match="is not finished: run 'peel train' again"):
        TrainedRun.open(tmp_path / "torn")
    monkeypatch.setattr(RunFolder, "finish", before)
    done: list[str] = []
    run_pipeline(
        data_file,
        tmp_path / "torn",
        SMALL,
        lambda name, at, total, remark: done.append(name) if remark == "done before" else None,
    )
    assert done == STAGES[: STAGES.index(stage)]
    assert contents(tmp_path / "torn") == whole


def test_a_finished_run_is_not_repeated(data_file: Path, tmp_path: Path) -> None:
    run_pipeline(data_file, tmp_path / "run", SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    run_pipeline(data_file, tmp_path / "run", SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}


def test_other_settings_or_data_are_refused_or_redone(data_file: Path, tmp_path: Path) -> None:
    run_pipeline(data_file, tmp_path / "run", SMALL)
    other = dataclasses.replace(SMALL, clustering=ClusteringConfig(num_groups=5))
    with pytest.raises(
        RunError,
        match=r"clustering\.num_groups 5 instead of 0\), which make clustering, .*block_weights invalid",
    ):
        run_pipeline(data_file, tmp_path / "run", other)
    done: list[str] = []

    def note(name: str, at: int, total: int, remark: str) -> None:
        if remark == "done before":
            done.append(name)

    run_pipeline(data_file, tmp_path / "run", other, note, redo=True)
    assert done == ["data", "tuning", "pretraining"]
    run_pipeline(data_file, tmp_path / "whole", other)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    data_file.write_text(data_file.read_text() + "u3,8\n")
    with pytest.raises(RunError, match=r"other data\), which make data, .* invalid"):
        run_pipeline(data_file, tmp_path / "run", other)


def test_settings_of_stages_not_begun_may_change(data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(data_file, tmp_path / "run", SMALL, interrupting_at("clustering", 0))
    other = dataclasses.replace(SMALL, clustering=ClusteringConfig(num_groups=5))
    assert len(run_pipeline(data_file, tmp_path / "run", other).centroids) == 5


def test_one_process_at_a_time(data_file: Path, tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "run").lock(),
        pytest.raises(RunError, match="another process is training here"),
    ):
        run_pipeline(data_file, tmp_path / "run", SMALL)


@pytest.mark.parametrize(
    ("stage", "step"),
    [("tuning", step) for step in (1, 3, 4, 7, 8, 12)]
    + [("pretraining", step) for step in (1, 3, 4, 7)],
)
def test_a_stage_goes_on_from_its_checkpoint(
    stage: str,
    step: int,
    data_file: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Timer, "is_due", lambda self: True)
    seen: list[tuple[str, int]] = []
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(data_file, tmp_path / "torn", SMALL, interrupting_at(stage, step))
    run_pipeline(
        data_file, tmp_path / "torn", SMALL, on_loss=lambda name, at, _: seen.append((name, at))
    )
    assert contents(tmp_path / "torn") == whole
    # A training's last step is saved with what comes of it.
    assert seen[0] == (stage, step if (stage, step) == ("tuning", 8) else step + 1)


def test_vectors_of_another_model(data_file: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = SplitConfig(new_user_share=0.2)
    config = dataclasses.replace(SMALL, split=split)
    parts = load_split(data_file, split)
    num_known, num_new = len(parts.train.users), len(parts.history.users)
    everybody = sorted([*parts.train.users.ids, *parts.history.users.ids])
    users = rng.normal(size=(num_known + num_new, 12)).astype(np.float32)
    items = rng.normal(size=(len(parts.train.items), 12)).astype(np.float32)
    run = run_pipeline(data_file, tmp_path / "all", config, vectors=VectorPair(users, items))
    known = users[[everybody.index(name) for name in parts.train.users.ids]]
    lengths = np.linalg.norm(known, axis=1, keepdims=True)
    np.testing.assert_allclose(run.user_vectors, known / lengths, rtol=1e-5)
    assert np.array_equal(run.embedding.weight.detach().numpy(), items)
    same = run_pipeline(data_file, tmp_path / "known", config, vectors=VectorPair(known, items))
    assert np.array_equal(same.user_vectors, run.user_vectors)
    with pytest.raises(RunError, match=r"vectors '.*' instead of '.*'.*pretraining"):
        run_pipeline(data_file, tmp_path / "all", config, vectors=VectorPair(users, -items))
    with pytest.raises(DataError, match=f"one row for each of the {len(items)} items"):
        run_pipeline(data_file, tmp_path / "x", config, vectors=VectorPair(users, items[1:]))


def test_columns_layout_runs_too(data_file: Path, tmp_path: Path) -> None:
    columns = ColumnsConfig(num_item_groups=7, block_dim=4, value_type="int8")
    config = dataclasses.replace(SMALL, layout="columns", columns=columns)
    run = run_pipeline(data_file, tmp_path / "run", config)
    assert run.embedding.rotation is None
    assert run.embedding.layout == ColumnsLayout(4, "int8", 7)
    assert run.embedding.block_weights.shape == (2, 7, 4)
    assert run.embedding.generate(0, 4000).nbytes <= 4000


@pytest.mark.parametrize("dim", [5, 768])
def test_columns_of_vectors_of_any_width(
    dim: int, data_file: Path, tmp_path: Path, seed: int
) -> None:
    parts = run_pipeline(data_file, tmp_path / "first", SMALL)
    rng = np.random.default_rng(seed)
    users, items = (
        rng.normal(size=(len(each), dim)).astype(np.float32)
        for each in (parts.user_vectors, parts.item_vectors)
    )
    config = dataclasses.replace(SMALL, layout="columns")
    run = run_pipeline(data_file, tmp_path / "run", config, vectors=VectorPair(users, items))
    assert run.embedding.layout.block_dim == {5: 5, 768: 12}[dim]
    assert run.embedding.generate(0, 10**7).row_ids.tolist() == list(range(len(items)))


def test_the_settings_of_the_paper_refine_all_rows(data_file: Path, tmp_path: Path) -> None:
    paper = PipelineConfig.paper()
    quick = dataclasses.replace(
        paper,
        pretraining=dataclasses.replace(paper.pretraining, epochs=1, temperature=0.1),
        refinement=dataclasses.replace(paper.refinement, steps=1),
        control=dataclasses.replace(paper.control, steps=1),
    )
    run = run_pipeline(data_file, tmp_path / "run", quick)
    assert run.embedding.block_weights.shape == (16, 20, 16)  # groups, item groups, layers
    assert run.embedding.refinement.shape == (16 * len(run.items), 128)
    assert run.embedding.layout == ColumnsLayout()


@pytest.mark.parametrize("controller", ["regression", "bilevel"])
@pytest.mark.parametrize("layout", ["planes", "columns"])
def test_refinement_and_both_controllers_reach_the_embedding(
    data_file: Path, tmp_path: Path, controller: str, layout: str
) -> None:
    plain = run_pipeline(data_file, tmp_path / "plain", dataclasses.replace(SMALL, layout=layout))
    config = dataclasses.replace(
        SMALL,
        refinement=RefinementConfig(steps=2, rows_per_group=30),
        control=ControlConfig(controller=controller, steps=3, batch_size=64),
        layout=layout,
    )
    run = run_pipeline(data_file, tmp_path / "run", config)
    made = run.folder.load("refinement")
    assert made["rows"].shape == (2, 30)
    rows = torch.from_numpy(made["rows"][1])
    expected = plain.embedding.weight[rows] + torch.from_numpy(made["additions"][1])
    assert torch.equal(run.embedding(rows, groups=1), expected)
    assert torch.equal(run.embedding(rows), plain.embedding.weight[rows])
    assert not torch.equal(run.embedding.block_weights, plain.embedding.block_weights)
    assert run.embedding.generate(0, 6000).nbytes <= 6000


@pytest.mark.parametrize("layout", ["planes", "columns"])
def test_a_run_says_which_mixture_it_took(data_file: Path, tmp_path: Path, layout: str) -> None:
    config = dataclasses.replace(SMALL, control=ControlConfig(controller="mixture"), layout=layout)
    run = run_pipeline(data_file, tmp_path / "run", config)
    facts = run.folder.stages["block_weights"]
    assert facts["neighbours"] in (0, 0.25, 0.5, 1)
    assert facts["neighbour_temperature"] > 0
    assert run.embedding.generate(0, 6000).nbytes <= 6000


@pytest.mark.parametrize("name", ["users.json", "items.json"])
def test_damaged_ids_are_refused(data_file: Path, tmp_path: Path, name: str) -> None:
    run_pipeline(data_file, tmp_path / "run", SMALL)
    path, part = tmp_path / "run" / name, name.removesuffix(".json")
    whole = path.read_bytes()
    digit = next(at for at, byte in enumerate(whole) if chr(byte).isdigit())
    flipped = whole[:digit] + bytes([whole[digit] ^ 1]) + whole[digit + 1 :]
    for damaged in (b"", b"[1, 2]", whole[:-2], flipped):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=f"{name}: damaged"):
            getattr(TrainedRun.open(tmp_path / "run"), part)
    path.write_bytes(whole)
    assert len(getattr(TrainedRun.open(tmp_path / "run"), part))


def test_validation_never_sees_the_test_interactions(data_file: Path) -> None:
    outer = load_split(data_file, SplitConfig())
    inner = load_split(data_file, SplitConfig(target="validation"))

    def pairs(data) -> set[tuple[int, int]]:
        return set(zip(data.user_rows.tolist(), data.item_rows.tolist(), strict=True))

    assert pairs(inner.train) | pairs(inner.target) == pairs(outer.train)
    assert not pairs(inner.train) & pairs(inner.target)
    assert not pairs(inner.target) & pairs(outer.target)
    assert len(inner.target) == pytest.approx(0.1 * len(outer.train), rel=0.2)


def test_one_interaction_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user,item\n1,2\n")
    (tmp_path / "test.csv").write_text("user,item\n1,2\n")
    parts = load_split(tmp_path, SplitConfig())
    assert (len(parts.train), len(parts.target), parts.num_left_out) == (1, 0, 1)
    run = run_pipeline(tmp_path, tmp_path / "run", SMALL)
    assert len(run.users) == len(run.items) == 1


def test_an_empty_training_file(tmp_path: Path) -> None:
    table = pyarrow.table({"user_id": pyarrow.array([], pyarrow.int64()), "item_id": [1][:0]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: no interactions"):
        load_split(tmp_path / "train.parquet", SplitConfig())


def test_users_and_items_of_the_test_file_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user,item\na,2\na,4\n")
    (tmp_path / "test.csv").write_text("user,item\nb,3\na,4\n")
    told: list[str] = []
    run = run_pipeline(tmp_path, tmp_path / "run", SMALL, on_remark=told.append)
    assert told == [
        "1 of 2 users of the test part are not in the training part",
        "1 of 2 items of the test part are not in the training part",
    ]
    # A user without training interactions is none of the run; items may appear later.
    assert run.users.to_ids([0]) == ["a"]
    assert run.items.to_ids([0, 1, 2]) == [2, 3, 4]
    assert len(run.test.items) == 0


def test_new_users_take_no_part_in_training(data_file: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, split=SplitConfig(new_user_share=0.2, seed=3))
    run = run_pipeline(data_file, tmp_path / "run", config)
    assert (len(run.users), len(run.new_users)) == (120, 30)
    assert not set(run.users.ids) & set(run.new_users.ids)
    assert len(run.user_vectors) == len(run.user_group) == 120
    assert len(run.history) == len(run.history_test) == 30
    assert run.history.counts.min() > 0
    # Training on a file without them gives the same bits.
    parts = load_split(data_file, config.split)
    pairs = zip(
        parts.train.users.to_ids(parts.train.user_rows),
        parts.train.items.to_ids(parts.train.item_rows),
        strict=True,
    )
    lines = [f"{user},{item}\n" for user, item in pairs]
    known = tmp_path / "known"
    known.mkdir()
    (known / "train.csv").write_text("user,item\n" + "".join(lines))
    every = "".join(f"nobody,{item}\n" for item in run.items.ids)
    (known / "test.csv").write_text("user,item\n" + lines[0] + every)
    without = run_pipeline(known, tmp_path / "without", SMALL, on_remark=lambda _: None)
    assert np.array_equal(without.train.items, run.train.items)
    assert np.array_equal(without.user_vectors, run.user_vectors)
    assert torch.equal(without.embedding.weight, run.embedding.weight)


@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_is_never_taken_for_whole(
    data_file: Path, tmp_path: Path, deadly: signal.Signals
) -> None:
    # A job in the background inherits that SIGINT is ignored; here it must not be.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from peel_ext.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-P", "-c", code, "train", str(data_file)]
    command += ["--out", str(tmp_path / "run"), "--epochs", "100000", "--temperature", "0.1"]
    command += ["--embedding-dim", "16"]  # given, as the temperature: nothing is compared first
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "tuning.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # well into the long stage
        process.send_signal(deadly)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    # To a shell both are 128 + signal; the interpreter itself sometimes ends by the signal.
    assert process.returncode in (128 + deadly, -deadly)
    assert "Traceback" not in told
    if deadly == signal.SIGINT:
        assert told.splitlines()[-1].startswith("peel: interrupted")
    assert list(RunFolder(tmp_path / "run").stages) == ["data", "tuning"]
    with pytest.raises(RunError, match="stage 'block_weights' is not finished"):
        TrainedRun.open(tmp_path / "run")


def test_a_run_killed_within_an_epoch_ends_the_same(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Saves after every step, so that the kill can come anywhere between two of them.
    code = (
        "import sys; from peel_ext.train.checkpoint import Timer; Timer.is_due = lambda self: True; "
        "from peel_ext.cli.main import main; sys.exit(main())"
    )

    def arguments(out: str) -> list[str]:
        command = ["train", str(data_file), "--out", str(tmp_path / out), "--epochs", "4"]
        return [*command, "--temperature", "0.1", "--embedding-dim", "16", "--quiet"]

    monkeypatch.setattr(Timer, "is_due", lambda self: True)
    assert main(arguments("whole")) == 0
    kills = 0
    for wait in (0.0, 0.05):
        command = [sys.executable, "-P", "-c", code, *arguments("torn")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and not list((tmp_path / "torn").glob("pre*.checkpoint*")):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(wait)
        finally:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills > 0
    assert main(arguments("torn")) == 0
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
