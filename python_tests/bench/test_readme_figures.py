"""Figures of the README are those of a row under bench/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
ROWS = [
    json.loads(line)
    for line in (ROOT / "bench" / "results" / "quality.jsonl").read_text().splitlines()
]
#: Of the columns of the table after the first three, the methods as rows call them.
RIVALS = ("group popularity", "column blocks (PEEL, plain)")
CELL = re.compile(r"(?<=\| )[.\d,%]+(?= \|)")


def table_of(page: str) -> list[list[str]]:
    """The cells of its first table, without the heads."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def recall(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def figures(row: dict[str, Any]) -> dict[str, list[str]]:
    """What the table has to say by a row, by share of the float32 table of 64 values."""
    full, *held = row["rows"]
    found = {"full": ["full", f"{full['max_bytes']:,}", recall(full["recall"]), "", ""]}
    for each in held:
        budget = each["budget_bytes"]
        share = f"{100 * budget / (row['items'] * 64 * 4):.2g}%"
        rivals = {
            one["method"]: recall(one["recall"])
            for one in row["rivals"]
            if one["budget_bytes"] == budget
        }
        found[share] = [
            share, f"{each['max_bytes']:,}", recall(each["recall"]),
            *(rivals.get(name, "") for name in RIVALS),
        ]  # fmt: skip
    return found


def rows_behind(page: str) -> list[dict[str, Any]]:
    """The rows that say all that the table and the sentence above it say."""
    table = table_of(page)
    sentence = " ".join(page.split("| share")[0].split())
    return [
        row
        for row in ROWS
        if (row["data"], row["protocol"], row["target"]) == ("gowalla", "known", "test")
        and f"Gowalla, {row['users']:,} users, Recall@{row['n']} with full ranking" in sentence
        and all(cells == figures(row).get(cells[0]) for cells in table)
    ]


def test_a_row_says_what_the_readme_says() -> None:
    assert [len(cells) for cells in table_of(README)] == [5] * 5
    assert rows_behind(README), "no row of bench/results/quality.jsonl has the figures of README.md"


def test_another_figure_would_be_found() -> None:
    places = [match.span() for match in CELL.finditer(README)]
    assert len(places) == 2 + 4 * 5  # the word "full" is no figure
    for start, end in places:
        figure = README[start:end]
        digit = figure.strip("%")[-1]
        other = figure.replace(digit, str((int(digit) + 1) % 10))
        assert not rows_behind(README[:start] + other + README[end:]), figure


def test_the_size_of_the_npm_package_is_the_sum_of_its_parts() -> None:
    parts = re.search(r"(\d+) KB gzip and (\d+) KB", (ROOT / "web" / "README.md").read_text())
    whole = re.search(r"npm package of (\d+) KB", README)
    assert parts is not None
    assert whole is not None
    assert int(whole[1]) == int(parts[1]) + int(parts[2])
