"""What several ranks read and split is what one process reads and splits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import thread_ranks
from numpy.typing import NDArray
from rank_processes import RankProcesses
from shared_reading import Found, check, compare, read_alone, read_with

from peel_ext.config import ReadingConfig, SplitConfig
from peel_ext.data import read_split
from peel_ext.errors import DataError
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.reading import read_shard


def _draw(seed: int, count: int = 400) -> dict[str, NDArray[Any]]:
    """Interactions of 40 users with 30 items, many of them repeated, many at one time."""
    rng = np.random.default_rng(seed)
    return {
        "user_id": rng.integers(0, 40, count) * 7 - 100,
        "item_id": (30 * rng.random(count) ** 2).astype(np.int64),
        "rating": rng.integers(1, 6, count),
        "plays": rng.integers(1, 9, count),
        "timestamp": rng.integers(0, 99, count) - 50.5,
    }


def _write_parquet(file: Path, columns: dict[str, Any], rows: int = 37) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=rows)


def _write_csv(file: Path, columns: dict[str, Any], separator: str = ",", quote: str = "") -> None:
    rows = zip(*(each.tolist() for each in map(np.asarray, columns.values())), strict=True)
    lines = [separator.join(f"{quote}{value}{quote}" for value in row) for row in rows]
    file.write_text("\n".join([separator.join(columns), *lines]) + "\n", encoding="utf-8")


def _write_json(file: Path, columns: dict[str, Any]) -> None:
    rows = zip(*(each.tolist() for each in columns.values()), strict=True)
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    "config",
    [
        SplitConfig(new_user_share=0.2, k_core=5, seed=3),
        SplitConfig(method="last", new_user_share=0.1, target="validation"),
        SplitConfig(method="time", test_share=0.3, new_user_share=0.2),
        SplitConfig(test_share=0, validation_share=0.3),
    ],
    ids=lambda config: config.method,
)
@pytest.mark.parametrize("timestamps", [True, False])
def test_splits_are_those_of_one_process(
    config: SplitConfig, timestamps: bool, tmp_path: Path, seed: int
) -> None:
    _write_parquet(tmp_path / "all.parquet", _draw(seed))
    reading = ReadingConfig(timestamps=timestamps, min_rating=2, weight_column="plays")
    compare(tmp_path, reading, config, (1, 2, 4))


def _read(ranks: Collectives, folder: str, reading: ReadingConfig, config: SplitConfig) -> Found:
    return read_with(ranks, folder, reading, config)


def test_two_processes_read_what_one_does(
    rank_processes: RankProcesses, tmp_path: Path, seed: int
) -> None:
    columns = _draw(seed)
    for at in range(3):
        part = {name: values[at::3] for name, values in columns.items()}
        _write_parquet(tmp_path / f"part-{at}.parquet", part)
    settings = ReadingConfig(), SplitConfig(new_user_share=0.2)
    shared = rank_processes.run(_read, str(tmp_path), *settings)
    check(shared, read_alone(str(tmp_path), *settings))


def _quoted(file: Path, columns: dict[str, Any]) -> None:
    titles = np.array([f"a\n1,2,{rating},4\nb" for rating in columns["rating"]])
    _write_csv(file, {**columns, "title": titles}, quote='"')


def _compressed(file: Path, columns: dict[str, Any]) -> None:
    _write_csv(file, columns)
    file.write_bytes(gzip.compress(file.read_bytes()))


def _tabbed(file: Path, columns: dict[str, Any]) -> None:
    _write_csv(file, {f"{name}:token": values for name, values in columns.items()}, "\t")


def _colons(file: Path, columns: dict[str, Any]) -> None:
    _write_csv(file, columns, "::")
    file.write_text(file.read_text().partition("\n")[2])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", _write_csv), ("a.csv", _quoted), ("a.csv.gz", _compressed), ("a.inter", _tabbed),
        ("a.dat", _colons), ("a.jsonl", _write_json),
    ],
    ids=["csv", "quoted", "compressed", "tabbed", "colons", "json"],
)  # fmt: skip
def test_files_of_every_format_are_cut_between_lines(
    name: str, write: Callable[[Path, dict[str, Any]], None], tmp_path: Path, seed: int
) -> None:
    columns = _draw(seed, 150)
    columns.pop("plays")
    write(tmp_path / name, columns)
    alone = compare(tmp_path / name, sizes=(2, 5, 9))
    assert alone.error is None
    assert sum(map(len, alone.parts["train"])) > 50


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_few_lines_are_cut_as_well(length: int, tmp_path: Path) -> None:
    columns = {name: values[:length] for name, values in _draw(0).items()}
    for name, write in (("a.csv", _write_csv), ("a.jsonl", _write_json)):
        write(tmp_path / name, columns)
        compare(tmp_path / name, sizes=(2, 7))
    _write_parquet(tmp_path / "a.parquet", columns)
    compare(tmp_path / "a.parquet", sizes=(2, 7))


def test_blank_lines_and_carriage_returns_are_cut_as_well(tmp_path: Path) -> None:
    lines = [*[""] * 99, "user,item,time", *(f"{at % 5},{at},{at}" for at in range(20)), ""]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "a.csv").write_text(end.join(lines), encoding="utf-8", newline="")
        compare(tmp_path / "a.csv", sizes=(2, 3, 8))


@pytest.mark.parametrize(
    "odd", [{3: "x"}, {390: "x", 20: "é"}, {at: f"u{at}" for at in range(0, 400, 2)}, {7: "12.0"}]
)
def test_ids_are_text_on_all_ranks_or_on_none(
    odd: dict[int, str], tmp_path: Path, seed: int
) -> None:
    columns = _draw(seed)
    users = [str(user) for user in columns["user_id"]]
    for at, name in odd.items():
        users[at] = name
    _write_csv(tmp_path / "a.csv", {**columns, "user_id": users})
    compare(tmp_path, sizes=(2, 3))
    _write_parquet(tmp_path / "b.parquet", {**columns, "user_id": users})
    compare([tmp_path / "b.parquet"], sizes=(2, 3))


def _write_split(folder: Path, train: dict[str, Any], test: dict[str, Any]) -> None:
    _write_csv(folder / "train.csv", train)
    _write_csv(folder / "test.csv", test)


def test_given_parts_have_common_ids(tmp_path: Path, seed: int) -> None:
    train, test = _draw(seed), _draw(seed + 1, 90)
    train["item_id"] = np.array([f"I{item}" for item in train["item_id"]])
    known = [f"I{item}" for item in test["item_id"]]
    test["item_id"] = np.array(["i3", "new", *known[2:]])
    _write_split(tmp_path, train, test)
    for config in (SplitConfig(), SplitConfig(test_share=0), SplitConfig(target="validation")):
        alone = compare(tmp_path, config=config)
        assert any("'i3', beside 'I3' there" in remark for remark in alone.remarks)
    test["item_id"] = np.array([name.lower() for name in known])
    _write_split(tmp_path, train, test)
    alone = compare(tmp_path)
    assert alone.error is not None
    assert "ids must be written alike" in alone.error


_DAYS = [f"2020-01-{day:02}" for day in range(1, 21)]


@pytest.mark.parametrize(
    ("times", "remark"),
    [
        ([*_DAYS, *map(str, range(20))], "some"),
        ([*map(str, range(39)), "late"], "line"),
        (["never", *map(str, range(39))], "line"),
    ],
    ids=["mixed", "last", "first"],
)
@pytest.mark.parametrize("column", [None, "time"])
def test_times_that_cannot_be_used(
    times: list[str], remark: str, column: str | None, tmp_path: Path
) -> None:
    lines = [f"{at % 6},{at % 11},{time}" for at, time in enumerate(times)]
    for at in range(4):
        text = "\n".join(["user,item,time", *lines[10 * at : 10 * at + 10]])
        (tmp_path / f"part-{at}.csv").write_text(text, encoding="utf-8")
    alone = compare(tmp_path, ReadingConfig(timestamp_column=column), sizes=(2, 3, 4))
    told = [alone.error] if column else alone.remarks
    assert len(told) == 1
    assert "time" in str(told[0])


def test_times_that_only_some_files_have(tmp_path: Path) -> None:
    for at, head in enumerate(["user,item,time", "user,item,rating", "user,item,time"]):
        lines = [f"{row % 6},{row % 7},{row}" for row in range(12)]
        (tmp_path / f"part-{at}.csv").write_text("\n".join([head, *lines]), encoding="utf-8")
    assert len(compare(tmp_path).remarks) == 2


def test_rows_without_ids_are_left_out_and_counted(tmp_path: Path, seed: int) -> None:
    users = [str(user) if at % 9 else "" for at, user in enumerate(_draw(seed)["user_id"])]
    _write_csv(tmp_path / "a.csv", {**_draw(seed), "user_id": users})
    assert "45 rows" in " ".join(compare(tmp_path, ReadingConfig(missing="drop")).remarks)
    refused = compare(tmp_path, sizes=(3,))
    assert refused.error is not None
    assert ":2:" in refused.error


def test_the_first_error_is_told_by_all(tmp_path: Path) -> None:
    lines = ["user,item", *(f"{at},{at}" for at in range(60))]
    lines[50], lines[55] = "50,,", "x"
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    refused = compare(tmp_path, sizes=(2, 3))
    assert refused.error is not None
    assert ":51: expected 2 fields" in refused.error
    _write_json(tmp_path / "b.jsonl", _draw(0, 50))
    text = (tmp_path / "b.jsonl").read_text().replace('"item_id": ', '"item_id": "x', 1)
    (tmp_path / "b.jsonl").write_text(text)
    compare(tmp_path / "b.jsonl", sizes=(2,))
    _write_parquet(tmp_path / "c.parquet", _draw(0))
    whole = (tmp_path / "c.parquet").read_bytes()
    for damaged in (whole[:-7], whole[:300] + bytes(200) + whole[500:]):
        (tmp_path / "c.parquet").write_bytes(damaged)
        compare(tmp_path / "c.parquet", sizes=(2,))
    (tmp_path / "c.parquet").unlink()
    for missing in (tmp_path / "c.parquet", tmp_path / "a.txt", []):
        if missing:
            compare(missing, sizes=(2,))


def test_ranks_must_have_the_same_data_and_settings(tmp_path: Path) -> None:
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        _write_csv(tmp_path / str(at) / "a.csv", _draw(at, 50 + at))

    def read(ranks: Collectives, folders: list[Any], separators: list[str | None]) -> None:
        reading = ReadingConfig(separator=separators[ranks.rank])
        read_shard(folders[ranks.rank], reading, ranks, lambda _: None)

    folders = [tmp_path / "0", tmp_path / "1"]
    with pytest.raises(
        DataError, match=r"data must be the same .* on rank 1 than on rank 0: a.csv"
    ):
        thread_ranks.run(2, read, folders, [",", ","])
    with pytest.raises(DataError, match=r"separator must be .* ',' on rank 0 and ';' on rank 1"):
        thread_ranks.run(2, read, [folders[0]] * 2, [",", ";"])
    with pytest.raises(DataError, match=r"data must be .* got others on rank 1"):
        thread_ranks.run(2, read, [folders[0], pyarrow.table(_draw(0))], [None, None])
    tables = [pyarrow.table(_draw(at)) for at in range(2)]
    with pytest.raises(DataError, match=r"data must be .* got others on rank 1"):
        thread_ranks.run(2, read, tables, [None, None])
    with pytest.raises(DataError, match="standard input cannot be read by several"):
        thread_ranks.run(2, read, ["-", "-"], [",", ","])


def test_what_every_rank_has_whole_is_cut(tmp_path: Path, seed: int) -> None:
    _write_parquet(tmp_path / "a.parquet", _draw(seed))
    compare(pyarrow.table(_draw(seed)))
    compare(read_split(tmp_path / "a.parquet", on_remark=lambda _: None).train)
