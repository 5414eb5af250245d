"""What the verbs that ask a ``.peel`` file for items share."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from peel_ext.cli.arguments import Budget, parse_budget, parse_count
from peel_ext.errors import FormatError, SourceError

if TYPE_CHECKING:
    from peel_ext.device import DeviceRecommender

#: A pipe is not waited for, and nothing translated; each where a system has it.
_FOR_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def add_options(parser: argparse.ArgumentParser, items: str) -> None:
    """Adds the options; ``items`` says what -n counts."""
    parser.add_argument("-n", type=parse_count, default=20, help=items)
    parser.add_argument("--budget", type=parse_budget, help="bytes or a share (default: all)")
    parser.add_argument(
        "--no-item-ids",
        action="store_true",
        help="tell items by row, also those of a .peel file that has not arrived whole",
    )
    parser.add_argument(
        "--header",
        type=_parse_header,
        action="append",
        metavar="'NAME: VALUE'",
        help="with a URL, a header to send with every request; may be given more than once",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="with a URL, how long a request waits for an answer (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def check_no_server_options(options: argparse.Namespace) -> None:
    """Raises ValueError where options for a server are given with a run folder."""
    for option, value in (("--header", options.header), ("--timeout", options.timeout)):
        if value is not None:
            raise ValueError(f"{option} is for a URL, not for a run folder")


def _parse_header(text: str) -> tuple[str, str]:
    """Name and value of 'Name: value'."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # Not with the text, which may be a secret.
        raise argparse.ArgumentTypeError("expected 'Name: value'")
    return name.strip(), value.strip()


def open_device(options: argparse.Namespace) -> DeviceRecommender:
    """The source, a path or a URL, opened under the budget of the options.

    Raises:
        FormatError: not a ``.peel`` file, or damaged.
        SourceError: it cannot be read.
        BudgetError: too few bytes for the first block.
        ValueError: headers or a timeout that cannot be, or that are given with a path.
    """
    from peel_ext.device import DeviceRecommender

    file: str = options.source
    budget: Budget | None = options.budget
    headers: dict[str, str] | None = dict(options.header) if options.header else None
    timeout: float | None = options.timeout
    limit = None
    if budget is not None:
        full = _full_bytes(file, headers, timeout) if budget.unit == "%" else 0
        limit = budget.resolve(full)
    return DeviceRecommender.open(
        file, limit, item_ids=not options.no_item_ids, headers=headers, timeout=timeout
    )


def _full_bytes(file: str, headers: dict[str, str] | None, timeout: float | None) -> int:
    """Bytes of the table in float32, by the header alone: the rest may be far away, or large."""
    from peel_ext.device.http_source import HttpSource, is_url, shown_url
    from peel_ext.format import read_header
    from peel_ext.format.layout import HEADER_BYTES

    try:
        if is_url(file):
            data = HttpSource(file, headers, timeout).read(0, HEADER_BYTES)
        else:
            descriptor = os.open(file, _FOR_READING)
            with open(descriptor, "rb") as opened:
                data = opened.read(HEADER_BYTES) or b""
        header = read_header(data)
    except FormatError as error:
        raise FormatError(f"{shown_url(file)}: {error}") from None
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{file}: cannot be opened: {error.strerror}") from None
    return header.num_embeddings * header.dim * 4
