from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from peel_ext.data import Interactions, read_interactions, read_split
from peel_ext.errors import DataError, DataWarning


def write(path: Path, text: str = "user,item\n1,5\n2,6\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pairs(data: Interactions | None) -> list[tuple[int | str, int | str]]:
    assert data is not None
    users, items = data.users.to_ids(data.user_rows), data.items.to_ids(data.item_rows)
    return list(zip(users, items, strict=True))


def test_train_and_test_files_share_their_ids(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "user,item\n1,5\n2,6\n")
    write(tmp_path / "test.csv", "user,item\n2,5\n2,0x7\n")
    with pytest.warns(DataWarning, match="1 of 2 items of the test part are not in the training"):
        parts = read_split(tmp_path)
    # One id that is not an integer makes text of the whole column, in both files.
    assert pairs(parts.train) == [(1, "5"), (2, "6")]
    assert pairs(parts.test) == [(2, "5"), (2, "0x7")]
    assert parts.test is not None
    assert parts.train.users is parts.test.users
    with pytest.raises(DataError, match="holds train and test parts, expected one table"):
        read_interactions(tmp_path, on_remark=lambda _: None)


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    write(tmp_path / "notes.md", "nothing")
    write(tmp_path / ".hidden.csv", "nothing")
    write(tmp_path / "a.csv")
    parts = read_split(tmp_path)
    assert parts.test is None
    assert pairs(parts.train) == [(1, 5), (2, 6)]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a.csv", "b.csv"],
        ["links.csv", "movies.csv", "ratings.csv"],
        ["test.csv", "train.csv", "train.tsv"],
        ["test.csv"],
        ["test.csv", "valid.csv"],
        ["part-0.csv", "part-1.jsonl"],
    ],
)
def test_a_folder_without_a_clear_choice(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path / name)
    with pytest.raises(DataError, match=f"found {', '.join(sorted(names)) or 'none'}: name a file"):
        read_split(tmp_path)


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev", "Valid"])
def test_a_validation_file_beside_the_others(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.csv", "user,item\n1,5\n2,6\n")
    write(tmp_path / "test.csv", "user,item\n2,5\n")
    write(tmp_path / f"{name}.csv", "user,item\n1,6\n")
    write(tmp_path / "items.csv", "item,title\n5,x\n")
    with pytest.warns(DataWarning, match="not read, beside what is: items.csv"):
        parts = read_split(tmp_path)
    assert pairs(parts.validation) == [(1, 6)]
    assert pairs(parts.train) == [(1, 5), (2, 6)]


def test_names_that_others_give_parts(tmp_path: Path) -> None:
    for name in ("ml.train.inter", "ml.valid.inter", "ml.test.inter"):
        write(tmp_path / "recbole" / name, "user_id:token\titem_id:token\n1\t5\n2\t6\n")
    assert read_split(tmp_path / "recbole").validation is not None
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(tmp_path / "hub" / f"{name}.csv")
    parts = read_split(tmp_path / "hub")
    assert pairs(parts.train) == [(1, 5), (2, 6)] * 2
    assert pairs(parts.test) == [(1, 5), (2, 6)]
    for name in ("train", "test"):
        for part in range(2):
            write(tmp_path / "spark" / name / f"part-0000{part}-a1.csv")
        write(tmp_path / "spark" / name / "_SUCCESS", "")
    assert len(read_split(tmp_path / "spark").train) == 4


def test_parts_of_one_table(tmp_path: Path) -> None:
    for part in range(20):
        table = pyarrow.table({"user_id": [part, 100], "item_id": ["a", f"b{part}"]})
        path = tmp_path / "parts" / f"{part:05}-c000.snappy.parquet"
        path.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, path)
    data = read_interactions(tmp_path / "parts")
    assert pairs(data)[:4] == [(0, "a"), (100, "b0"), (1, "a"), (100, "b1")]
    assert len(data) == 40
    for part in range(3):
        write(tmp_path / "csv" / f"2020-0{part}.csv", f"user,item\n{part},5\n")
    assert pairs(read_interactions(tmp_path / "csv")) == [(0, 5), (1, 5), (2, 5)]


def test_folders_that_name_a_column(tmp_path: Path) -> None:
    for day, user in (("2020-01-01", 1), ("2020-01-03", 2), ("2020-01-02", 3)):
        folder = tmp_path / f"date={day}" / "shop=7%20b"
        folder.mkdir(parents=True)
        table = pyarrow.table({"user": [user], "item": [5]})
        pyarrow.parquet.write_table(table, folder / "data_0.parquet")
    with pytest.warns(DataWarning, match="columns not used: shop"):
        data = read_interactions(tmp_path)
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [1577836800 + day * 86_400 for day in (0, 1, 2)]
    assert [user for user, _ in pairs(data)] == [1, 3, 2]
    with pytest.warns(DataWarning, match="columns not used: user"):
        shops = read_interactions(tmp_path, user_column="shop")
    assert shops.users.ids.tolist() == ["7 b"]


def test_several_files(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "user,item,time\n1,5,3\n")
    write(tmp_path / "b.jsonl", '{"user": 2, "item": 5, "time": 4}\n')
    data = read_interactions([tmp_path / "a.csv", str(tmp_path / "b.jsonl")])
    assert pairs(data) == [(1, 5), (2, 5)]
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [3, 4]
    write(tmp_path / "c.csv", "user,item\n3,5\n")
    with pytest.warns(DataWarning, match="times are not used: only some of the files have them"):
        data = read_interactions([tmp_path / "c.csv", tmp_path / "a.csv", tmp_path / "c.csv"])
    assert data.timestamps is None
    assert len(data) == 3


# ---- ids that do not match ----


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("{},{}", "{:04},{}", r"20 of 20 users .*: '0000' in the one, '0' in the other"),
        ("{},{}", "u{},{}", r"20 of 20 users of the test part .*: 'u0' in the one, '0' in the"),
        ("u{},i{}", "u{},I{}", r"20 of 20 items .*: 'I0' in the one, 'i0' in the other"),
        ("{},{}", "1{:05},{}", "20 of 20 users"),
    ],
)
def test_ids_that_are_written_in_another_way(
    tmp_path: Path, train: str, test: str, message: str
) -> None:
    for name, form in (("train", train), ("test", test)):
        rows = "".join(form.format(at, at) + "\n" for at in range(20))
        write(tmp_path / f"{name}.csv", "user,item\n" + rows)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path)


def test_ids_written_in_another_way_among_many_that_match(tmp_path: Path) -> None:
    users = range(990, 1010)
    write(tmp_path / "train.csv", "user,item\n" + "".join(f"{user},1\n" for user in users))
    write(tmp_path / "test.csv", "user,item\n" + "".join(f"{user:04},1\n" for user in users))
    with pytest.raises(DataError, match=r"10 of 20 users .* '0990' in the one, '990' in the other"):
        read_split(tmp_path)


@pytest.mark.parametrize("form", ["{}.0,{}.0", "{} ,{}", " {},\t{}", '"{}","{}"'])
def test_ids_that_only_look_different(tmp_path: Path, form: str) -> None:
    write(tmp_path / "train.csv", "user,item\n" + "".join(f"{at},{at}\n" for at in range(9)))
    rows = "".join(form.format(at, at) + "\n" for at in range(9))
    write(tmp_path / "test.csv", "user,item\n" + rows)
    parts = read_split(tmp_path)
    assert pairs(parts.train) == pairs(parts.test) == [(at, at) for at in range(9)]


# ---- .txt ----


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "196\t242\t3\t881250949\n196\t51\t2\t881250951\n22\t242\t1\t87\n",
            "every line has 4 fields",
        ),
        ("1 1 2\n1 2 4\n2 1 3.5\n", "every line has 3 fields"),
        ("user_id item_id\n1 2\n1 3\n", "the first line looks like a header"),
        ("1\t2\t3\t881\n1\t5\t2\t882\n22\t2\t1\n", "most lines have 4 fields"),
        ("user_id item_id\nu1 i1\nu2 i2\n", "the first line looks like a header"),
        ("1, 2, 5\n1, 3, 4\n", "every line has commas"),
        ("user_id,item_id\n1,2\n", "every line has commas"),
        ("1::2::5\n1::3::5\n", "every line has commas or other separators"),
        ("1;2;5\n1;3;4\n", "every line has commas or other separators"),
    ],
)
def test_tables_are_not_taken_for_lists_of_neighbours(
    tmp_path: Path, text: str, found: str
) -> None:
    path = write(tmp_path / "a.txt", text)
    with pytest.raises(DataError, match=f"taken for LightGCN's, .* but {found}.*--separator"):
        read_interactions(path)


@pytest.mark.parametrize(
    "text", ["1 2\n1 3\n2 3\n", "0 1 2\n1 2 3\n", "a b c\nd e\n", "5\n6 1 2\n"]
)
def test_lists_of_neighbours_are_read(tmp_path: Path, text: str) -> None:
    lines = [line.split() for line in text.splitlines()]
    expected = [(user, item) for user, *items in lines for item in items]
    found = pairs(read_interactions(write(tmp_path / "a.txt", text)))
    assert [(str(user), str(item)) for user, item in found] == expected


def test_csv_parts_in_folders_that_name_a_column(tmp_path: Path) -> None:
    for day in ("2020-01-02", "2020-01-01"):
        write(tmp_path / f"date={day}" / "data_0.csv", "user,item\n1,2\n")
    data = read_interactions(tmp_path)
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [1577836800, 1577836800 + 86_400]


def test_folders_beside_files_are_told_of(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "more" / "b.csv")
    write(tmp_path / "run" / "users.json", '["a"]')
    write(tmp_path / "run" / "run.json", "{}")
    with pytest.warns(DataWarning, match="not read, beside what is: more$"):
        assert len(read_interactions(tmp_path)) == 2


def test_train_and_test_files_named_one_by_one(tmp_path: Path) -> None:
    for name in ("train", "valid", "test", "more"):
        write(tmp_path / f"{name}.csv")
    parts = read_split([tmp_path / f"{name}.csv" for name in ("test", "train", "valid")])
    assert parts.test is not None
    assert parts.validation is not None
    with pytest.raises(
        DataError, match="expected train and test files, or parts of one table, got"
    ):
        read_split([tmp_path / "train.csv", tmp_path / "test.csv", tmp_path / "more.csv"])


def test_one_id_that_looks_like_another_is_told_of(tmp_path: Path) -> None:
    users = "".join(f"u{user},5\n" for user in range(100))
    write(tmp_path / "train.csv", "user,item\nabc,5\n" + users)
    write(tmp_path / "test.csv", "user,item\nABC,5\n" + users)
    with pytest.warns(DataWarning, match="1 of 101 users .*, such as 'ABC', beside 'abc' there"):
        assert len(read_split(tmp_path).train) == 101


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_split(tmp_path / ("x" * 300 + ".csv"))
