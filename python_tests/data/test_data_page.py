"""Every line of the page on data runs."""

from __future__ import annotations

import gzip
import io
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from peel_ext.cli.main import main
from peel_ext.train.pipeline import TrainedRun

PAGE = Path(__file__).parent.parent.parent / "docs" / "data.md"
LINES = re.findall(r"`((?:cat [^`]*)?peel train [^`]*)`", PAGE.read_text().replace("\\|", "|"))
FAST = ["--epochs", "1", "--temperature", "0.1", "--groups", "2"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the files that the page names."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    pairs = sorted({(int(user), int(item)) for user, item in rng.integers(0, (30, 25), (400, 2))})
    rows = [
        (user, item, (user + 2 * item) % 5 + 1, 1_577_836_800 + at)
        for at, (user, item) in enumerate(pairs)
    ]

    def text(name: str, header: str, form: str, rows: list[tuple[int, ...]] = rows) -> None:
        lines = "".join(form.format(*row) + "\n" for row in rows)
        (folder / name).write_text(f"{header}\n{lines}" if header else lines)

    text("ratings.csv", "userId,movieId,rating,timestamp", "{},{},{},{}")
    text("more.csv", "userId,movieId,rating,timestamp", "{},{},{},{}", [(99, 1, 5, 7)])
    text("plays.tsv", "userID\tartistID\tplays", "{}\t{}\t{}")
    text("clicks.csv", "user_id,item_id,clicked", "{},{},1")
    text("odd.csv", "who,what,stars,day", "u{},i{},{},{}")
    text("ml.inter", "user_id:token\titem_id:token\ttimestamp:float", "{}\t{}\t{}")
    text("ratings.dat", "", "{}::{}::{}::{}")
    text("u.data", "", "{}\t{}\t{}\t{}")
    text("export.log", "user,item", "{},{}")
    text("holes.csv", "user,item", "{},{}", [*rows, (3, "NULL")])  # type: ignore[list-item]
    text("reviews.jsonl", "", '{{"reviewerID": "A{0}", "asin": "B{1}", "unixReviewTime": {3}}}')
    (folder / "reviews.jsonl.gz").write_bytes(
        gzip.compress((folder / "reviews.jsonl").read_bytes())
    )
    text("movies.csv", "movieId,title", "{1},the {1}")
    (folder / "latin.csv").write_bytes(
        b"user;item\n" + b"".join(f"Zo\u00eb {u};{i}\n".encode("latin-1") for u, i, *_ in rows)
    )
    lists: dict[int, list[int]] = {}
    for user, item in pairs:
        lists.setdefault(user, []).append(item)
    neighbours = [" ".join(map(str, [user, *items])) for user, items in lists.items()]
    (folder / "neighbours.txt").write_text("\n".join(neighbours))
    users, items = zip(*pairs, strict=True)
    table = pyarrow.table({"user_id": users, "item_id": items})
    pyarrow.parquet.write_table(table, folder / "orders.parquet")
    for part in range(3):
        own = table.slice(part * 100, 100)
        for place in (folder / "parts", folder / "days" / f"date=2020-01-{part + 1:02}"):
            place.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(own, place / f"part-{part}.parquet")
    (folder / "split").mkdir()
    for name, own_rows in (("train", rows[::2]), ("valid", rows[1::4]), ("test", rows[3::4])):
        text(f"split/{name}.csv", "user,item", "{},{}", own_rows)
    return folder


@pytest.mark.parametrize("line", LINES)
def test_every_line_runs(
    line: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(shop)
    words = shlex.split(line.split("|")[-1])
    if "|" in line:
        given = (shop / line.split()[1]).read_bytes()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    words[words.index("run")] = str(tmp_path / "run")
    assert main([*words[1:], *FAST]) == 0, capsys.readouterr().err
    run = TrainedRun.open(tmp_path / "run")
    assert len(run.users) >= 30
    assert len(run.items) == 25


def test_the_page_has_lines() -> None:
    assert len(LINES) >= 25
