"""What several ranks measure together is what one process measures."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import thread_ranks
from rank_processes import RankProcesses

from peel_ext.cli import evaluate
from peel_ext.cli.main import main
from peel_ext.data import ItemLists
from peel_ext.errors import RunError
from peel_ext.evaluation import Evaluation, evaluate_run
from peel_ext.evaluation.ranking import Audience
from peel_ext.evaluation.sharing import Sharing, check_same_run
from peel_ext.scale.collectives import Collectives
from peel_ext.train.pipeline import TrainedRun
from peel_ext.train.run_folder import RunFolder


def _measure(ranks: Collectives | None, run: TrainedRun, protocol: str) -> Evaluation:
    return evaluate_run(
        run, protocol, [4000], n=10,
        with_blends=protocol == "new", with_rivals=protocol == "offline", ranks=ranks,
    )  # fmt: skip


@pytest.mark.parametrize("protocol", ["known", "new", "offline"])
def test_the_figures_are_those_of_one_process(
    protocol: str, run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few at a time that histories are folded in by every rank, as one process folds them in.
    monkeypatch.setattr("peel_ext.device.fold_in._CHUNK_BYTES", 4 * 60 * 16)
    folded = _measure(None, run, protocol)
    for found in thread_ranks.run(2, _measure, run, protocol):
        assert found.to_frame().equals(folded.to_frame())
        for ours, want in zip(found.curve, folded.curve, strict=True):
            assert np.array_equal(ours.users.users, want.users.users)
            assert np.array_equal(ours.users.ndcg, want.users.ndcg)


def test_users_are_dealt_out_once_and_evenly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 7, 100)
    audience = Audience(
        np.zeros((100, 2), np.float32), groups, ItemLists.empty(100), ItemLists.empty(100)
    )
    users = np.flatnonzero(rng.random(100) < 0.8)

    def deal(ranks: Collectives, by_group: bool) -> list[Any]:
        return Sharing(ranks).deal(users, audience, by_group)

    for by_group in (False, True):
        parts = thread_ranks.run(4, deal, by_group)[0]
        assert np.array_equal(np.sort(np.concatenate(parts)), users)
        owners = [set(groups[part].tolist()) for part in parts]
        if by_group:
            assert sum(map(len, owners)) == len(np.unique(groups[users]))
        else:
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert sum(map(len, owners)) <= len(np.unique(groups[users])) + 3


def _evaluate(ranks: Collectives, folder: str, *options: str) -> str:
    """What the verb prints on a rank."""
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        evaluate._measure(parser.parse_args(["evaluate", folder, *options]), ranks)
    return told.getvalue()


def test_one_rank_prints_and_keeps(
    run: TrainedRun,
    rank_processes: RankProcesses,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(run.folder.path, tmp_path / "run")
    options = "--budgets", "4000,1200", "--json", "--quiet"
    first, second = rank_processes.run(_evaluate, str(folder), *options)
    kept = RunFolder(folder).read_document("evaluation-known.json")["summary"]
    assert main(["evaluate", str(run.folder.path), *options]) == 0
    assert json.loads(first) == json.loads(capsys.readouterr().out) == kept
    assert second == ""


def test_all_ranks_need_the_same_run(run: TrainedRun) -> None:
    other: Any = SimpleNamespace(path=run.folder.path, stages={"data": {"sha256": "0"}})

    def check(ranks: Collectives) -> None:
        check_same_run(run.folder if ranks.is_first else other, ranks)

    with pytest.raises(RunError, match="must hold the same run on all ranks, rank 1 found another"):
        thread_ranks.run(2, check)
    check_same = thread_ranks.run(2, lambda ranks: check_same_run(run.folder, ranks))
    assert check_same == [None, None]
