"""Argument forms shared by the verbs."""

from __future__ import annotations

import argparse
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
    match = _FORM.fullmatch(text.strip())
    unit = match[2].upper() if match else ""
    if not match or (unit != "%" and unit not in _UNITS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no budget: expected bytes (65536, 64KiB, 1.5MB) or a share (2.5%)"
        )
    return Budget(text.strip(), float(match[1]), unit)


def parse_budgets(text: str) -> list[Budget]:
    """Reads a comma-separated list of budgets."""
    return [parse_budget(part) for part in text.split(",")]


def parse_count(text: str) -> int:
    """Reads an integer from 1 to 2^31 - 1."""
    if not re.fullmatch(r"0*[0-9]{1,10}", text) or not 1 <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 1 to 2147483647")
    return int(text)
