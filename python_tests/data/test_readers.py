from __future__ import annotations

import io
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from peel_ext.config import ReadingConfig
from peel_ext.data import Interactions, read_interactions, read_split
from peel_ext.errors import DataError, DataWarning

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
        ("a.CSV", "USER ID;Item-Id;Time\nu1;7;3\nu2;7;1.5\nu1;9;2\n"),
        ("a.csv", " user_id , item_id ,timestamp\n u1 ,7, 3\nu2\t,7 ,1.5\nu1,9,2\n"),
        ("a.csv", 'user,item,time\nu1,"7","3"\nu2,7.0,1.5\nu1,9.,2\n'),
        ("a.tsv", 'user\titem\ttime\n"u1"\t"7"\t"3"\nu2\t7\t1.5\nu1\t9\t2\n'),
        (
            "a.jsonl",
            '{"user": "u1", "item": 7, "time": 3}\n\n{"item": 7, "user": "u2", "time": 1.5}\n'
            '{"user": "u1", "item": 9, "time": 2}',
        ),
    ],
)
def test_text_formats(tmp_path: Path, name: str, text: str) -> None:
    told: list[str] = []
    data = read_interactions(write(tmp_path, name, text), on_remark=told.append)
    assert rows_of(data) == EXPECTED
    # Every column that is not read is told of.
    unused = [
        name for name in ("rating", "x") if name in text or (name, text[:2]) == ("rating", "u1")
    ]
    assert [line for name in unused for line in told if name in line] == told


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
    names = [
        "Ada Lovelace",
        "\u3000x",
        "\u96ea",
        "e\u0301",
        "\u00e9",
        "\U0001f600",
        "-",
        "1e3",
        "Nan",
    ]
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


@pytest.mark.parametrize("kind", ["csv", "txt", "dat", "parquet", "jsonl"])
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
    elif kind == "jsonl":
        quote = '"' if textual else ""
        rows = zip(users, items, times, strict=True)
        path.write_text("".join(
            f'{{"user": {quote}{u}{quote}, "item": {quote}{i}{quote}, "time": {t!r}}}\n' for u, i, t in rows
        ))  # fmt: skip
    else:
        cast = (lambda ids: ids) if textual else (lambda ids: [int(each) for each in ids])
        table = pyarrow.table({"user": cast(users), "item": cast(items), "time": times})
        pyarrow.parquet.write_table(table, path, row_group_size=90)
    monkeypatch.setattr("peel_ext.data.parquet_files._BATCH_ROWS", 7)
    monkeypatch.setattr("peel_ext.data.adjacency_files._BATCH_ROWS", 7)
    for module in ("delimited_files", "json_files"):
        monkeypatch.setattr(f"peel_ext.data.{module}.BLOCK_BYTES", 300)
    monkeypatch.setattr("peel_ext.data.collector._MERGE_AT", 20)
    monkeypatch.setattr("peel_ext.data.collector._MAX_SPAN", 0 if textual else 1 << 26)
    data = read_interactions(path, on_remark=lambda _: None)
    assert data.users.holds_integers == data.items.holds_integers == (not textual)
    found = [(str(user), str(item), time) for user, item, time in rows_of(data)]
    assert found == list(zip(users, items, times, strict=True))
    assert len(data.users) == len(set(users))


def test_integers_of_one_file_and_strings_of_another(tmp_path: Path) -> None:
    table = pyarrow.table({"user": [3, 1], "item": pyarrow.array([250, 7], pyarrow.uint8())})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    write(tmp_path, "test.csv", "user,item\n1,7\n2,x\n")
    told: list[str] = []
    parts = read_split(tmp_path, on_remark=told.append)
    assert parts.test is not None
    assert rows_of(parts.train) == [(3, "250", None), (1, "7", None)]
    assert rows_of(parts.test) == [(1, "7", None), (2, "x", None)]
    assert told == [
        "1 of 2 users of the test part are not in the training part",
        "1 of 2 items of the test part are not in the training part",
    ]


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
    with pytest.raises(
        DataError, match=r"a\.parquet: row 0: column item holds text that is not UTF-8"
    ):
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


def test_quotes_between_tabs_are_undone_where_the_field_is_quoted_whole(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.tsv", 'user\titem\n1\t"He said ""hi"""\n2\t12" single\n3\t"Weird" Al\n4\t"\n'
    )
    assert [item for _, item, _ in rows_of(read_interactions(path))] == [
        'He said "hi"', '12" single', '"Weird" Al', '"',
    ]  # fmt: skip


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
    with pytest.warns(DataWarning, match="columns not used: user, item"):
        data = read_interactions(
            path, user_column="who", item_column="what", timestamp_column="when"
        )
    assert rows_of(data) == [("a", "b", 4.0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: empty, expected a header line"),
        ("a.csv", "user,item\n", "a.csv: no interactions"),
        (
            "a.csv",
            "user,thing\n1,2\n",
            "a.csv: no column item_id .*; columns are user, thing: name it",
        ),
        ("a.csv", "user,item\n1,2\n1,2,3\n", r"a.csv:3: expected 2 fields, got 3"),
        ("a.csv", "user,item\n1,2\n1\n", r"a.csv:3: expected 2 fields, got 1"),
        ("a.csv", "user,item\n\n1,\n", r"a.csv:3: column item holds '', a missing id"),
        ("a.csv", "user,item\n,1\n", r"a.csv:2: column user holds '', a missing id"),
        ("a.csv", 'user,item\n"1,2\n', r"a.csv:2: expected 2 fields, got 1; a quote is not closed"),
        ("a.csv", b"user,item\n1,\xff\n", r"a.csv:2: not UTF-8: name another encoding"),
        (
            "a.csv",
            b"user,item\n1,2\n\0,2\n",
            "a.csv:3: column user holds .*zero byte",
        ),
        ("a.txt", "1 2\n3 4\r5 6\n", r"a.txt:2: holds a carriage return that ends no line"),
        ("a.inter", "user_id:token\n1\n", "no column item_id"),
        ("a.parquet", b"PAR1 it is not", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.mp3", "1 2", "expected a file ending in .parquet, .*, or to be told of the format"),
        (
            "a.csv",
            b"\xff\xfeu\0,\0i\0",
            r"a.csv:1: holds a zero byte: expected text in utf-8, not UTF-16",
        ),
        ("a.csv", "user,user_id\n1,2\n", "a.csv: no column item_id"),
        ("a.csv.gz", b"user,item\n1,2\n", "a.csv.gz: cannot be read: zlib inflate failed"),
        ("a.csv.zst", b"user,item\n1,2\n", "a.csv.zst: cannot be read: ZSTD"),
        ("a.jsonl", "1 2\n", "a.jsonl:1: no JSON"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1: expected an object on each line"),
        ("a.json", '{"user": 1, "item": 2}\n{"user": 1\n', "a.json:2: no JSON"),
        ("a.jsonl", '{"user": 1, "item": 2}\n{"user": 1}\n', "a.jsonl:2: column item holds None"),
        ("a.jsonl", '{"user": {}, "item": 2}\n', "a.jsonl: user holds values of several or other"),
        ("a.jsonl", "", "a.jsonl: no column user_id"),
        ("a.txt", "", "a.txt: no interactions"),
        ("a.txt", "1\n2\n", "a.txt: no interactions"),
        ("a.txt", b"1 2\n\xff 3\n", r"a.txt:2: not UTF-8"),
        ("a.dat", "1::2::5::978300760\n1::2::5\n", r"a.dat:2: expected 4 fields, got 3"),
        ("a.dat", "1,2,5,978300760\n", "a.dat: no column user_id .*: say that there is no header"),
        ("a.dat", "1::::5::978300760\n", r"a.dat:1: column item_id holds '', a missing id"),
        ("a.dat", "1::2::5::3\n1::2\x1f3::5::3\n", r"a.dat: holds the byte 0x1f"),
        ("a.dat", "\n\n", "a.dat: no interactions"),
    ],
)
def test_bad_files_are_named_with_the_line(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(path, on_remark=lambda _: None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [2.0, 1.5], "item_id": [1, 2]}, "row 1: column user_id 1.5 is no whole number"),
        ({"user_id": [1e17], "item_id": [1]}, "is no whole number that a float holds exactly"),
        ({"user_id": [True], "item_id": [1]}, "column user_id holds bool, expected integers or strings"),
        ({"user_id": [[1]], "item_id": [1]}, "column user_id holds list"),
        ({"user_id": [2.0, float("nan")], "item_id": [1, 2]}, "row 1: column user_id holds nan, a missing"),
        ({"user_id": [1], "item_id": [None]}, "column item_id"),
        ({"user_id": [1, None], "item_id": [1, 2]}, "row 1: column user_id holds None, a missing id"),
        ({"user_id": ["a", ""], "item_id": [1, 2]}, "row 1: column user_id holds '', a missing id"),
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
    with pytest.raises(DataError, match=r"b\.csv: expected one data file .*, found none"):
        read_interactions(tmp_path / "b.csv")


@pytest.mark.data
def test_real_files(data_folder: Path) -> None:
    with pytest.warns(DataWarning, match="column rating is not used"):
        movies = read_split(data_folder / "ml-100k")
    assert movies.test is None
    assert (len(movies.train), movies.train.num_users, movies.train.num_items) == (
        100_000,
        943,
        1682,
    )
    assert movies.train.timestamps is not None
    assert movies.train.timestamps.min() > 8e8
    gowalla = read_split(data_folder / "gowalla")
    assert gowalla.test is not None
    assert (len(gowalla.train), len(gowalla.test)) == (810_128, 217_242)
    assert (gowalla.train.num_users, gowalla.train.num_items) == (29_858, 40_981)
    assert np.array_equal(gowalla.train.items.ids, np.arange(40_981))
    toys = read_interactions(data_folder / "toys")
    assert (len(toys), toys.num_users, toys.num_items) == (167_597, 19_412, 11_924)


# ---- what comes in other clothes ----


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "GZ"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.dat"])
def test_compressed_text(tmp_path: Path, name: str, suffix: str) -> None:
    text = {
        "a.csv": "user,item\n1,7\n2,7\n",
        "a.txt": "1 7\n2 7\n",
        "a.jsonl": '{"user": 1, "item": 7}\n{"user": 2, "item": 7}\n',
        "a.dat": "1::7::5::0\n2::7::5::0\n",
    }[name]
    kind = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}[suffix.lower()]
    with pyarrow.output_stream(tmp_path / f"{name}.{suffix}", compression=kind) as stream:
        stream.write(text.encode())
    data = read_interactions(tmp_path / f"{name}.{suffix}", on_remark=lambda _: None)
    assert [row[:2] for row in rows_of(data)] == [(1, 7), (2, 7)]


def test_a_torn_compressed_file_is_an_error(tmp_path: Path) -> None:
    with pyarrow.output_stream(tmp_path / "whole.csv.gz", compression="gzip") as stream:
        stream.write(b"user,item\n" + b"".join(b"%d,%d\n" % (at, at * 7) for at in range(1000)))
    whole = (tmp_path / "whole.csv.gz").read_bytes()
    for length in (len(whole) // 2, len(whole) - 4):
        path = write(tmp_path, "a.csv.gz", whole[:length])
        with pytest.raises(DataError, match=r"a\.csv\.gz"):
            read_interactions(path)


def frames(table: pyarrow.Table) -> dict[str, Any]:
    import pandas as pd

    found = {"arrow": table, "reader": table.to_reader(), "pandas": table.to_pandas()}
    found["index"] = pd.concat([table.to_pandas(), table.to_pandas()]).iloc[: len(table)]
    polars = pytest.importorskip("polars")
    return found | {"polars": polars.from_arrow(table)}


def test_frames_are_read_as_files(tmp_path: Path) -> None:
    table = pyarrow.table({"user_id": USERS, "item_id": ITEMS, "timestamp": TIMES})
    for name, frame in frames(table).items():
        assert rows_of(read_interactions(frame)) == EXPECTED, name


def test_frames_with_categories_and_missing_values() -> None:
    import pandas as pd

    frame = pd.DataFrame({"user": pd.Categorical(USERS), "item": [7.0, 7.0, 9.0], "time": TIMES})
    assert rows_of(read_interactions(frame)) == EXPECTED
    frame.loc[1, "item"] = None
    with pytest.raises(DataError, match="DataFrame: row 1: column item holds None, a missing id"):
        read_interactions(frame)
    told: list[str] = []
    data = read_interactions(frame, missing="drop", on_remark=told.append)
    assert rows_of(data) == [EXPECTED[0], EXPECTED[2]]
    assert told == ["1 rows with a missing id are left out"]
    mixed = pd.DataFrame({"user": [1, "a"], "item": [1, 2]})
    with pytest.raises(DataError, match="DataFrame: "):
        read_interactions(mixed)


def test_interactions_come_back_as_they_are(tmp_path: Path) -> None:
    data = read_interactions(write(tmp_path, "a.csv", "user,item\n1,7\n"))
    assert read_interactions(data) is data
    with pytest.raises(ValueError, match="settings of reading are for data that is yet to be read"):
        read_interactions(data, min_rating=3)


@pytest.mark.parametrize("data", [None, 7, [], [1], {"user": [1]}, b"a.csv", np.zeros(3)])
def test_other_things_are_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="data must be a path, several paths, a frame"):
        read_interactions(data)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(b"user,item\n1,7\n")
    assert rows_of(read_interactions("-")) == [(1, 7, None)]
    give(b'{"user": 1, "item": 7}\n')
    assert rows_of(read_interactions("-", format="jsonl")) == [(1, 7, None)]
    give(b"user,item\n1\n")
    with pytest.raises(DataError, match=r"^standard input:2: expected 2 fields, got 1"):
        read_interactions("-")


def test_separators_and_files_without_a_header(tmp_path: Path) -> None:
    told: list[str] = []
    path = write(tmp_path, "u.data", "196\t242\t3\t881250949\n196\t51\t2\t881250951\n")
    options: dict[str, Any] = {"separator": "tab", "header": False, "on_remark": told.append}
    assert [row[:2] for row in rows_of(read_interactions(path, **options))] == [
        (196, 242),
        (196, 51),
    ]
    assert told == ["columns not used: 3, 4"]
    named = read_interactions(
        path, **options, timestamp_column="4", user_column="2", item_column="1"
    )
    assert rows_of(named) == [(242, 196, 881250949.0), (51, 196, 881250951.0)]
    for separator, spelt in (("|", "pipe"), ("::", "::"), (" ", "space"), (";;;", ";;;")):
        path = write(tmp_path, "u.txt", f"user{separator}item\n1{separator}a\n2{separator}b;c\n")
        for given in (separator, spelt):
            data = read_interactions(path, separator=given)
            assert rows_of(data) == [(1, "a", None), (2, "b;c", None)]


def test_separators_of_several_characters_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = ["x" * int(count) + ":" * int(end) for count, end in rng.integers(0, (9, 2), (200, 2))]
    ids = [f"{at}{name}e" for at, name in enumerate(ids)]
    path = write(tmp_path, "a.dat", "".join(f"{name}::{name}::1::2\n" for name in ids))
    for size in (64, 65, 66, 67):
        monkeypatch.setattr("peel_ext.data.delimited_files.BLOCK_BYTES", size)
        data = read_interactions(path, on_remark=lambda _: None)
        assert [row[0] for row in rows_of(data)] == ids


def test_text_of_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user;item\nAndré;7\nZoë;8\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv:2: not UTF-8: .*--encoding"):
        read_interactions(path)
    data = read_interactions(path, encoding="latin-1")
    assert [row[0] for row in rows_of(data)] == ["André", "Zoë"]
    unread = write(tmp_path, "b.csv", "user,item,title\n1,7,Les Misérables\n".encode("latin-1"))
    with pytest.warns(DataWarning, match="columns not used: title"):
        assert rows_of(read_interactions(unread)) == [(1, 7, None)]


def test_a_long_field_nobody_reads(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,review\n1,2," + "x" * 300_000 + "\n3,4,\n")
    with pytest.warns(DataWarning, match="columns not used: review"):
        assert rows_of(read_interactions(path)) == [(1, 2, None), (3, 4, None)]


@pytest.mark.parametrize("last", ["9223372036854775807", "9223372036854775808"])
def test_integers_of_64_bits(tmp_path: Path, last: str) -> None:
    path = write(tmp_path, "a.csv", f"user,item\n9148955329465708066,1\n{last},2\n")
    data = read_interactions(path)
    assert data.users.holds_integers == last.endswith("7")
    assert [str(row[0]) for row in rows_of(data)] == ["9148955329465708066", last]


MISSING = ["nan", "NaN", "NULL", "null", "None", "NA", "N/A", "<NA>", "\\N", ""]


@pytest.mark.parametrize("word", MISSING)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter", "a.dat", "a.jsonl", "a.parquet"])
def test_missing_ids(tmp_path: Path, word: str, name: str) -> None:
    pairs = [("3", "x"), (word, "y"), ("4", word)]
    forms = {
        "a.csv": "user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs),
        "a.tsv": "user\titem\n" + "".join(f"{u}\t{i}\n" for u, i in pairs),
        "a.inter": "user:token\titem:token\n" + "".join(f"{u}\t{i}\n" for u, i in pairs),
        "a.dat": "".join(f"{u}::{i}::1::2\n" for u, i in pairs),
        "a.jsonl": "".join(
            f'{{"user": "{u}", "item": "{i}"}}\n'.replace("\\", "\\\\") for u, i in pairs
        ),
    }
    path = tmp_path / name
    if name == "a.parquet":
        users, items = zip(*pairs, strict=True)
        pyarrow.parquet.write_table(pyarrow.table({"user": users, "item": items}), path)
    else:
        path.write_text(forms[name])
    quiet: dict[str, Any] = {"on_remark": lambda _: None}
    with pytest.raises(DataError, match=r"a\.\w+:.*column user(_id)? holds .*, a missing id"):
        read_interactions(path, **quiet)
    assert [str(row[0]) for row in rows_of(read_interactions(path, **quiet, missing="drop"))] == [
        "3"
    ]
    if word:
        kept = read_interactions(path, **quiet, missing="keep")
        assert [row[0] for row in rows_of(kept)] == ["3", word, "4"]
    else:
        with pytest.raises(DataError, match="a missing id"):
            read_interactions(path, **quiet, missing="keep")


# ---- times ----

NEW_YEAR = 1577836800.0  # 2020-01-01 00:00 UTC


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2020-01-01", NEW_YEAR),
        ("2020-01-01 10:30", NEW_YEAR + 37_800),
        ("2020-01-01 10:30:05", NEW_YEAR + 37_805),
        ("2020-01-01T10:30:05Z", NEW_YEAR + 37_805),
        ("2020-01-01T10:30:05.250Z", NEW_YEAR + 37_805.25),
        ("2020-01-01 10:30:05.123456789", NEW_YEAR + 37_805.123456789),
        ("2020-01-01 00:00:00 UTC", NEW_YEAR),
        ("2020-01-01 02:00:00+02:00", NEW_YEAR),
        ("2019-12-31T19:00:00-0500", NEW_YEAR),
        ("1577836800", NEW_YEAR),
        ("1.5778368e9", NEW_YEAR),
        (" 1577836800 ", NEW_YEAR),
    ],
)
def test_times_as_people_write_them(tmp_path: Path, text: str, time: float) -> None:
    path = write(tmp_path, "a.csv", f"user,item,date\n1,2,{text}\n1,3,{text}\n")
    data = read_interactions(path)
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [pytest.approx(time, abs=1e-6, rel=0)] * 2


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_of_every_type(tmp_path: Path, unit: str, zone: str | None) -> None:
    import datetime

    moment = datetime.datetime(2020, 1, 1, 0, 0, 1, tzinfo=datetime.UTC)
    for values, expected in (
        (pyarrow.array([moment], pyarrow.timestamp(unit, zone)), NEW_YEAR + 1),
        (pyarrow.array([moment.date()], pyarrow.date32()), NEW_YEAR),
        (pyarrow.array([moment.date()], pyarrow.date64()), NEW_YEAR),
        (pyarrow.array(["2020-01-01"]).dictionary_encode(), NEW_YEAR),
    ):
        table = pyarrow.table({"user": [1], "item": [2], "time": values})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        for data in (read_interactions(tmp_path / "a.parquet"), read_interactions(table)):
            assert data.timestamps is not None
            assert data.timestamps.tolist() == [expected]


@pytest.mark.parametrize("bad", ["soon", "1_0", "inf", "", "10:31", "nan", "2020-13-01"])
def test_times_that_cannot_be_read_are_left_out_unless_asked_for(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path, "a.csv", f"user,item,time\n\n1,2,5\n3,4,{bad}\n")
    message = rf"a\.csv:4: column time: '{bad}' is not a finite number"
    with pytest.warns(DataWarning, match=message + ".*; times are not used"):
        data = read_interactions(path)
    assert rows_of(data) == [(1, 2, None), (3, 4, None)]
    with pytest.raises(DataError, match=message):
        read_interactions(path, timestamp_column="time")
    with pytest.warns(DataWarning, match="columns not used: time"):
        assert read_interactions(path, timestamps=False).timestamps is None


@pytest.mark.parametrize(
    "values", [[float("nan")], [None], pyarrow.array([5], pyarrow.time32("s")), [[5]]]
)
def test_parquet_times_that_cannot_be_read(tmp_path: Path, values: Any) -> None:
    table = pyarrow.table({"user": [1], "item": [2], "time": values})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.warns(DataWarning, match=r"row 0: column time.*; times are not used"):
        assert read_interactions(tmp_path / "a.parquet").timestamps is None


# ---- ratings and weights ----


def test_ratings_below_the_least_one_are_had_but_do_not_count(tmp_path: Path) -> None:
    lines = "user,item,overall\n1,7,5\n1,8,3.5\n2,7,2\n2,9,4\n3,8,1\n3,10,1\n"
    write(tmp_path, "a.csv", lines)
    told: list[str] = []
    parts = read_split(tmp_path / "a.csv", ReadingConfig(min_rating=3.5), told.append)
    assert rows_of(parts.train) == [(1, 7, None), (1, 8, None), (2, 9, None)]
    # Items and users that are only in rows that do not count are none of the model's.
    assert parts.train.items.ids.tolist() == [7, 8, 9]
    assert parts.below is not None
    assert rows_of(parts.below) == [(2, 7, None)]
    assert told == ["3 of 6 interactions are rated below 3.5: not trained on, and not recommended"]
    with pytest.raises(DataError, match="no interaction is rated 6 or more"):
        read_interactions(tmp_path / "a.csv", min_rating=6)
    with pytest.raises(
        DataError, match=r"a\.csv: no column stars; columns are user, item, overall"
    ):
        read_interactions(tmp_path / "a.csv", min_rating=1, rating_column="stars")
    write(tmp_path, "b.csv", "user,item\n1,2\n")
    with pytest.raises(
        DataError, match=r"no column rating or the like; columns are user, item: name it"
    ):
        read_interactions(tmp_path / "b.csv", min_rating=1)
    write(tmp_path, "c.csv", "user,item,rating\n1,2,5\n1,3,good\n")
    with pytest.raises(DataError, match=r"c\.csv:3: column rating: 'good' is not a finite number"):
        read_interactions(tmp_path / "c.csv", min_rating=1)


def test_labels_and_truth_values_are_ratings_too(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "user,item,label\n1,7,1\n1,8,0\n")
    table = pyarrow.table({"user": [1, 1], "item": [7, 8], "liked": [True, False]})
    for data, name in ((tmp_path / "a.csv", "label"), (table, "liked")):
        read = read_interactions(data, rating_column=name, min_rating=1, on_remark=lambda _: None)
        assert rows_of(read) == [(1, 7, None)]


@pytest.mark.parametrize("name", ["rating", "Label", "plays", "play_count", "weight", "event_type"])
def test_value_columns_that_are_not_used_are_told_of(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "a.csv", f"user,item,{name},title\n1,2,3,x\n")
    told: list[str] = []
    read_interactions(path, on_remark=told.append)
    assert len(told) == 2
    assert told[0].startswith(f"column {name} is not used, every row counts alike: ")
    assert told[1] == "columns not used: title"


def test_weights(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "user\tartist\tplays\n1\ta\t30\n1\tb\t2\n1\ta\t5\n")
    data = read_interactions(path, weight_column="plays")
    assert data.weights is not None
    assert data.weights.tolist() == [30, 2, 5]
    assert data.deduplicated().weights.tolist() == [35, 2]  # type: ignore[union-attr]
    assert data.csr_weights().tolist() == [35, 2]  # type: ignore[union-attr]
    path = write(tmp_path, "b.tsv", "user\tartist\tplays\n1\ta\t30\n1\tb\t0\n")
    with pytest.raises(
        DataError, match=r"b\.tsv:3: column plays holds 0, expected weights above 0"
    ):
        read_interactions(path, weight_column="plays")


def test_usual_names_of_other_data_sets(tmp_path: Path) -> None:
    for header, row in (
        ("reviewerID,asin,unixReviewTime", ("A1", "B1", 1400000000.0)),
        ("userId,movieId,timestamp", ("A1", "B1", 1400000000.0)),
        ("User-ID,ISBN,date", ("A1", "B1", 1400000000.0)),
        ("customer_id,product_id,event_time", ("A1", "B1", 1400000000.0)),
        ("USER,ITEM,TIME", ("A1", "B1", 1400000000.0)),
    ):
        path = write(tmp_path, "a.csv", f"{header}\nA1,B1,1400000000\n")
        assert rows_of(read_interactions(path)) == [row]


# ---- what lies in wait in real files ----


def test_wide_integers_of_every_type_are_told_apart() -> None:
    ids = [1, (1 << 60) + 1, (1 << 60) + 3, (1 << 60) + 5]
    for kind in (pyarrow.uint64(), pyarrow.int64(), pyarrow.decimal128(30, 0)):
        table = pyarrow.table({"user": pyarrow.array(ids, kind), "item": [1, 2, 3, 4]})
        assert [row[0] for row in rows_of(read_interactions(table))] == ids
    with pytest.raises(DataError, match=r"row 1: column user 7\.5 is no whole number"):
        read_interactions(pyarrow.table({"user": [Decimal("7"), Decimal("7.5")], "item": [1, 2]}))


@pytest.mark.parametrize("coded", [False, True])
def test_string_views_and_rows_that_are_dropped(coded: bool) -> None:
    views = pyarrow.array(["a", None, "b"], pyarrow.string_view())
    dates = pyarrow.array(["2020-01-01", "", "1970-01-02"], pyarrow.string_view())
    if coded:
        plain = pyarrow.array(["a", "b", None])
        codes = pyarrow.array([0, 2, 1], pyarrow.int8())
        views = pyarrow.DictionaryArray.from_arrays(codes, plain.cast(pyarrow.string_view()))
    table = pyarrow.table({"user": views, "item": [1, 2, 3], "time": dates})
    data = read_interactions(table, missing="drop", on_remark=lambda _: None)
    assert rows_of(data) == [("a", 1, 1577836800.0), ("b", 3, 86400.0)]


def test_a_column_of_mixed_types_that_nobody_reads() -> None:
    import pandas as pd

    frame = pd.DataFrame({"user": [1, 2], "tags": [1, "a"], "item": [3, 4]})
    with pytest.warns(DataWarning, match="columns not used: tags"):
        assert rows_of(read_interactions(frame)) == [(1, 3, None), (2, 4, None)]


@pytest.mark.parametrize(
    "text",
    [
        '1,2,"Foo\n3,4,"Bar\n5,6,x\n',
        '1,2,"open\n3,4,x\n',
        '1,2,"a"\n3,4,"Foo\n5,6,"Bar\n7,8,x\n',
    ],
)
def test_quotes_that_take_lines_with_them_are_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "a.csv", "user,item,title\n" + text)
    with pytest.raises(DataError, match=r"a\.csv:\d: a quote is out of place"):
        read_interactions(path, on_remark=lambda _: None)


def test_quotes_that_do_no_harm_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'user,item\n1,"Weird" Al\n2,12" single\n\n\n3,x\n')
    items = [item for _, item, _ in rows_of(read_interactions(path))]
    assert items == ["Weird Al", '12" single', "x"]
    path = write(tmp_path, "a.csv", 'user,item\n1,"Weird" Al\n,4\n')
    with pytest.raises(DataError, match=r"a\.csv:3: column user holds '', a missing id"):
        read_interactions(path)


def test_errors_behind_what_the_csv_module_would_not_take(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,review\n1,2," + "x" * 200_000 + "\n,4,\n")
    with pytest.raises(DataError, match=r"a\.csv:3: column user holds '', a missing id"):
        read_interactions(path, on_remark=lambda _: None)
    path = write(tmp_path, "a.csv", "user,item\n1,2\r3,4\r,5\r")
    with pytest.raises(DataError, match=r"a\.csv:4: column user holds '', a missing id"):
        read_interactions(path)
    path = write(tmp_path, "a.csv", b"user,title,item\n1,\xe9,2\n3,x,\xe9\n")
    with pytest.raises(DataError, match=r"a\.csv:3: not UTF-8: name another encoding"):
        read_interactions(path, on_remark=lambda _: None)


def test_lines_of_errors_with_breaks_of_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peel_ext.data.delimited_files.BLOCK_BYTES", 300)
    lines = ["user,item,t\r\n"]
    for at in range(60):
        lines.append(f'{at},"a\r\nb{at}",x\r\n')
        lines.extend(["\r\n"] * (at % 7 == 0))
    for last, message in (
        (",q,x\r\n", "column user holds ''"),
        ("5,q\r\n", "expected 3 fields, got 2"),
    ):
        text = "".join([*lines, last])
        path = write(tmp_path, "a.csv", text)
        with pytest.raises(DataError, match=rf"a\.csv:{text.count(chr(10))}: {message}"):
            read_interactions(path, on_remark=lambda _: None)


def test_dates_and_numbers_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.csv", "user,item,time\n1,2,2020-01-01\n")
    write(tmp_path, "b.csv", "user,item,time\n1,3,1577836900000\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.warns(DataWarning, match=r"b\.csv:2: .*some times are dates and some are numbers"):
        assert read_interactions(files).timestamps is None
    with pytest.raises(DataError, match="some times are dates and some are numbers"):
        read_interactions(files, timestamp_column="time")


def test_zero_weights_of_rows_that_do_not_count(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "user,item,plays\n1,2,5\n1,3,0\n1,4,1\n"),
        ("a.jsonl", '{"user": 1, "item": 2, "plays": 5}\n{"user": 1, "item": 3, "plays": 0}\n'
         '{"user": 1, "item": 4, "plays": 1.5}\n'),
    ):  # fmt: skip
        path = write(tmp_path, name, text)
        data = read_interactions(
            path, weight_column="plays", rating_column="plays", min_rating=1,
            on_remark=lambda _: None,
        )  # fmt: skip
        assert [row[1] for row in rows_of(data)] == [2, 4]
        assert data.weights is not None
        assert data.weights.tolist() in ([5, 1], [5, 1.5])


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"user": [1], "item": [2]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="separator is of text in columns, not of parquet"):
        read_interactions(tmp_path / "a.parquet", separator=";")
    with pytest.raises(DataError, match="header is of text in columns, not of jsonl"):
        read_interactions(write(tmp_path, "a.jsonl", '{"user": 1, "item": 2}\n'), header=False)
    with pytest.raises(ValueError, match="are of files, not of a frame"):
        read_interactions(table, separator=";")


def test_json_lines_whose_first_values_say_little(tmp_path: Path) -> None:
    first = '{"user": null, "item": 1, "rating": 5}\n' * 1200
    path = write(tmp_path, "a.jsonl", first + '{"user": 7, "item": 2, "rating": 4.5}\n')
    data = read_interactions(path, missing="drop", min_rating=1, on_remark=lambda _: None)
    assert rows_of(data) == [(7, 2, None)]
    first = '{"user": 1, "item": 1}\n' * 1200
    path = write(tmp_path, "a.jsonl", first + '{"user": 1.5, "item": 2}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1201: user is 1\.5, expected int64"):
        read_interactions(path)


def test_other_tables_of_the_suffix_of_movielens(tmp_path: Path) -> None:
    path = write(
        tmp_path, "user_artists.dat", "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n"
    )
    data = read_interactions(path, weight_column="weight")
    assert [row[:2] for row in rows_of(data)] == [(2, 51), (2, 52)]


def test_floats_that_do_not_tell_integers_apart() -> None:
    for kind, limit in ((pyarrow.float32(), 1 << 24), (pyarrow.float64(), 1 << 53)):
        table = pyarrow.table({"user": pyarrow.array([limit - 1.0], kind), "item": [1]})
        assert rows_of(read_interactions(table)) == [(limit - 1, 1, None)]
        table = pyarrow.table({"user": pyarrow.array([limit + 1.0], kind), "item": [1]})
        with pytest.raises(DataError, match="is no whole number that a float holds exactly"):
            read_interactions(table)


def test_a_block_of_rows_that_are_all_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peel_ext.data.delimited_files.BLOCK_BYTES", 200)
    lines = [",1,2020-01-01T00\n"] * 40 + [f"{user},1,2020-01-02\n" for user in range(40)]
    path = write(tmp_path, "a.csv", "user,item,time\n" + "".join(lines))
    told: list[str] = []
    data = read_interactions(path, missing="drop", on_remark=told.append)
    assert told == ["40 rows with a missing id are left out"]
    assert data.timestamps is not None
    assert len(data.timestamps) == 40


def test_times_of_json_that_are_none_at_all(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"user": 1, "item": 2, "timestamp": {"$date": "2020"}}\n')
    with pytest.warns(DataWarning, match="column timestamp: holds null, expected times; times are"):
        assert rows_of(read_interactions(path)) == [(1, 2, None)]


def test_a_separator_beyond_ascii(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user§item\n1§2\n")
    assert rows_of(read_interactions(path, separator="§")) == [(1, 2, None)]


def test_a_missing_weight_of_a_row_that_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,rating,plays\n1,2,5,7\n1,3,1,\n1,4,5,x\n")
    quiet: dict[str, Any] = {"on_remark": lambda _: None, "weight_column": "plays"}
    with pytest.raises(DataError, match=r"a\.csv:4: column plays: 'x' is not a finite number"):
        read_interactions(path, min_rating=3, **quiet)


def test_a_test_part_without_a_rating_that_counts(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", "user,item,rating\n1,2,5\n1,3,5\n")
    write(tmp_path, "test.csv", "user,item,rating\n1,3,1\n")
    with pytest.raises(DataError, match=r"test\.csv: no interaction is rated 4 or more"):
        read_split(tmp_path, ReadingConfig(min_rating=4))


def test_one_id_that_makes_text_of_many_integers_is_named(tmp_path: Path) -> None:
    rows = "".join(f"{user},{user % 7}\n" for user in range(50))
    path = write(tmp_path, "a.csv", "user,item\n" + rows + "Total,3\n")
    with pytest.warns(DataWarning, match="ids of users are text: 'Total' is, most are integers"):
        assert not read_interactions(path).users.holds_integers


def test_a_header_where_none_is_expected(tmp_path: Path) -> None:
    path = write(tmp_path, "a.dat", "UserID::MovieID::Rating::Timestamp\n1::2::5::7\n")
    data = read_interactions(path, on_remark=lambda _: None)
    assert rows_of(data) == [(1, 2, 7.0)]
    path = write(tmp_path, "a.csv", "user,item\n1,2\n")
    with pytest.raises(DataError, match=r"a\.csv:1: looks like a header, user, item: leave"):
        read_interactions(path, header=False)
    path = write(tmp_path, "b.dat", "1::2::5\n")
    data = read_interactions(path, min_rating=3, on_remark=lambda _: None)
    assert rows_of(data) == [(1, 2, None)]


def test_a_date_among_numbers_is_told_from_nonsense(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,time\n1,2,5\n1,3,2020-01-01\n")
    with pytest.raises(
        DataError, match=r"a\.csv:3: column time: '2020-01-01' is a date, and others"
    ):
        read_interactions(path, timestamp_column="time")
