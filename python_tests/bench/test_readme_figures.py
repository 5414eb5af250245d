"""Figures of the README are those of rows under bench/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
ROWS = [
    json.loads(line)
    for line in (ROOT / "bench" / "results" / "study.jsonl").read_text().splitlines()
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


def lines_of(part: str) -> list[dict[str, Any]]:
    """Those of all seeds."""
    chosen = [
        row
        for row in ROWS
        if (row["data"], row["protocol"], row["part"]) == ("gowalla", "known", part)
    ]
    assert sorted(row["seed"] for row in chosen) == [0, 1, 2]
    return [{**line, "table_bytes": row["table_bytes"]} for row in chosen for line in row["lines"]]


def figures() -> dict[str, list[str]]:
    """What the table has to say, by share of the float32 table of 64 values."""
    found: dict[str, list[str]] = {}
    rivals = lines_of("rivals")
    own = lines_of("full")
    for budget in dict.fromkeys(line["budget_bytes"] for line in own):
        of_budget = [line for line in own if line["budget_bytes"] == budget]
        table_bytes = of_budget[0]["table_bytes"]
        share = "full" if budget is None else f"{100 * budget / table_bytes:.2g}%"
        others = [
            [line for line in rivals if (line["method"], line["budget_bytes"]) == (name, budget)]
            for name in RIVALS
        ]
        found[share] = [
            share, f"{max(line['bytes'] for line in of_budget):,}",
            *(mean_recall(lines) for lines in (of_budget, *others)),
        ]  # fmt: skip
    return found


def mean_recall(lines: list[dict[str, Any]]) -> str:
    return recall(sum(line["recall"] for line in lines) / len(lines)) if lines else ""


def is_behind(page: str) -> bool:
    """True if the rows say all that the table and the sentence above it say."""
    sentence = " ".join(page.split("| share")[0].split())
    return (
        "Gowalla, 29,858 users, Recall@20 with full ranking, mean of 3 seeds" in sentence
        and all(cells == figures().get(cells[0]) for cells in table_of(page))
    )


def test_rows_say_what_the_readme_says() -> None:
    assert [len(cells) for cells in table_of(README)] == [5] * 5
    assert is_behind(README), "the rows of bench/results/study.jsonl have other figures"


def test_another_figure_would_be_found() -> None:
    places = [match.span() for match in CELL.finditer(README)]
    assert len(places) == 2 + 4 * 5  # the word "full" is no figure
    for start, end in places:
        figure = README[start:end]
        digit = figure.strip("%")[-1]
        other = figure.replace(digit, str((int(digit) + 1) % 10))
        assert not is_behind(README[:start] + other + README[end:]), figure


def test_the_size_of_the_npm_package_is_the_sum_of_its_parts() -> None:
    parts = re.search(r"(\d+) KB gzip and (\d+) KB", (ROOT / "web" / "README.md").read_text())
    whole = re.search(r"npm package of (\d+) KB", README)
    assert parts is not None
    assert whole is not None
    assert int(whole[1]) == int(parts[1]) + int(parts[2])
