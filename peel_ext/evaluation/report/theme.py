"""Colours and sizes of charts, by day and by night, as configurations of Vega-Lite."""

from __future__ import annotations

from typing import Any

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def theme(
    *, ink: str, faint: str, grid: str, category: list[str], heatmap: list[str], ramp: list[str]
) -> dict[str, Any]:
    """A configuration of Vega-Lite.

    Args:
        ink: colour of text.
        faint: colour of axes and rules.
        grid: colour of the grid.
        category: colours of methods and parts.
        heatmap: from the least to the most.
        ramp: colours of budgets, from the first to the last.
    """
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": None},
        "mark": {"color": category[0]},
        "range": {"category": category, "heatmap": heatmap, "ordinal": {"scheme": ramp}},
        "axis": {
            "labelColor": ink, "titleColor": ink, "domainColor": faint, "tickColor": faint,
            "gridColor": grid, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
            "labelOverlap": "greedy",
        },
        "legend": {
            "labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12,
            "titleFontWeight": "normal", "orient": "bottom", "labelLimit": 260, "columns": 2,
        },
        "title": {
            "color": ink, "fontSize": 14, "anchor": "start", "fontWeight": 600, "subtitleColor": ink,
            "subtitleFontSize": 12,
        },
        "rule": {"color": faint},
    }  # fmt: skip


DAY = theme(
    ink="#1c2530", faint="#66717e", grid="#e4e8ed",
    category=[
        "#0b5fd0", "#c8324a", "#1d8052", "#b06000", "#7444b8", "#00808f", "#b5338a", "#66691b",
        "#566270", "#98402b",
    ],
    heatmap=["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"],
    ramp=["#0b5fd0", "#3d86c6", "#1d8052", "#b06000", "#c8324a"],
)  # fmt: skip

NIGHT = theme(
    ink="#e3e8ee", faint="#8d99a6", grid="#2b333d",
    category=[
        "#6cabff", "#ff8294", "#5fd39a", "#f2ab63", "#c19dff", "#4fd0de", "#f491d0", "#ced45e",
        "#aab5c1", "#f19484",
    ],
    heatmap=["#5b53c6", "#4f86d9", "#35b6a9", "#86d85e", "#fff176"],
    ramp=["#6cabff", "#7fd0f0", "#5fd39a", "#f2ab63", "#ff8294"],
)  # fmt: skip
