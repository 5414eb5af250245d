"""Reports of a run folder, as one page or as pictures."""

from peel_ext.evaluation.report.contents import Report, read_report
from peel_ext.evaluation.report.page import render_page
from peel_ext.evaluation.report.pictures import draw_pictures

__all__ = ["Report", "draw_pictures", "read_report", "render_page"]
