"""Tables of the documentation, made of the rows of the study."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from study.parts import PARTS
from study.runs import budgets_of
from study.sources import NEW_USER_SHARES, SOURCES

#: The budget under which parts are compared with what they differ from.
COMPARED_SHARE = 0.01

Row = dict[str, Any]
#: Rows by part, of one data set, split and protocol.
Parts = dict[str, list[Row]]


def gather(rows: Iterable[Row]) -> dict[tuple[str, str], Parts]:
    """Rows by source and protocol, then by part in the order of :data:`PARTS`."""
    found: dict[tuple[str, str], Parts] = {}
    for row in sorted(rows, key=lambda row: (list(PARTS).index(row["part"]), row["seed"])):
        parts = found.setdefault((f"{row['data']}/{row['split']}", row["protocol"]), {})
        parts.setdefault(row["part"], []).append(row)
    return dict(sorted(found.items(), key=lambda pair: list(SOURCES).index(pair[0][0])))


def budgets(source: str, parts: Parts) -> dict[int | None, str]:
    """The budgets of a source by their bytes, with their names; the full table is None."""
    shares = SOURCES[source].shares
    num_items = next(iter(parts.values()))[0]["table_bytes"] // 256
    made = zip(budgets_of(shares, num_items), shares, strict=True)
    return {None: "full", **{budget: _percent(share) for budget, share in made}}


def qualities(rows: list[Row], budget: int | None, method: str | None = None) -> dict[int, Any]:
    """Recall and NDCG of the rows' seeds under a budget, of one method where there are several."""
    return {
        row["seed"]: (line["recall"], line["ndcg"])
        for row in rows
        for line in row["lines"]
        if line["budget_bytes"] == budget and method in (None, line["method"])
    }


def lead(parts: Parts, part: str, budget: int | None) -> list[float] | None:
    """What a part finds more than its base with the same seeds, Recall@20; None without any."""
    base = PARTS[part].base
    if base is None or base not in parts or PARTS[part].measures == "rivals":
        return None
    ours, others = qualities(parts[part], budget), qualities(parts[base], budget)
    seeds = sorted(ours.keys() & others.keys())
    return [ours[seed][0] - others[seed][0] for seed in seeds] or None


def make_tables(rows: Iterable[Row]) -> dict[str, str]:
    """Markdown by name: ``"SOURCE PROTOCOL"``, and the same with ``" rivals"`` or ``" shares"``.

    There are shares where a part is compared with what a server would do.
    """
    made = {}
    for (source, protocol), parts in gather(rows).items():
        made[f"{source} {protocol}"] = _parts_table(source, parts)
        if "full" in parts and protocol in NEW_USER_SHARES:
            made[f"{source} {protocol} shares"] = _shares_table(source, parts)
        if "rivals" in parts:
            made[f"{source} {protocol} rivals"] = _rivals_table(source, parts)
    return made


def make_model_table(rows: Iterable[Row]) -> str:
    """Markdown of the rows of ``bench/models.py``: the last one of each model, data set and split."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        column = (row["data"].partition(".")[0], row["split"])
        cell = f"{_short(row['recall'])} / {_short(row['ndcg'])}"
        found.setdefault(row["model"], {})[column] = cell
    columns = sorted({column for cells in found.values() for column in cells}, reverse=True)
    head = ["Recall@20 / NDCG@20", *(", ".join(column) for column in columns)]
    lines = [
        [model, *(cells.get(column, "-") for column in columns)] for model, cells in found.items()
    ]
    return _markdown([head, ["---"] * len(head), *lines])


def fill(page: str, tables: dict[str, str]) -> str:
    """A page with its tables made anew: each stands between two comments that name it.

    Raises:
        ValueError: the page asks for a table that there are no rows for.
    """

    def table(found: re.Match[str]) -> str:
        if found[1] not in tables:
            raise ValueError(f"table must be one of {', '.join(tables)}, got {found[1]!r}")
        return f"<!-- table {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- end of table -->"

    pattern = r"<!-- table ([^>]*?) -->.*?<!-- end of table -->"
    return re.sub(pattern, table, page, flags=re.DOTALL)


def _parts_table(source: str, parts: Parts) -> str:
    names = budgets(source, parts)
    compared = next(budget for budget, name in names.items() if name == _percent(COMPARED_SHARE))
    head = ["part", "seeds", *names.values(), f"{_percent(COMPARED_SHARE)}, less base"]
    lines = [head, ["---"] * len(head)]
    for part, rows in parts.items():
        if PARTS[part].measures == "rivals":
            continue
        cells = [_mean(qualities(rows, budget), len(rows)) for budget in names]
        differences = lead(parts, part, compared)
        gain = "" if differences is None else _spread(differences)
        lines.append([_title(part), str(len(rows)), *cells, gain])
    return _markdown(lines)


def _shares_table(source: str, parts: Parts) -> str:
    """Of the gap between the list shipped and a fresh server where there is one, else of the full table."""
    names = budgets(source, parts)
    del names[None]
    head = ["part", "seeds", *names.values()]
    lines = [head, ["---"] * len(head)]
    for part, rows in parts.items():
        if PARTS[part].measures == "rivals":
            continue
        cells = []
        for budget in names:
            found = [_share(row, parts["full"], budget) for row in rows]
            shares = [share for share in found if share is not None]
            whole = shares and len(shares) == len(rows)
            cells.append(_percents(shares) if whole else "-")
        lines.append([_title(part), str(len(rows)), *cells])
    return _markdown(lines)


def _share(row: Row, full: list[Row], budget: int) -> float | None:
    """What a budget keeps of the gap, or of the full table with the same seed."""
    for line in row["lines"]:
        if line["budget_bytes"] != budget:
            continue
        if "gap_recovered" in line:  # None where there is no gap
            recovered: float | None = line["gap_recovered"]
            return recovered
        whole = qualities(full, None).get(row["seed"])
        return None if whole is None else line["recall"] / whole[0]
    return None


def _percents(shares: list[float]) -> str:
    """The mean in percent and how far the farthest seed is from it."""
    mean = float(np.mean(shares))
    text = f"{mean * 100:.1f}%"
    farthest = float(np.abs(np.array(shares) - mean).max())
    return text if len(shares) == 1 else f"{text} ± {farthest * 100:.1f}"


def _rivals_table(source: str, parts: Parts) -> str:
    names = budgets(source, parts)
    del names[None]
    rows = parts["rivals"]
    head = ["Recall@20 / NDCG@20", *names.values()]
    lines = [head, ["---"] * len(head)]
    if "full" in parts:
        cells = [_mean(qualities(parts["full"], budget), len(parts["full"])) for budget in names]
        lines.append([_title("full"), *cells])
    methods = dict.fromkeys(line["method"] for row in rows for line in row["lines"])
    for method in methods:
        cells = [_mean(qualities(rows, budget, method), len(rows)) for budget in names]
        lines.append([method, *cells])
    return _markdown(lines)


def _title(part: str) -> str:
    says, base = PARTS[part].says, PARTS[part].base
    return f"the paper's, {says}" if base == "paper" else says


def _percent(share: float) -> str:
    return f"{share * 100:g}%"


def _mean(found: dict[int, Any], wanted: int) -> str:
    """Recall and NDCG, if all seeds have them."""
    if len(found) < wanted or not found:
        return "-"
    return " / ".join(_short(value) for value in np.mean(list(found.values()), axis=0))


def _spread(values: list[float]) -> str:
    """The mean and how far the farthest seed is from it."""
    mean = float(np.mean(values))
    text = f"{_short(mean, '+.4f')}"
    return text if len(values) == 1 else f"{text} ± {_short(np.abs(np.array(values) - mean).max())}"


def _short(value: float, form: str = ".4f") -> str:
    return format(value, form).replace("0.", ".")


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace("|  |", "| |")
