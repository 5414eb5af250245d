"""A report as one page of HTML that needs nothing from anywhere."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from peel_ext.evaluation.report.blocks import GroupBlocks
from peel_ext.evaluation.report.charts import METRICS, PARTS, draw_all, draw_blocks
from peel_ext.evaluation.report.contents import BlockPictures, Report
from peel_ext.evaluation.report.theme import DAY, NIGHT

_TEMPLATES = Path(__file__).parent / "templates"

#: What each protocol measures.
_PROTOCOLS = {
    "known": "Known users: their held-out interactions, full ranking",
    "new": "New users: never seen in training, folded in by the server from their history",
    "offline": "Without a network: new users, half of whose history happens on the device alone",
    "time": "Known users: everything that came after one moment, full ranking",
}


def render_page(report: Report) -> str:
    """The page, encodable as UTF-8.

    Names and ids are escaped. The page asks for nothing from a network, and forbids itself to.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "score": lambda value: f"{value:.4f}",
        "signed": lambda value: f"{value:+.4f}",
        "percent": lambda value: f"{value:.1%}",
        "share": lambda value: f"{value:.0%}",
    }
    charts = {name: chart.to_dict() for name, chart in draw_all(report).items()}
    data: dict[str, Any] = {"charts": charts, "themes": {"day": DAY, "night": NIGHT}}
    if report.blocks is not None:
        data["blocks"] = _picture_data(report.blocks, report)
    page = environment.get_template("page.html").render(
        report=report,
        parts=PARTS,
        metrics=METRICS,
        protocols=_PROTOCOLS,
        summaries=[each.summary for each in report.evaluations],
        headlines={
            each.summary["protocol"]: _headline(each.summary) for each in report.evaluations
        },
        charts=charts,
        data=data,
        library=_library(),
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # ids may hold lone surrogates


@functools.cache
def _library() -> str:
    """The library that draws charts in a page, as a script."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return code.replace("</script", "<\\/script")  # a script ends at the first, wherever it stands


def _picture_data(pictures: BlockPictures, report: Report) -> dict[str, Any]:
    """The data of the slider: of each group a chart, and what is held at every step."""
    start = min(
        range(len(pictures.budgets)),
        key=lambda at: abs(pictures.budgets[at] - pictures.budgets[-1] / 10),
    )
    return {
        "start": start,
        "full_bytes": report.full_bytes,
        "groups": [_group_data(pictures, group, start) for group in pictures.groups],
    }


def _group_data(pictures: BlockPictures, group: GroupBlocks, start: int) -> dict[str, Any]:
    steps = [group.held(budget) for budget in pictures.budgets]
    chart = draw_blocks(pictures, group, steps[start]["blocks"])
    return {"group": group.group, "chart": chart.to_dict(), "steps": steps}


def _headline(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The smallest budget, and the best rival under it; None where no budget was measured."""
    full, *curve = summary["rows"]
    if not curve:
        return None
    smallest = min(curve, key=lambda row: row["budget_bytes"])
    rivals = [row for row in summary["rivals"] if row["budget_bytes"] == smallest["budget_bytes"]]
    return {
        "row": smallest,
        "bytes_share": smallest["max_bytes"] / full["max_bytes"],
        "rival": max(rivals, key=lambda row: row["recall"]) if rivals else None,
    }
