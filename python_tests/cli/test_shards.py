"""Work in parts for several processes: peel export and recommend with --shard, and maps over users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from peel_ext.cli.arguments import parse_shard
from peel_ext.cli.main import main
from peel_ext.device import DeviceRecommender
from peel_ext.errors import BudgetError, DataError, RunError
from peel_ext.scale import export_users
from peel_ext.train.trained_run import TrainedRun

BUDGET = 4_000


@pytest.fixture(scope="module")
def trained(small_run: Path) -> TrainedRun:
    return TrainedRun.open(small_run)


@pytest.fixture(scope="module")
def listed(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of seven users, not in the order of the run."""
    path = tmp_path_factory.mktemp("users") / "users.txt"
    path.write_text("".join(f"{user}\n" for user in trained.users.ids[[30, 2, 77, 9, 4, 50, 8]]))
    return path


def call(*arguments: object) -> None:
    assert main([*map(str, arguments), "--quiet"]) == 0


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.peel")}


@pytest.mark.parametrize(("total", "count"), [(0, 3), (2, 5), (10, 1), (10, 3), (11, 4)])
def test_parts_have_everything_once_and_in_order(total: int, count: int) -> None:
    parts = [range(total)[parse_shard(f"{i}/{count}").of(total)] for i in range(1, count + 1)]
    assert [each for part in parts for each in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_of_user_groups_are_all_of_them(small_run: Path, tmp_path: Path) -> None:
    call("export", small_run, "--out", tmp_path / "whole")
    for i in (1, 2, 3):
        call("export", small_run, "--out", tmp_path / "parts", "--shard", f"{i}/3")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    call("export", small_run, "--out", tmp_path / "cut", "--budget", BUDGET, "--no-item-ids")
    for name, data in files_of(tmp_path / "cut").items():
        with (
            DeviceRecommender.open(data) as cut,
            DeviceRecommender.open(tmp_path / "whole" / name, BUDGET, item_ids=False) as held,
        ):
            assert (cut.nbytes, cut.num_blocks) == (held.nbytes, held.num_blocks)
            assert cut.nbytes <= BUDGET
            items, user = np.arange(cut.num_embeddings), np.ones(cut.embedding_dim)
            found = [each.score_items(items, user=user, rotated=True) for each in (cut, held)]
            assert np.array_equal(*found)


def test_parts_of_users_have_the_files_of_all(
    small_run: Path, trained: TrainedRun, listed: Path, tmp_path: Path, capsys: Any
) -> None:
    options = ("--users", listed, "--budget", BUDGET, "--no-item-ids")
    call("export", small_run, "--out", tmp_path / "whole", *options)
    for i in (2, 1, 2):  # one again, as after it was killed
        call("export", small_run, "--out", tmp_path / "parts", *options, "--shard", f"{i}/2")
    whole, parts = files_of(tmp_path / "whole"), files_of(tmp_path / "parts")
    users = listed.read_text().split()
    assert set(whole) == set(parts) == {f"{user}.peel" for user in users}
    tables = [parquet.read_table(tmp_path / "parts" / f"vectors-{i}-of-2.parquet") for i in (1, 2)]
    together = pyarrow.concat_tables(tables)
    assert together == parquet.read_table(tmp_path / "whole" / "vectors.parquet")
    assert list(map(str, together["user"].to_pylist())) == users
    assert main(["bundle", str(tmp_path / "all.peelb"), str(tmp_path / "parts")]) == 0
    for user, vector, count in zip(users, together["vector"], together["known_count"], strict=True):
        # As `peel export --user` makes it.
        call("export", small_run, "--out", tmp_path / user, "--user", user, "--no-item-ids")
        assert np.array_equal(np.load(tmp_path / user / "user.npy"), vector.as_py())
        row = trained.users.to_rows([int(user)])[0]
        assert count.as_py() == trained.train.counts[row]
        with (
            DeviceRecommender.open(tmp_path / "all.peelb", user=user) as device,
            DeviceRecommender.open(tmp_path / user / "user.peel", BUDGET) as alone,
        ):
            assert device.nbytes == alone.nbytes <= BUDGET
            shown = [
                each.recommend(user=np.float32(vector.as_py()), rotated=True)
                for each in (device, alone)
            ]
            assert np.array_equal(shown[0][0], shown[1][0])
    capsys.readouterr()
    call("export", small_run, "--out", tmp_path / "whole", *options, "--json")
    assert json.loads(capsys.readouterr().out)["users"] == len(users)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lists_of_parts_follow_one_another(
    small_run: Path, listed: Path, tmp_path: Path, kind: str
) -> None:
    options = ("--users", listed, "-n", "3", "--out")
    call("recommend", small_run, *options, tmp_path / f"whole.{kind}")
    parts = b""
    for i in range(1, 10):  # more parts than users
        path = tmp_path / f"{i}.{kind}"
        call("recommend", small_run, *options, path, "--shard", f"{i}/9")
        head, _, rest = path.read_bytes().partition(b"\n") if kind == "csv" else (b"", b"", b"")
        parts += (rest if parts else head + b"\n" + rest) if kind == "csv" else path.read_bytes()
    assert parts == (tmp_path / f"whole.{kind}").read_bytes()


def evaluated(capsys: Any, run: Path, *options: object) -> str:
    capsys.readouterr()
    call("evaluate", run, *options)
    return str(capsys.readouterr().out)


@pytest.mark.parametrize(
    "protocol", [("known",), ("new", "--blends", "--budgets", "5%,20%"), ("offline", "-n", "7")]
)
def test_parts_of_an_evaluation_have_the_figures_of_one(
    small_run: Path, capsys: Any, protocol: tuple[str, ...]
) -> None:
    options = ("--protocol", *protocol)
    whole = evaluated(capsys, small_run, *options, "--json")
    for i in (2, 3, 1, 2):
        path = evaluated(capsys, small_run, *options, "--shard", f"{i}/3")
        assert Path(path.strip()).name == f"evaluation-{protocol[0]}-{i}-of-3.npz"
    assert evaluated(capsys, small_run, *options, "--merge", 3, "--json") == whole
    for other in (("--protocol", protocol[0], "--budgets", "30%"), (*options, "--merge", 4)):
        assert main(["evaluate", str(small_run), "--merge", "3", "--quiet", *map(str, other)]) == 1
    told = capsys.readouterr().err
    assert "measured with another setting: budgets" in told
    assert f"evaluation-{protocol[0]}-1-of-4.npz: this part has not been measured" in told
    (small_run / f"evaluation-{protocol[0]}-2-of-3.npz").write_bytes(b"no archive")
    assert main(["evaluate", str(small_run), "--merge", "3", *options]) == 1
    assert "not the part of an evaluation that was written" in capsys.readouterr().err


def test_a_map_over_batches_of_users_makes_their_files(
    small_run: Path, trained: TrainedRun, listed: Path, tmp_path: Path
) -> None:
    users = [int(user) for user in listed.read_text().split()]
    table = pyarrow.table({"user": users, "other": ["x"] * len(users)})
    made = export_users(table, small_run, BUDGET)
    assert made.column_names == ["user", "group", "known_count", "vector", "file"]
    assert made["user"].to_pylist() == users
    call(
        "export",
        small_run,
        "--out",
        tmp_path,
        "--users",
        listed,
        "--budget",
        BUDGET,
        "--no-item-ids",
    )
    assert {
        f"{user}.peel": file for user, file in zip(users, made["file"].to_pylist(), strict=True)
    } == (files_of(tmp_path))
    vectors = parquet.read_table(tmp_path / "vectors.parquet")
    assert made.drop_columns("file") == vectors
    (batch,) = table.to_batches()
    assert pyarrow.table(export_users(batch, small_run, BUDGET)) == made
    arrays = export_users({"user": np.array(users)}, str(small_run), BUDGET)
    assert arrays["file"].tolist() == made["file"].to_pylist()
    assert np.array_equal(arrays["vector"], np.array(made["vector"].to_pylist(), np.float32))
    assert len(export_users(table.slice(0, 0), small_run)) == 0


def test_mistakes_in_batches_are_named(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in the column 'user', got \\['a'\\]"):
        export_users(pyarrow.table({"a": [1]}), small_run)
    with pytest.raises(DataError, match="user id 987654 is not known"):
        export_users({"user": np.array([987654])}, small_run)
    with pytest.raises(TypeError, match=r"a record batch of pyarrow, or a mapping .*, got a list"):
        export_users([1], small_run)
    with pytest.raises(BudgetError):
        export_users({"user": np.array([8])}, small_run, 10)
    with pytest.raises(RunError):
        export_users({"user": np.array([8])}, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "{run}", "--shard", "1/2", "--rivals"), "do not go together with --rivals"),
        (("recommend", "{run}", "--history", "1", "--shard", "1/2"), "--shard is for --users"),
        (
            ("export", "{run}", "--out", "{tmp}", "--user", "8", "--shard", "1/2"),
            "--shard is for all",
        ),
        (
            ("export", "{run}", "--out", "{tmp}", "--group", "1", "--shard", "1/2"),
            "--shard is for all",
        ),
        (("export", "{run}", "--out", "{tmp}", "--users", "{tmp}/none"), "none: not readable"),
        (
            ("export", "{run}", "--out", "{tmp}", "--budget", "10"),
            "budget_bytes is 10, but user group",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_1(
    small_run: Path, tmp_path: Path, capsys: Any, arguments: tuple[str, ...], message: str
) -> None:
    assert main([each.format(run=small_run, tmp=tmp_path) for each in arguments]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", ""])
def test_parts_that_cannot_be_are_usage_errors(text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "run", "--out", "x", f"--shard={text}"])
    assert ended.value.code == 2
