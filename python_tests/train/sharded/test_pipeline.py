"""A run of two processes is one that every verb reads, with the quality of one process."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_rank
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from rank_processes import RankProcesses

from peel_ext.cli.main import main
from peel_ext.config import (
    ClusteringConfig,
    PipelineConfig,
    PretrainingConfig,
    ReadingConfig,
    SplitConfig,
    TuningConfig,
)
from peel_ext.data import IdMap, SyntheticConfig, make_interactions
from peel_ext.errors import PeelError
from peel_ext.evaluation import evaluate_run
from peel_ext.nn import ElasticEmbedding
from peel_ext.scale.collectives import Collectives
from peel_ext.train import item_prior
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import TrainedRun, run_pipeline
from peel_ext.train.population import Population
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.sharded import pretraining as sharded_pretraining
from peel_ext.train.sharded.data import collect_ids
from peel_ext.train.sharded.held_out import measure_recency
from peel_ext.train.sharded.pipeline import (
    Listeners,
    run_sharded_pipeline,
    train_together,
)
from peel_ext.train.vectors import VectorPair

CONFIG = PipelineConfig(
    pretraining=PretrainingConfig(embedding_dim=16, epochs=4, temperature=0.2, steps_per_epoch=8),
    tuning=TuningConfig(prior_epochs=2),
    clustering=ClusteringConfig(num_groups=5),
    split=SplitConfig(new_user_share=0.1),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interactions with times, and weights."""
    made = make_interactions(
        SyntheticConfig(num_users=300, num_items=200, mean_interactions=20, seed=5)
    )
    path = tmp_path_factory.mktemp("shop") / "shop.parquet"
    columns = {"user_id": made.user_rows, "item_id": made.item_rows, "timestamp": made.timestamps}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _train(ranks: Collectives, data: Path, out: Path, config: PipelineConfig) -> list[str]:
    told: list[str] = []

    def progress(stage: str, done: int, total: int, remark: str) -> None:
        if total == 1:
            told.append(f"{stage}: {remark}")

    train_together(ranks, data, out, config, Listeners(progress))
    return told


@pytest.fixture(scope="module")
def runs(
    rank_processes: RankProcesses, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedRun, TrainedRun]:
    """Of one process and of two."""
    folder = tmp_path_factory.mktemp("runs")
    told = rank_processes.run(_train, shop, folder / "two", CONFIG)
    assert told[1] == []
    assert "ranks 2, bytes_per_step" in "\n".join(told[0])
    return run_pipeline(shop, folder / "one", CONFIG), TrainedRun.open(folder / "two")


def test_the_folder_is_that_of_one_process(runs: tuple[TrainedRun, TrainedRun]) -> None:
    one, two = runs
    assert one.folder.documents == two.folder.documents
    assert one.folder.config == two.folder.config
    for stage, facts in one.folder.stages.items():
        kept = {"seconds", "sha256", "loss", "prior"}
        other = two.folder.stages[stage]
        assert {each for each in facts if each not in kept} <= set(other)
        assert {name: other[name] for name in facts if name not in kept} == {
            name: each for name, each in facts.items() if name not in kept
        }
        arrays, others = one.folder.load(stage), two.folder.load(stage)
        assert {name: (each.shape, each.dtype) for name, each in arrays.items()} == {
            name: (each.shape, each.dtype) for name, each in others.items()
        }
        if stage == "data":
            assert all(np.array_equal(each, others[name]) for name, each in arrays.items())


def test_a_given_validation_part_chooses_the_prior_of_one_process(
    rank_processes: RankProcesses, tmp_path: Path
) -> None:
    made = make_interactions(SyntheticConfig(num_users=200, num_items=100, mean_interactions=20))
    part = np.arange(len(made)) % 10
    (tmp_path / "parts").mkdir()
    for name, chosen in (("train", part < 6), ("valid", part == 7), ("test", part > 7)):
        table = {"user_id": made.user_rows[chosen], "item_id": made.item_rows[chosen]}
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "parts" / f"{name}.parquet")
    config = dataclasses.replace(CONFIG, split=SplitConfig())
    rank_processes.run(_train, tmp_path / "parts", tmp_path / "two", config)
    one = run_pipeline(tmp_path / "parts", tmp_path / "one", config)
    two = TrainedRun.open(tmp_path / "two")
    facts = [run.folder.stages["pretraining"] for run in (one, two)]
    (of_one,), (of_two,) = (each["prior_weights"] for each in facts)
    # Rounding may decide on the last step of the search, which is 0.1 long.
    assert of_one == pytest.approx(of_two, abs=0.1 + 1e-9)
    assert min(of_one, of_two) > 0.2  # the search began at 0.05
    assert facts[0]["prior"] == pytest.approx(facts[1]["prior"], rel=0.2)
    assert len(one.folder.load("tuning")["qualities"]) == 0


def _train_from_vectors(
    ranks: Collectives, data: Path, out: Path, config: PipelineConfig, vectors: VectorPair
) -> list[str]:
    told: list[str] = []
    listeners = Listeners(lambda stage, done, total, remark: told.append(f"{stage} {remark}"))
    train_together(ranks, data, out, config, listeners, vectors=vectors if ranks.is_first else None)
    return told


def test_vectors_of_another_model_take_the_place_of_pretraining(
    rank_processes: RankProcesses, shop: Path, runs: tuple[TrainedRun, TrainedRun], tmp_path: Path
) -> None:
    one = runs[0]
    rng = np.random.default_rng(0)
    counts = len(one.users) + len(one.new_users), len(one.items)  # with rows of users held out
    vectors = VectorPair(*(rng.normal(size=(count, 6)).astype(np.float32) for count in counts))
    alone = run_pipeline(shop, tmp_path / "one", CONFIG, vectors=vectors)
    rank_processes.run(_train_from_vectors, shop, tmp_path / "two", CONFIG, vectors)
    two = TrainedRun.open(tmp_path / "two")
    assert two.folder.config == alone.folder.config
    assert (
        two.folder.stages["pretraining"]["sha256"] == alone.folder.stages["pretraining"]["sha256"]
    )
    assert np.array_equal(two.user_vectors, alone.user_vectors)
    assert two.prior == alone.prior == 0
    assert two.embedding.block_weights.shape == alone.embedding.block_weights.shape
    # Gone on from; and others are other settings.
    told = rank_processes.run(_train_from_vectors, shop, tmp_path / "two", CONFIG, vectors)
    assert sum("done before" in each for each in told[0]) == 5
    others = VectorPair(vectors.users, vectors.items + 1)
    with pytest.raises(Exception, match="other settings"):
        rank_processes.run(_train_from_vectors, shop, tmp_path / "two", CONFIG, others)
    short = VectorPair(vectors.users, vectors.items[1:])
    with pytest.raises(Exception, match="item_embeddings must have one row for each of the"):
        rank_processes.run(_train_from_vectors, shop, tmp_path / "three", CONFIG, short)


def test_its_blocks_are_worth_what_one_process_says(runs: tuple[TrainedRun, TrainedRun]) -> None:
    """Of the vectors and groups of the run of two processes."""
    two = runs[1]
    population = Population(
        two.user_vectors, two.item_vectors, two.user_group, two.centroids, two.train,
        two.temperature, two.prior,
    )  # fmt: skip
    values = measure_exposure(population, CONFIG.exposure)
    expected = ElasticEmbedding.from_pretrained(
        torch.from_numpy(two.item_vectors).clone(), num_groups=len(two.centroids)
    )
    expected.fit_rotation(keep_mean=True)
    expected.set_row_values(torch.from_numpy(values))
    found = two.embedding
    torch.testing.assert_close(found.block_weights, expected.block_weights)
    # Values that are equal but for rounding may come in either order.
    assert float((found.item_group == expected.item_group).float().mean()) > 0.995
    assert torch.equal(found.rotation, expected.rotation)


def test_quality_is_that_of_one_process(runs: tuple[TrainedRun, TrainedRun]) -> None:
    for protocol, noise in (("known", 0.03), ("new", 0.1)):  # of 270 and 30 users
        one, two = (evaluate_run(run, protocol, [run.full_bytes // 8]) for run in runs)
        pairs = (two.ceiling, one.ceiling), (two.curve[0], one.curve[0])
        for found, expected in [[each.users.mean() for each in pair] for pair in pairs]:
            assert found.num_users == expected.num_users
            assert found.recall == pytest.approx(expected.recall, abs=noise)
            assert found.ndcg == pytest.approx(expected.ndcg, abs=noise)


def test_a_finished_run_goes_on_with_other_settings(
    rank_processes: RankProcesses, shop: Path, runs: tuple[TrainedRun, TrainedRun], tmp_path: Path
) -> None:
    shutil.copytree(runs[1].folder.path, tmp_path / "run")
    stages = runs[1].folder.stages
    other = dataclasses.replace(CONFIG, clustering=ClusteringConfig(num_groups=3))
    first, second = rank_processes.run(_refusal, shop, tmp_path / "run", other)
    assert first[0] == "RunError"
    assert "clustering.num_groups 3 instead of 5" in first[1]
    assert second[0] == "ElsewhereError"
    rank_processes.run(_redo, shop, tmp_path / "run", other)
    changed = TrainedRun.open(tmp_path / "run").folder.stages
    same = [name for name in stages if changed[name]["sha256"] == stages[name]["sha256"]]
    assert same == ["data", "tuning", "pretraining", "refinement"]


class _InterruptionError(Exception):
    """In place of a signal."""


def _interrupted(ranks: Collectives, data: Path, out: Path, config: PipelineConfig) -> None:
    """Trains until a step that only pretraining, not tuning, comes to; saves after every step."""
    step = sharded_pretraining._Training.step

    def stop_at(training: sharded_pretraining._Training, done: int) -> float:
        if done == 21:
            raise _InterruptionError
        return step(training, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timer, "is_due", lambda timer: True)
        patch.setattr(sharded_pretraining._Training, "step", stop_at)
        with pytest.raises(_InterruptionError):
            train_together(ranks, data, out, config)


def test_an_interrupted_run_goes_on_with_any_number_of_ranks(
    rank_processes: RankProcesses,
    shop: Path,
    runs: tuple[TrainedRun, TrainedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank_processes.run(_interrupted, shop, tmp_path / "run", CONFIG)
    kept = tmp_path / "run" / "pretraining.checkpoint"
    assert sorted(path.name for path in kept.iterdir()) == ["21", "index.json"]
    for name in ("alone", "damaged"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    expected = runs[1].folder
    told = rank_processes.run(_train, shop, tmp_path / "run", CONFIG)
    assert "tuning: done before" in told[0]
    found = TrainedRun.open(tmp_path / "run").folder
    assert not kept.exists()
    for stage, facts in expected.stages.items():
        assert found.stages[stage]["sha256"] == facts["sha256"], stage
    # With one rank, and sums in another order.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    run_sharded_pipeline(shop, tmp_path / "alone", CONFIG)
    alone, two = (
        TrainedRun.open(path).folder.load("pretraining")["losses"]
        for path in (tmp_path / "alone", tmp_path / "run")
    )
    assert np.array_equal(alone[:21], two[:21])
    np.testing.assert_allclose(alone, two, rtol=1e-3)
    assert not np.array_equal(alone, two)
    # A bit that has changed is told of.
    file = sorted((tmp_path / "damaged" / "pretraining.checkpoint" / "21").glob("shard*"))[1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for _, message in rank_processes.run(_refusal, shop, tmp_path / "damaged", CONFIG):
        assert "damaged" in message
        assert f"remove {tmp_path / 'damaged' / 'pretraining.checkpoint'} to begin" in message


def _redo(ranks: Collectives, data: Path, out: Path, config: PipelineConfig) -> None:
    train_together(ranks, data, out, config, redo=True)


def _refusal(ranks: Collectives, data: Path, out: Path, config: PipelineConfig) -> tuple[str, str]:
    try:
        train_together(ranks, data, out, config)
    except PeelError as error:
        return type(error).__name__, str(error)
    except ValueError as error:
        return type(error).__name__, str(error)
    raise AssertionError("not refused")


def _differing_settings(ranks: Collectives, data: Path, out: Path) -> tuple[str, str]:
    split = SplitConfig(seed=4 + ranks.rank)
    return _refusal(ranks, data, out, dataclasses.replace(CONFIG, split=split))


def _differing_data(
    ranks: Collectives, data: Path, out: Path, others: Path | str
) -> tuple[str, str]:
    return _refusal(ranks, data if ranks.is_first else others, out, CONFIG)


def test_ranks_must_agree(rank_processes: RankProcesses, shop: Path, tmp_path: Path) -> None:
    first, second = rank_processes.run(_differing_settings, shop, tmp_path / "run")
    assert first[0] == "ElsewhereError"
    assert second[0] == "ValueError"
    assert second[1].startswith("rank 1 was started with settings.split.seed 5, rank 0 with 4")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / shop.name
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(shop)[1:], other)
    for data in (other, "synthetic"):
        for kind, found in rank_processes.run(_differing_data, shop, tmp_path / "run", data):
            assert kind == "DataError"
            assert found.startswith("data must be the same on all ranks")


def _ids(ranks: Collectives, ids: list[IdMap]) -> list[str | int]:
    made = collect_ids(ids[ranks.rank], ranks)
    return made.to_ids(np.arange(len(made)))


def test_made_up_data_is_read_with_no_settings(
    rank_processes: RankProcesses, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, reading=ReadingConfig(min_rating=3))
    for refused in rank_processes.run(_refusal, "synthetic", tmp_path / "run", config):
        assert refused == ("ValueError", "settings of reading are for data that is yet to be read")


@pytest.mark.parametrize(
    ("first", "second"),
    [([], ["a", "\u00e9\u20ac\udc80"]), (["a", "b c"], []), ([1, -(1 << 62)], [7]), ([], [])],
)
def test_ids_come_to_the_first_rank(
    rank_processes: RankProcesses, first: list[str | int], second: list[str | int]
) -> None:
    ids = [IdMap.from_values(each)[0] for each in (first, second)]
    expected = [each for one in ids for each in one.to_ids(np.arange(len(one)))]
    assert rank_processes.run(_ids, ids) == [expected, []]


def _recency(ranks: Collectives, times: np.ndarray) -> np.ndarray:
    cut = len(times) // 3
    return measure_recency(times[:cut] if ranks.is_first else times[cut:], ranks)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 333])
def test_recency_is_that_of_one_process(
    rank_processes: RankProcesses, seed: int, count: int
) -> None:
    times = np.random.default_rng(seed).integers(-9, 30, count).astype(float)
    found = np.concatenate(rank_processes.run(_recency, times))
    assert np.array_equal(found, item_prior.measure_recency(times))


@pytest.mark.slow
def test_a_killed_rank_ends_the_attempt_and_the_next_goes_on(shop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", killed_rank.__file__, "train", str(shop), "--out", str(run)]
    command += ["--epochs", "2", "--temperature", "0.2", "--embedding-dim", "8", "--groups", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout == f"{run}\n"
    # torchrun tells of it, too, and may end the other rank before that one does.
    told = re.findall("^peel: .*?;", done.stderr, re.MULTILINE)
    assert told in ([], ["peel: another process that works on this has ended;"])
    # Of each stage rank 0 alone tells, once.
    assert len(re.findall("^data ", done.stderr, re.MULTILINE)) == 1
    assert len(re.findall("^pretraining ", done.stderr, re.MULTILINE)) == 1
    assert TrainedRun.open(run).folder.stages["clustering"]["groups"] == 2
    assert not list(run.glob("*.checkpoint*"))


@pytest.mark.slow
def test_one_rank_tells_of_what_all_find_wrong_before_they_join(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "peel_ext", "train", "synthetic", "--out", str(tmp_path), "--test-share", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    told = re.findall("^peel: .*", done.stderr, re.MULTILINE)
    assert told == ["peel: test_share must lie in [0, 1), got 2.0"]


def _without_space(ranks: Collectives, data: Path, out: Path) -> tuple[str, str]:
    """Trains where rank 1 cannot write a checkpoint."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timer, "is_due", lambda timer: True)
        if not ranks.is_first:
            patch.setattr("torch.distributed.checkpoint.filesystem._write_item", refuse)
        return _refusal(ranks, data, out, CONFIG)


def test_a_rank_without_space_ends_the_run(
    rank_processes: RankProcesses, shop: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run" / "tuning.checkpoint"
    told = f"{checkpoint / '1'}: rank 1 cannot write there: No space left on device"
    found = rank_processes.run(_without_space, shop, tmp_path / "run")
    assert found == [("RunError", told)] * 2
    assert not (checkpoint / "index.json").exists()  # what is half written is not there


def test_other_verbs_are_done_by_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "devices")]) == 1
    message = "'peel export' is done by one process, and torchrun has started 2"
    assert message in capsys.readouterr().err


def test_a_run_has_its_folder_for_itself(
    rank_processes: RankProcesses, shop: Path, tmp_path: Path
) -> None:
    with RunFolder(tmp_path / "run").lock():
        first, second = rank_processes.run(_refusal, shop, tmp_path / "run", CONFIG)
    assert first == ("RunError", f"{tmp_path / 'run'}: another process is training here")
    assert second[0] == "ElsewhereError"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.json").write_text("{}")
    first, second = rank_processes.run(_refusal, shop, tmp_path / "own", CONFIG)
    assert first[0] == "RunError"
    assert "found mine.json" in first[1]
    assert second[0] == "ElsewhereError"


def test_every_rank_needs_users_and_items(rank_processes: RankProcesses, tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("user_id,item_id\n" + "".join(f"1,{item}\n" for item in range(9)))
    for kind, message in rank_processes.run(_refusal, path, tmp_path / "run", PipelineConfig()):
        assert kind == "DataError"
        assert message.startswith("1 users cannot be dealt out to 2 ranks")
