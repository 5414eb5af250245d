"""What the verbs that ask a ``.peel`` file for items share."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from peel_ext.cli.arguments import Budget, parse_budget, parse_count
from peel_ext.errors import FormatError, SourceError

if TYPE_CHECKING:
    from peel_ext.device import DeviceRecommender


def add_options(parser: argparse.ArgumentParser, items: str) -> None:
    """Adds the options; ``items`` says what -n counts."""
    parser.add_argument("-n", type=parse_count, default=20, help=items)
    parser.add_argument("--budget", type=parse_budget, help="bytes or a share (default: all)")
    parser.add_argument(
        "--no-item-ids",
        action="store_true",
        help="tell items by row, also those of a .peel file that has not arrived whole",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def open_device(options: argparse.Namespace) -> DeviceRecommender:
    """The source, a path or a URL, opened under the budget of the options.

    Raises:
        FormatError: not a ``.peel`` file, or damaged.
        SourceError: it cannot be read.
        BudgetError: too few bytes for the first block.
    """
    from peel_ext.device import DeviceRecommender

    file: str = options.source
    budget: Budget | None = options.budget
    limit = None
    if budget is not None:
        limit = budget.resolve(_full_bytes(file) if budget.unit == "%" else 0)
    return DeviceRecommender.open(file, limit, item_ids=not options.no_item_ids)


def _full_bytes(file: str) -> int:
    """Bytes of the table in float32, by the header alone: the rest may be far away, or large."""
    from peel_ext.device.sources import HttpSource
    from peel_ext.format import read_header
    from peel_ext.format.layout import HEADER_BYTES

    try:
        if file.startswith(("http://", "https://")):
            data = HttpSource(file).read(0, HEADER_BYTES)
        else:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
            with open(descriptor, "rb") as opened:
                data = opened.read(HEADER_BYTES) or b""
        header = read_header(data)
    except FormatError as error:
        raise FormatError(f"{file}: {error}") from None
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{file}: cannot be opened: {error.strerror}") from None
    return header.num_embeddings * header.dim * 4
