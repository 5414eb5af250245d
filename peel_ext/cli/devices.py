"""The parts that the verbs that ask a ``.peel`` file for items share."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from peel_ext.cli.arguments import Budget, parse_budget, parse_count
from peel_ext.errors import FormatError, SourceError

if TYPE_CHECKING:
    from peel_ext.device import DeviceRecommender
    from peel_ext.device.user_source import Readable

#: A pipe is not waited for, and nothing translated; each where a system has it.
_FOR_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def add_options(parser: argparse.ArgumentParser, items: str) -> None:
    """Adds the options; ``items`` says what -n counts."""
    parser.add_argument("-n", type=parse_count, default=20, help=f"{items} (default: 20)")
    parser.add_argument("--budget", type=parse_budget, help="bytes or a share (default: all)")
    parser.add_argument(
        "--no-item-ids",
        action="store_true",
        help="tell items by row, also those of a .peel file that has not arrived whole",
    )
    add_user_option(parser)
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


def add_user_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names a user of a bundle."""
    parser.add_argument(
        "--bundle-user",
        metavar="ID",
        help="where the file is a bundle of many users' files, the user whose file to open",
    )


def check_no_device_options(options: argparse.Namespace) -> None:
    """Raises ValueError where options for a server or a bundle are given with a run folder."""
    given = (("--header", options.header, "URL"), ("--timeout", options.timeout, "URL"),
             ("--bundle-user", options.bundle_user, "bundle"))  # fmt: skip
    for option, value, what in given:
        if value is not None:
            raise ValueError(f"{option} is for a {what}, not for a run folder")


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
        NoUserError: the bundle has no file of the user.
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
        full = _full_bytes(file, options.bundle_user, headers, timeout) if budget.unit == "%" else 0
        limit = budget.resolve(full)
    return DeviceRecommender.open(
        file,
        limit,
        user=options.bundle_user,
        item_ids=not options.no_item_ids,
        headers=headers,
        timeout=timeout,
    )


def _full_bytes(
    file: str, user: str | None, headers: dict[str, str] | None, timeout: float | None
) -> int:
    """Bytes of the table in float32, by the header alone: the rest may be far away, or large."""
    from peel_ext.device.http_source import HttpSource, is_url, shown_url
    from peel_ext.device.sources import FileObjectSource
    from peel_ext.format import read_header

    try:
        if is_url(file):
            data = _read_start(HttpSource(file, headers, timeout), user)
        else:
            with open(os.open(file, _FOR_READING), "rb") as opened:
                data = _read_start(FileObjectSource(opened), user)
        header = read_header(data)
    except FormatError as error:
        raise FormatError(f"{shown_url(file)}: {error}") from None
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{file}: cannot be opened: {error.strerror}") from None
    return header.num_embeddings * header.dim * 4


def _read_start(source: Readable, user: str | None) -> bytes:
    """The bytes of a header, as far as they are there; with a user, those of its file in a bundle."""
    from peel_ext.device.user_source import UserSource
    from peel_ext.format.layout import HEADER_BYTES

    if user is not None:
        source = UserSource(source, user, ahead=0)
    return source.read(0, min(HEADER_BYTES, source.size))
