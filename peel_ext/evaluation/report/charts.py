"""The charts of a report, as Vega-Lite of Altair without a width and colours of its own."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from peel_ext.evaluation.report.blocks import GroupBlocks
from peel_ext.evaluation.report.contents import BlockPictures, Report
from peel_ext.evaluation.report.training import LossCurve

Drawn = alt.Chart | alt.LayerChart | alt.FacetChart

#: What is plotted of a measurement, by the names of a summary.
METRICS = {"recall": "Recall", "ndcg": "NDCG"}

#: The parts of the bytes, in the order in which they are stacked.
PARTS = ("values", "ids", "scales", "directory", "padding")

#: The parameter of :func:`draw_blocks` that a slider sets: blocks held.
HELD = "held"

_BYTES = "datum.value < 1e3 ? datum.value + ' B' : datum.value < 1e6 ? " \
    "format(datum.value / 1e3, '~r') + ' kB' : format(datum.value / 1e6, '~r') + ' MB'"  # fmt: skip

#: What stands in brackets goes to a line of its own.
_TWO_LINES = "split(replace(datum.label, ' (', '\\n('), '\\n')"


def _data(rows: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=rows)


def _round_numbers(values: list[int]) -> list[int]:
    """The 1, 2 and 5 times powers of ten around some values, for a logarithmic axis."""
    every = [digit * 10**power for power in range(13) for digit in (1, 2, 5)]
    return [each for each in every if min(values) / 2 < each < max(values) * 2]


def draw_quality(summary: dict[str, Any], metric: str) -> Drawn:
    """Quality over bytes held: a line for every method, with 95% intervals over users.

    Args:
        summary: summary of an evaluation, :func:`peel_ext.evaluation.summary.summarise`.
        metric: a key of :data:`METRICS`.
    """
    rows = _quality_rows(summary, metric)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    faint = alt.condition(chosen, alt.value(1), alt.value(0.12))
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("bytes:Q")
        .scale(type="log", nice=False, padding=12)
        .axis(
            title="bytes a device holds",
            labelExpr=_BYTES,
            values=_round_numbers([row["bytes"] for row in rows]),
        ),
        color=alt.Color("method:N", sort=methods).scale(domain=methods).legend(title=None),
        opacity=faint,
    )
    title = f"{METRICS[metric]}@{summary['n']}"
    value = alt.Y("value:Q").scale(zero=False).axis(title=None, format=".3f", tickCount=5)
    tooltip = [
        alt.Tooltip("method:N"),
        alt.Tooltip("variant:N"),
        alt.Tooltip("budget:N"),
        alt.Tooltip("bytes:Q", format=","),
        alt.Tooltip("value:Q", title=title, format=".4f"),
        alt.Tooltip("low:Q", format=".4f"),
        alt.Tooltip("high:Q", format=".4f"),
    ]
    size = alt.condition("datum.ours", alt.value(3), alt.value(1.5))
    layers: list[Any] = [
        base.mark_rule().encode(
            y=alt.Y("low:Q").title(None),
            y2="high:Q",
            strokeWidth=alt.value(1),
            strokeOpacity=alt.condition("datum.ours", alt.value(0.9), alt.value(0.35)),
        ),
        base.mark_line().encode(y=value, strokeWidth=size),
        base.mark_point(filled=True, size=45, opacity=1)
        .encode(y=value, tooltip=tooltip, shape=alt.Shape("method:N", sort=methods).legend(None))
        .add_params(chosen),
    ]
    ends = [summary["rows"][0], *([] if summary["floor"] is None else [summary["floor"]])]
    for row in ends:
        layers.append(
            alt.Chart(_data([{"value": row[metric]}]))
            .mark_rule(strokeDash=[5, 4])
            .encode(y=alt.Y("value:Q").title(None))
        )
    told = ", ".join(f"{row['method']} {row[metric]:.4f}" for row in ends)
    return alt.layer(*layers).properties(title=alt.Title(title, subtitle=f"dashed: {told}"))


def _quality_rows(summary: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """The points plotted of every method under every budget."""
    rows = []
    for row in (*summary["rows"][1:], *summary["others"], *summary["rivals"]):
        low, high = row[f"{metric}_interval"] or (None, None)
        rows.append(
            {
                "method": row["method"], "variant": row["variant"], "budget": row["budget"],
                "bytes": row["max_bytes"], "value": row[metric], "low": low, "high": high,
                "ours": row["method"].startswith("PEE"),
            }
        )  # fmt: skip
    return rows


def draw_leads(summary: dict[str, Any], metric: str) -> Drawn:
    """Draws the lead of the group's table over every rival, with paired 95% intervals."""
    rows = []
    for row in summary["rivals"]:
        mean, low, high = row[f"{metric}_lead"]
        rows.append(
            {
                "rival": row["method"], "variant": row["variant"], "budget": row["budget"],
                "mean": mean, "low": low, "high": high,
            }
        )  # fmt: skip
    budgets = [row["budget"] for row in summary["rows"][1:]]
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("rival:N", sort=list(dict.fromkeys(row["rival"] for row in rows))).axis(
            title=None, labelExpr=_TWO_LINES
        ),
        yOffset=alt.YOffset("budget:N", sort=budgets),
        color=alt.Color("budget:O", sort=budgets).scale(domain=budgets).legend(
            title="budget", columns=3
        ),
    )  # fmt: skip
    title = f"PEE minus the rival, {METRICS[metric]}@{summary['n']}"
    zero = alt.Chart(_data([{"mean": 0}])).mark_rule().encode(x=alt.X("mean:Q").title(title))
    return alt.layer(
        zero,
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q").title(title), x2="high:Q"),
        base.mark_point(filled=True, size=36, opacity=1).encode(
            x=alt.X("mean:Q").axis(title=title, format="+.3~f", tickCount=5),
            tooltip=[
                alt.Tooltip("rival:N"),
                alt.Tooltip("variant:N"),
                alt.Tooltip("budget:N"),
                alt.Tooltip("mean:Q", format="+.4f"),
                alt.Tooltip("low:Q", format="+.4f"),
                alt.Tooltip("high:Q", format="+.4f"),
            ],
        ),
    ).properties(title="Lead over each rival at the same bytes", height=alt.Step(9))  # fmt: skip


def draw_bytes(group: GroupBlocks, budgets: dict[int, str]) -> Drawn:
    """Draws what the bytes of a user group's table are spent on under each budget."""
    rows = []
    for budget, name in budgets.items():
        held = group.held(budget)
        rows += [
            {
                "budget": name, "part": part, "bytes": held[part], "at": at,
                "share": held[part] / max(1, held["bytes"]),
            }
            for at, part in enumerate(PARTS)
        ]  # fmt: skip
    return (
        alt.Chart(_data(rows))
        .mark_bar()
        .encode(
            y=alt.Y("budget:N", sort=list(budgets.values())).axis(title=None),
            x=alt.X("share:Q")
            .stack("zero")
            .scale(domain=[0, 1])
            .axis(title="share of the bytes held", format="%", tickCount=5),
            color=alt.Color("part:N", sort=list(PARTS))
            .scale(domain=list(PARTS))
            .legend(title=None),
            order=alt.Order("at:Q"),
            tooltip=[
                alt.Tooltip("budget:N"),
                alt.Tooltip("part:N"),
                alt.Tooltip("bytes:Q", format=","),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        .properties(height=alt.Step(26))
    )


def draw_blocks(pictures: BlockPictures, group: GroupBlocks, held: int) -> Drawn:
    """The worth per byte of every block of a user group; those that a budget drops are faint.

    Args:
        pictures: the layout of the blocks.
        group: the user group.
        held: how many blocks the budget keeps; the parameter :data:`HELD`.
    """
    nested = pictures.layout.nested
    layers = pictures.layers
    drawn = group.cells(pictures.layout)
    cells = [{**cell, "layer": layers[int(cell["y"])]} for cell in drawn]
    least = min(math.floor(min(cell["power"] for cell in drawn)), -1)
    rows = alt.X("x:Q").scale(type="log" if nested else "linear", nice=False)
    return (
        alt.Chart(_data(cells))
        .mark_rect()
        .encode(
            x=rows.axis(
                title="rows by rank, the one worth most first" if nested else "item groups",
                format="~s",
                grid=False,
                tickCount=6,
            ),
            x2="x2:Q",
            y=alt.Y("layer:N", sort=layers[::-1]).axis(
                title="bits of a value" if nested else "columns", grid=False
            ),
            color=alt.Color("power:Q")
            .scale(domain=[least, 0], range="heatmap")
            .legend(
                title="worth per byte, of the largest",
                labelExpr="format(pow(10, datum.value), '.2~p')",
                values=list(range(least, 1)) if least < -1 else [-1, -0.5, 0],
                gradientLength=180,
            ),
            opacity=alt.condition(f"datum.place < {HELD}", alt.value(1), alt.value(0.22)),
        )
        .add_params(alt.param(name=HELD, value=held))
        .properties(height=max(150, 17 * len(layers)))
    )


def draw_losses(curve: LossCurve) -> Drawn:
    """The losses of a stage."""
    rows = [
        {"step": step, "loss": loss} for step, loss in zip(curve.steps, curve.losses, strict=True)
    ]
    return (
        alt.Chart(_data(rows))
        .mark_line()
        .encode(
            x=alt.X("step:Q").axis(title="steps", format="~s", tickCount=6),
            y=alt.Y("loss:Q").scale(zero=False).axis(title=None, tickCount=5),
            tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".4f")],
        )
        .properties(title=f"{curve.stage}: {curve.of_what}, nats", height=200)
    )


def draw_all(report: Report) -> dict[str, Drawn]:
    """All charts of a report but those of the blocks, by name."""
    charts: dict[str, Drawn] = {}
    for each in report.evaluations:
        summary = each.summary
        for metric in METRICS:
            if len(summary["rows"]) > 1:
                charts[f"quality-{summary['protocol']}-{metric}"] = draw_quality(summary, metric)
        if summary["rivals"]:
            charts[f"leads-{summary['protocol']}"] = draw_leads(summary, "recall")
    if report.blocks is not None and report.budgets:
        charts["bytes"] = draw_bytes(report.blocks.groups[0], report.budgets)
    for curve in report.curves:
        charts[f"losses-{curve.stage}"] = draw_losses(curve)
    return charts
