"""Pictures of the documentation, made of the rows of the study: SVG, readable by day and by night."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from study.parts import PARTS
from study.tables import COMPARED_SHARE, Parts, Row, budgets, gather, lead, qualities

#: Legible on white and on near black.
_INK, _FAINT, _GRID = "#75808c", "#8d99a6", "#8d99a640"
_COLOURS = ["#2f7fe0", "#d9576b", "#2f9a68", "#bd7a1e", "#9069cf", "#16909f", "#87909a"]

#: Differences that are marked: small ones lie as far apart as large ones.
_MARKS = (-0.3, -0.1, -0.03, -0.01, -0.003, 0, 0.003, 0.01, 0.03)

#: Parts that have a line of their own, beside the best rival.
_LINES = ("full", "popularity", "one-group", "columns-int8", "paper")

_CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelColor": _INK, "titleColor": _INK, "domainColor": _FAINT, "tickColor": _FAINT,
             "gridColor": _GRID, "labelFontSize": 12, "titleFontSize": 12, "labelLimit": 260},
    "legend": {"labelColor": _INK, "labelFontSize": 12, "labelLimit": 260,
               "orient": "bottom", "columns": 2},
    "title": {"color": _INK, "fontSize": 14, "anchor": "start"},
    "range": {"category": _COLOURS},
}  # fmt: skip


def draw(rows: Iterable[Row], folder: Path) -> None:
    """Writes two pictures of each source and protocol.

    Args:
        rows: of the study.
        folder: of the pictures.
    """
    for (source, protocol), parts in gather(rows).items():
        for name, chart in (("curves", draw_curves), ("parts", draw_parts)):
            drawn = chart(source, parts)
            if drawn is not None:
                place = folder / f"study-{source.replace('/', '-')}-{protocol}-{name}.svg"
                place.write_text(_svg(drawn))


def draw_curves(source: str, parts: Parts) -> alt.Chart | None:
    """Recall@20 over bytes: a line for each method; None where there is one line or none."""
    points = []
    for part in _LINES:
        for budget in budgets(source, parts) if part in parts else []:
            found = qualities(parts[part], budget)
            if budget is not None and len(found) == len(parts[part]):
                points.append(_point(PARTS[part].says, budget, found))
    for part in ("rivals",) if "rivals" in parts else ():
        for budget in budgets(source, parts):
            methods = {line["method"] for row in parts[part] for line in row["lines"]}
            means = [
                _point("the best rival", budget, found)
                for method in sorted(methods)
                if (found := qualities(parts[part], budget, method))
            ]
            points += sorted(means, key=lambda point: -point["recall"])[:1]
    names = list(dict.fromkeys(point["method"] for point in points))
    if len(names) < 2:
        return None
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("bytes:Q", title="bytes a device holds")
        .scale(type="log", nice=False, padding=12)
        .axis(format=".2~s", values=sorted({point["bytes"] for point in points})),
        y=alt.Y("recall:Q", title="Recall@20").axis(format=".2f", tickCount=6),
        color=alt.Color("method:N", sort=names, scale=alt.Scale(domain=names), title=None),
    )  # fmt: skip
    return (
        base.mark_line(strokeWidth=2) + base.mark_point(filled=True, opacity=1, size=40)
    ).properties(width=480, height=280)


def draw_parts(source: str, parts: Parts) -> alt.Chart | None:
    """What each part finds more than its base at 1% of the bytes; None where nothing has a base."""
    names = budgets(source, parts)
    compared = next(key for key, name in names.items() if name == f"{COMPARED_SHARE * 100:g}%")
    points = []
    for part in parts:
        differences = lead(parts, part, compared)
        if differences is not None:
            base = PARTS[part].base
            points.append({
                "part": f"the paper's, {PARTS[part].says}" if base == "paper" else PARTS[part].says,
                "base": f"against {PARTS[str(base)].says}",
                "mean": float(np.mean(differences)),
                "low": min(differences),
                "high": max(differences),
            })  # fmt: skip
    if not points:
        return None
    every = alt.Chart(alt.InlineData(values=points)).encode(
        y=alt.Y("part:N", sort=[point["part"] for point in points], title=None),
        color=alt.Color("base:N", title=None),
    )
    zero = alt.Chart(alt.InlineData(values=[{"at": 0}])).mark_rule(color=_FAINT).encode(x="at:Q")
    title = f"Recall@20 more than the base at {names[compared]} of the bytes"
    ranges = every.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=title, scale=alt.Scale(type="symlog", constant=0.005)).axis(
            format="+", values=_MARKS
        ),
        x2="high:Q",
    )
    means = every.mark_point(filled=True, opacity=1, size=60).encode(x="mean:Q")
    return (zero + ranges + means).properties(width=440, height=alt.Step(20))


def _point(method: str, budget: int | None, found: dict[int, Any]) -> dict[str, Any]:
    recall = float(np.mean([pair[0] for pair in found.values()]))
    return {"method": method, "bytes": budget, "recall": recall}


def _svg(chart: alt.Chart) -> str:
    return str(vl_convert.vegalite_to_svg(chart.to_dict(), config=_CONFIG))
