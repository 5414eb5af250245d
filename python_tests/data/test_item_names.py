from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from peel_ext.data import IdMap
from peel_ext.data.item_names import read_item_names
from peel_ext.errors import DataError, DataWarning

ITEMS = IdMap.from_values([1, 2, 30])[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("movies.csv", "movieId,title,genres\n1,Toy Story,x\n30,\"Heat, the\",y\n2,Æon,z\n"),
        ("ml.item", "item_id:token\tmovie_title:token_seq\n1\tToy Story\n2\tÆon\n30\tHeat, the\n"),
        ("movies.dat", "1::Toy Story::x\n2::Æon::y\n30::Heat, the::z\n"),
        ("a.jsonl", '{"asin": 1, "title": "Toy Story"}\n{"asin": 2, "title": "Æon"}\n'
         '{"asin": 30, "title": "Heat, the"}\n'),
        ("two.csv", "key;title\n1;Toy Story\n2;Æon\n30;Heat, the\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_of_every_format(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    if name.endswith("jsonl") and encoding != "utf-8":
        pytest.skip("JSON is UTF-8")
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert read_item_names(tmp_path / name, ITEMS) == ["Toy Story", "Æon", "Heat, the"]


def test_a_column_by_name_and_items_without_one(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"item": ["1", "2", "99"], "title": ["a", "b", "c"], "maker": ["x", None, "z"]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.warns(DataWarning, match="names 1 of 3 items"):
        names = read_item_names(f"{tmp_path}/a.parquet:maker", ITEMS)
    assert names == ["x", None, None]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.csv", "none.csv: no such file"),
        ("a.csv:maker", "expected a column of item ids, and one of names, maker; columns are item"),
        ("a.csv", "names none of the 3 items: it has ids such as 7, the interactions such as 1"),
    ],
)
def test_files_that_do_not_do(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "a.csv").write_text("item,title\n7,x\n")
    with pytest.raises(DataError, match=message):
        read_item_names(f"{tmp_path}/{source}", ITEMS)


def test_names_between_tabs_and_of_other_types(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('item\ttitle\n1\t"He said ""hi"""\n2\tx\n30\ty\n')
    assert read_item_names(tmp_path / "a.tsv", ITEMS) == ['He said "hi"', "x", "y"]
    table = pyarrow.table({"item": [1, 2], "title": [["a"], ["b"]]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"names are list<.*>, expected strings"):
        read_item_names(tmp_path / "a.parquet", ITEMS)
    (tmp_path / "a.csv.gz").write_text("item,title\n")
    with pytest.raises(DataError, match=r"a\.csv\.gz: cannot be read"):
        read_item_names(tmp_path / "a.csv.gz", ITEMS)
