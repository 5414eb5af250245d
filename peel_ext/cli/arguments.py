"""Argument forms shared by the verbs."""

from __future__ import annotations

import argparse
import csv
import math
import re
from dataclasses import dataclass

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_FORM = re.compile(r"([0-9]*\.?[0-9]+)\s*(%|[A-Za-z]*)")


@dataclass(frozen=True)
class Budget:
    """A budget as it was asked for: bytes, or a share of the full float32 table."""

    text: str
    amount: float
    unit: str

    def resolve(self, full_bytes: int) -> int:
        """Whole bytes, rounded down."""
        if self.unit == "%":
            return math.floor(full_bytes * self.amount / 100)
        return math.floor(self.amount * _UNITS[self.unit])


def parse_budget(text: str) -> Budget:
    """Reads ``65536``, ``64KiB``, ``1.5MB`` or ``2.5%``.

    Raises:
        argparse.ArgumentTypeError: another form.
    """
    match = _FORM.fullmatch(
        text.strip()
    )  # of more than 30 digits it is a mistake, and maybe no float
    unit = match[2].upper() if match else ""
    if not match or (unit != "%" and unit not in _UNITS) or len(match[1]) > 30:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no budget: expected bytes (65536, 64KiB, 1.5MB) or a share (2.5%)"
        )
    return Budget(text.strip(), float(match[1]), unit)


def parse_budgets(text: str) -> list[Budget]:
    """Reads a comma-separated list of budgets."""
    return [parse_budget(part) for part in text.split(",")]


def parse_count(text: str, least: int = 1) -> int:
    """Reads an integer from 1, or another least one, to 2^31 - 1."""
    if not re.fullmatch(r"0*[0-9]{1,10}", text) or not least <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from {least} to 2147483647")
    return int(text)


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a command's work, for as many processes.

    Attributes:
        index: from 1.
        count: number of all parts.
    """

    index: int
    count: int

    def of(self, total: int) -> slice:
        """The part of things 0, ..., total - 1: parts follow one another, and have all of them once."""
        return slice(total * (self.index - 1) // self.count, total * self.index // self.count)

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def parse_shard(text: str) -> Shard:
    """Reads ``2/8``: the second of eight parts.

    Raises:
        argparse.ArgumentTypeError: another form.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part, expected I/N with I from 1 to N")
    return Shard(int(match[1]), int(match[2]))


def parse_path(text: str) -> str:
    """A path; the empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return text


def parse_ids(text: str) -> list[str]:
    """Reads comma-separated ids; one with a comma or a quote in it is quoted as in a CSV file."""
    try:
        return next(csv.reader([text], strict=True)) or [""]
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of ids: {error}") from None
