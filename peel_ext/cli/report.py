"""``peel report``: what a run has to tell, in one self-contained page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peel_ext.cli.arguments import parse_path
from peel_ext.cli.requirements import require_report, require_train


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("report", help="curves and pictures in a page", description=__doc__)
    parser.add_argument(
        "folder", type=parse_path, help="run folder of 'peel train', finished and evaluated or not"
    )
    parser.add_argument(
        "--out", type=parse_path, metavar="FILE", help="the page, such as report.html"
    )
    parser.add_argument(
        "--png", type=parse_path, metavar="FOLDER", help="write the charts there, as PNG files"
    )
    parser.add_argument(
        "--item-names",
        metavar="FILE[:COLUMN]",
        help="names of items: a file with ids and titles, such as movies.csv (default: those that "
        "'peel train' was given)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    if options.out is None and options.png is None:
        raise ValueError("report needs --out FILE for a page, --png FOLDER for pictures, or both")
    require_train()
    require_report()
    from peel_ext.evaluation.report import draw_pictures, read_report, render_page
    from peel_ext.train.run_files import write_atomically

    report = read_report(options.folder, options.item_names)
    if options.out is not None:
        write_atomically(Path(options.out), render_page(report).encode())
        print(options.out)
    if options.png is not None:
        for path in draw_pictures(report, Path(options.png)):
            print(path)
    return 0
