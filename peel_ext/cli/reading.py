"""Options of the verbs that read interactions."""

from __future__ import annotations

import argparse
from typing import Any

from peel_ext.config import FILE_FORMATS, ReadingConfig


def add_reading_options(parser: Any) -> None:
    """Adds them, with the names and defaults of :class:`peel_ext.config.ReadingConfig`."""
    group = parser.add_argument_group("reading")
    for what in ("user", "item", "timestamp"):
        group.add_argument(
            f"--{what}-column", metavar="NAME", help=f"of the {what}s (default: the usual names)"
        )
    group.add_argument(
        "--rating-column",
        metavar="NAME",
        help="what --min-rating looks at: a rating, or a label of 0 and 1 (default: the usual names)",
    )
    group.add_argument(
        "--min-rating",
        type=float,
        metavar="X",
        help="train on interactions rated X or more; users have had the others all the same",
    )
    group.add_argument(
        "--weight-column",
        metavar="NAME",
        help="how much each interaction counts in training, such as a number of plays",
    )
    group.add_argument(
        "--weight-scale",
        choices=("log", "linear"),
        default="log",
        help="what becomes of weights: log(1 + weight), or the weight itself (default: log)",
    )
    group.add_argument(
        "--separator",
        metavar="TEXT",
        help="between fields: characters, or tab, comma, semicolon, pipe, space",
    )
    group.add_argument(
        "--no-header",
        action="store_true",
        help="the first line is data; columns are named 1, 2, ...; user and item are the first two",
    )
    group.add_argument("--no-timestamps", action="store_true", help="leave times out")
    group.add_argument(
        "--format", choices=FILE_FORMATS, help="of the files (default: by their suffix)"
    )
    group.add_argument("--encoding", default="utf-8", help="of text (default: utf-8)")
    group.add_argument(
        "--missing",
        choices=("refuse", "drop", "keep"),
        default="refuse",
        help="where an id is missing (empty, NULL, nan, NA, ...): refuse the file, leave the row out, or "
        "keep such words as ids (default: refuse)",
    )


def reading_of(options: argparse.Namespace) -> ReadingConfig:
    """The settings that the options say."""
    return ReadingConfig(
        user_column=options.user_column,
        item_column=options.item_column,
        timestamp_column=options.timestamp_column,
        rating_column=options.rating_column,
        min_rating=options.min_rating,
        weight_column=options.weight_column,
        separator=options.separator,
        header=not options.no_header,
        timestamps=not options.no_timestamps,
        format=options.format,
        encoding=options.encoding,
        missing=options.missing,
    )
