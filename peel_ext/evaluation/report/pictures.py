"""The charts of a report as PNG files, for papers and other pages."""

from __future__ import annotations

from pathlib import Path

import vl_convert

from peel_ext.errors import SourceError
from peel_ext.evaluation.report.charts import Drawn, draw_all, draw_blocks
from peel_ext.evaluation.report.contents import Report
from peel_ext.evaluation.report.theme import DAY
from peel_ext.train.run_files import write_atomically

_WIDTH, _HEIGHT = 480, 280

#: Pixels for each of a chart.
_SCALE = 2.0

#: The share of the largest budget whose blocks are shown as kept.
_KEPT_SHARE = 0.1


def draw_pictures(report: Report, folder: Path) -> list[Path]:
    """Writes a PNG file for every chart, on white.

    Args:
        report: contents to draw.
        folder: folder of the pictures; it is made.

    Returns:
        The files.

    Raises:
        SourceError: the folder cannot be made.
        RunError: a file cannot be written.
    """
    charts: dict[str, Drawn] = draw_all(report)
    if report.blocks is not None:
        group = report.blocks.groups[0]
        held = group.count(int(report.blocks.budgets[-1] * _KEPT_SHARE))
        charts["blocks"] = draw_blocks(report.blocks, group, held)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be made: {error.strerror}") from None
    files = []
    for name, chart in charts.items():
        files.append(folder / f"{name}.png")
        write_atomically(files[-1], _to_png(chart))
    return files


def _to_png(chart: Drawn) -> bytes:
    spec = {"height": _HEIGHT, "width": _WIDTH, **chart.to_dict()}
    config = {**DAY, "background": "white", "padding": 12}
    config["font"] = "Liberation Sans, DejaVu Sans, sans-serif"
    return vl_convert.vegalite_to_png(spec, config=config, scale=_SCALE)
