from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from peel_ext.data import Interactions, read_interactions, read_split
from peel_ext.errors import DataError

USERS = ["u1", "u2", "u1"]
ITEMS = [7, 7, 9]
TIMES = [3.0, 1.5, 2.0]


def rows_of(data: Interactions) -> list[tuple[int | str, int | str, float | None]]:
    times = [None] * len(data) if data.timestamps is None else data.timestamps.tolist()
    users, items = data.users.to_ids(data.user_rows), data.items.to_ids(data.item_rows)
    return list(zip(users, items, times, strict=True))


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


EXPECTED = list(zip(USERS, ITEMS, TIMES, strict=True))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id,item_id,timestamp\nu1,7,3\nu2,7,1.5\nu1,9,2\n"),
        ("a.csv", 'time,x,"item","user"\r\n3,,7,"u1"\r\n1.5,,7,u2\r\n\r\n2,,9,u1'),
        ("a.csv", "\ufeffuserId,movieId,timestamp\nu1,7,3\nu2,7,1.5e0\nu1,9,2"),
        ("a.tsv", "user_id\titem_id\ttimestamp\nu1\t7\t3\nu2\t7\t1.5\nu1\t9\t2\n"),
        (
            "a.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            "u1\t7\t5\t3\nu2\t7\t1\t1.5\nu1\t9\t2\t2\n",
        ),
        ("a.dat", "u1::7::5::3\r\nu2::7::1::1.5\r\n\r\nu1::9::2::2\r\n"),
    ],
)
def test_text_formats(tmp_path: Path, name: str, text: str) -> None:
    assert rows_of(read_interactions(write(tmp_path, name, text))) == EXPECTED


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    users = pyarrow.array(USERS, pyarrow.large_string() if kind == "large_string" else None)
    if kind == "dictionary":
        users = users.dictionary_encode()
    table = pyarrow.table(
        {"user_id": users, "item_id": pyarrow.array(ITEMS, pyarrow.int16()), "timestamp": TIMES}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert rows_of(read_interactions(tmp_path / "a.parquet")) == EXPECTED


def test_lightgcn_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "0 5 7 5\n\n2\n1  6 \n")
    assert rows_of(read_interactions(path)) == [
        (0, 5, None), (0, 7, None), (0, 5, None), (1, 6, None),
    ]  # fmt: skip
    path = write(tmp_path, "b.txt", "u\ta\u00a0b \u3000\r\n")  # only tabs and spaces part ids
    assert rows_of(read_interactions(path)) == [("u", "a\u00a0b", None), ("u", "\u3000", None)]


def test_ids_with_spaces_and_of_any_script_come_back(tmp_path: Path) -> None:
    names = ["Ada Lovelace", " x ", "\u96ea", "e\u0301", "\u00e9", "\U0001f600", "-", "NaN", "1e3"]
    path = write(tmp_path, "a.csv", "user,item\n" + "".join(f"{name},{name}\n" for name in names))
    data = read_interactions(path)
    assert rows_of(data) == [(name, name, None) for name in names]
    pyarrow.parquet.write_table(
        pyarrow.table({"user": names, "item": names}), tmp_path / "a.parquet"
    )
    assert rows_of(read_interactions(tmp_path / "a.parquet")) == rows_of(data)


@pytest.mark.parametrize("times", [[-5.0, -1e300], [0.0, 4e18], [1e-300, 0.0]])
def test_any_finite_time_is_taken(tmp_path: Path, times: list[float]) -> None:
    lines = [f"{user},1,{time!r}\n" for user, time in enumerate(times)]
    path = write(tmp_path, "a.csv", "user,item,time\n" + "".join(lines))
    assert [time for _, _, time in rows_of(read_interactions(path))] == times


def test_columns_of_a_file_without_a_header_have_no_names(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "1 2\n")
    with pytest.raises(DataError, match=r"a\.txt: columns of a \.txt file have no names"):
        read_interactions(path, user_column="user")


@pytest.mark.parametrize("kind", ["csv", "txt", "dat", "parquet"])
@pytest.mark.parametrize("textual", [False, True])
def test_pieces_make_a_whole(
    kind: str, textual: bool, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    users = [f"{'u' * textual}{user}" for user in rng.integers(-50, 50, 300)]
    items = [f"{'i' * textual}{item}" for item in rng.integers(10**12, 10**12 + 40, 300)]
    times = rng.random(300).tolist()
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        rows = zip(users, items, times, strict=True)
        path.write_text("user,item,time\n" + "".join(f"{u},{i},{t!r}\n" for u, i, t in rows))
    elif kind == "txt":
        times = [None] * 300
        path.write_text("".join(f"{u} {i}\n" for u, i in zip(users, items, strict=True)))
    elif kind == "dat":
        rows = zip(users, items, times, strict=True)
        path.write_text("".join(f"{u}::{i}::1::{t!r}\n" for u, i, t in rows))
    else:
        cast = (lambda ids: ids) if textual else (lambda ids: [int(each) for each in ids])
        table = pyarrow.table({"user": cast(users), "item": cast(items), "time": times})
        pyarrow.parquet.write_table(table, path, row_group_size=90)
    for module in ("parquet_files", "text_files"):
        monkeypatch.setattr(f"peel_ext.data.{module}.PIECE_ROWS", 7)
    monkeypatch.setattr("peel_ext.data.collector._MERGE_AT", 20)
    data = read_interactions(path)
    assert data.users.holds_integers == data.items.holds_integers == (not textual)
    found = [(str(user), str(item), time) for user, item, time in rows_of(data)]
    assert found == list(zip(users, items, times, strict=True))
    assert len(data.users) == len(set(users))


def test_integers_of_one_file_and_strings_of_another(tmp_path: Path) -> None:
    table = pyarrow.table({"user": [3, 1], "item": pyarrow.array([250, 7], pyarrow.uint8())})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    write(tmp_path, "test.csv", "user,item\n1,7\n2,x\n")
    train, test = read_split(tmp_path)
    assert test is not None
    assert rows_of(train) == [(3, "250", None), (1, "7", None)]
    assert rows_of(test) == [(1, "7", None), (2, "x", None)]


@pytest.mark.parametrize("names", [["10", "9"], ["007", "7"]])
def test_strings_by_their_type_stay_strings(tmp_path: Path, names: list[str]) -> None:
    table = pyarrow.table({"user": [3, 1], "item": names})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    data = read_interactions(tmp_path / "a.parquet")
    assert [item for _, item, _ in rows_of(data)] == names
    assert data.items.to_ids([0, 1]) == sorted(names)
    assert data.users.holds_integers


def test_text_that_is_not_utf8_in_parquet(tmp_path: Path) -> None:
    text = pyarrow.array([b"\xff", b"a"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"user": [3, 1], "item": text})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: column item holds text that is not UTF-8"):
        read_interactions(tmp_path / "a.parquet")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays(
        [pyarrow.array([1]), pyarrow.array([2]), pyarrow.array([3])], names=["user", "user", "item"]
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for path in (tmp_path / "a.parquet", write(tmp_path, "a.csv", "user,user,item\n1,2,3\n")):
        with pytest.raises(DataError, match="2 columns user, expected one"):
            read_interactions(path)


def test_integers_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"user": pyarrow.array([1 << 63], pyarrow.uint64()), "item": [1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="ids must be below 2"):
        read_interactions(tmp_path / "a.parquet")


@pytest.mark.slow
def test_interactions_take_few_bytes(tmp_path: Path) -> None:
    """Reading, splitting and sorting take some seventy bytes each, not objects by the million."""
    code = (
        "import resource, sys\n"
        "import numpy, pyarrow.parquet\n"
        "from peel_ext.config import SplitConfig\n"
        "from peel_ext.data import read_interactions, split_interactions\n"
        "data = read_interactions(sys.argv[1])\n"
        "split = split_interactions(data, None, SplitConfig())\n"
        "del data\n"
        "split.train.csr()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    peaks = []
    for count in (200_000, 2_200_000):
        rng = np.random.default_rng(0)
        users, items = rng.integers(0, 50_000, count), rng.integers(0, 20_000, count)
        table = pyarrow.table({"user": users, "item": items, "time": rng.random(count)})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        command = [sys.executable, "-P", "-c", code, str(tmp_path / "a.parquet")]
        peaks.append(int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    assert (peaks[1] - peaks[0]) / 2_000_000 < 80


def test_quoted_fields_may_hold_anything(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'user,item\n"a,b","line\nbreak"\n"say ""x""",y\n')
    assert rows_of(read_interactions(path)) == [
        ("a,b", "line\nbreak", None),
        ('say "x"', "y", None),
    ]


def test_tabs_take_quotes_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'user\titem\n"a\tb"\n')
    assert rows_of(read_interactions(path)) == [('"a', 'b"', None)]


@pytest.mark.parametrize(
    "items", [["7", "007"], ["1", "x"], ["1", ""], ["-0", "1"], ["1" * 30, "2"]]
)
def test_text_that_is_not_all_plain_integers_stays_text(tmp_path: Path, items: list[str]) -> None:
    if "" in items:
        items = ["1", "+1"]
    path = write(tmp_path, "a.csv", "user,item\n" + "".join(f"1,{item}\n" for item in items))
    data = read_interactions(path)
    assert [item for _, item, _ in rows_of(data)] == items
    assert data.users.holds_integers
    assert not data.items.holds_integers


def test_columns_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "who,what,when,user,item\na,b,4,wrong,wrong\n")
    data = read_interactions(path, user_column="who", item_column="what", timestamp_column="when")
    assert rows_of(data) == [("a", "b", 4.0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: empty, expected a header line"),
        ("a.csv", "user,item\n", "a.csv: no interactions"),
        ("a.csv", "user,thing\n1,2\n", "a.csv: no column item_id or .*; columns are user, thing"),
        ("a.csv", "user,item\n1,2\n1,2,3\n", r"a.csv:3: expected 2 fields, got 3"),
        ("a.csv", "user,item\n1,2\n1\n", r"a.csv:3: expected 2 fields, got 1"),
        ("a.csv", "user,item\n\n1,\n", r"a.csv:3: empty item id"),
        ("a.csv", "user,item\n,1\n", r"a.csv:2: empty user id"),
        ("a.csv", 'user,item\n"1,2\n', r"a.csv:2: unexpected end"),
        ("a.csv", 'user,item\n"1"x,2\n', r"a.csv:2: "),
        ("a.csv", b"user,item\n1,\xff\n", r"a.csv:2: not UTF-8"),
        ("a.csv", b"user,item\n1,2\n\0,2\n", r"a.csv:3: holds a zero byte"),
        ("a.csv", "user,item,time\n1,2,soon\n", r"a.csv:2: timestamp 'soon' is not a finite"),
        ("a.csv", "user,item,time\n1,2,1_0\n", r"a.csv:2: timestamp '1_0' is not a finite"),
        ("a.txt", "1 2\n3 4\r5 6\n", r"a.txt:2: holds a carriage return that ends no line"),
        ("a.csv", "user,item,time\n1,2,inf\n", r"a.csv:2: timestamp 'inf' is not a finite"),
        ("a.inter", "user_id:token\n1\n", "no column item_id"),
        ("a.parquet", b"PAR1 it is not", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.json", "1 2", "expected a file ending in .parquet, .csv, .tsv, .inter, .txt, .dat"),
        ("a.txt", "", "a.txt: no interactions"),
        ("a.txt", "1\n2\n", "a.txt: no interactions"),
        ("a.txt", b"1 2\n\xff 3\n", r"a.txt:2: not UTF-8"),
        ("a.dat", "1::2::5::978300760\n1::2::5\n", r"a.dat:2: expected 4 fields, got 3"),
        ("a.dat", "1,2,5,978300760\n", r"a.dat:1: expected 4 fields, got 1"),
        ("a.dat", "1::::5::978300760\n", r"a.dat:1: empty item id"),
        ("a.dat", "1::2::5::noon\n", r"a.dat:1: timestamp 'noon' is not a finite"),
        ("a.dat", "\n\n", "a.dat: no interactions"),
    ],
)
def test_bad_files_are_named_with_the_line(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1.5], "item_id": [1]}, "column user_id is double, expected integers or strings"),
        ({"user_id": [1], "item_id": [None]}, "column item_id"),
        ({"user_id": [1, None], "item_id": [1, 2]}, "column user_id holds a null at row 1, expected ids"),
        ({"user_id": ["a", ""], "item_id": [1, 2]}, "column user_id holds an empty id at row 1"),
        ({"user_id": [1], "item_id": [1], "time": [float("nan")]}, "no finite number at row 0"),
        ({"user_id": [1], "item_id": [1], "time": ["x"]}, "column time is string, expected times"),
        ({"user_id": pyarrow.array([], pyarrow.int32()), "item_id": pyarrow.array([], pyarrow.int32())},
         "no interactions"),
        ({"a": [1]}, "no column user_id"),
    ],
)  # fmt: skip
def test_bad_parquet_columns_are_named(tmp_path: Path, columns, message: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_interactions(tmp_path / "a.parquet")


def test_truncated_parquet_is_an_error_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"user_id": USERS, "item_id": ITEMS}), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_interactions(path)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_interactions(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions(tmp_path / "b.csv")


def test_train_and_test_files_share_their_ids(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", "user,item\n1,5\n2,6\n")
    write(tmp_path, "test.csv", "user,item\n2,5\n3,007\n")
    train, test = read_split(tmp_path)
    assert test is not None
    # One id that is not a plain integer makes text of the whole column, in both files.
    assert rows_of(train) == [(1, "5", None), (2, "6", None)]
    assert rows_of(test) == [(2, "5", None), (3, "007", None)]
    assert train.users is test.users


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    write(tmp_path, "notes.md", "nothing")
    write(tmp_path, "a.csv", "user,item\n1,5\n")
    whole, test = read_split(tmp_path)
    assert test is None
    assert rows_of(whole) == [(1, 5, None)]


@pytest.mark.parametrize(
    "names", [[], ["a.csv", "b.csv"], ["train.csv", "train.tsv", "test.csv"], ["test.csv"]]
)
def test_a_folder_without_a_clear_choice(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path, name, "user,item\n1,5\n")
    with pytest.raises(DataError, match=f"found {', '.join(sorted(names)) or 'none'}"):
        read_split(tmp_path)


@pytest.mark.data
def test_real_files(data_folder: Path) -> None:
    movies, none = read_split(data_folder / "ml-100k")
    assert none is None
    assert (len(movies), movies.num_users, movies.num_items) == (100_000, 943, 1682)
    assert movies.timestamps is not None
    assert movies.timestamps.min() > 8e8
    train, test = read_split(data_folder / "gowalla")
    assert test is not None
    assert (len(train), len(test)) == (810_128, 217_242)
    assert (train.num_users, train.num_items) == (29_858, 40_981)
    assert np.array_equal(train.items.ids, np.arange(40_981))
