from __future__ import annotations

import argparse

import pytest

from peel_ext.cli.arguments import parse_budget, parse_budgets, parse_count
from peel_ext.cli.main import _parser


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("65536", 65536), ("64KiB", 65536), ("64 kib", 65536), ("1.5MB", 1_500_000), ("1MiB", 1 << 20),
        ("2.5%", 25), (".1%", 1), ("100 %", 1000), ("0", 0), ("12B", 12), ("0.0001%", 0),
        ("0.1GB", 10**8),
    ],
)  # fmt: skip
def test_budgets(text: str, expected: int) -> None:
    assert parse_budget(text).resolve(1000) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "-5", "5 parsecs", "1e5", "%", "1,000", "nan", "inf", "5%%", "1.2.3"]
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no budget: expected bytes"):
        parse_budget(text)


def test_lists_of_budgets() -> None:
    assert [budget.text for budget in parse_budgets("10%, 64KiB,5")] == ["10%", "64KiB", "5"]
    with pytest.raises(argparse.ArgumentTypeError, match="'' is no budget"):
        parse_budgets("10%,")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "\u0663"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no integer from 1 to 2147483647"):
        parse_count(text)
    assert parse_count("12") == 12


def test_the_help_of_every_verb_is_plain_text() -> None:
    [verbs] = [each for each in _parser()._actions if isinstance(each.choices, dict)]
    assert len(verbs.choices) >= 9
    for name, parser in verbs.choices.items():
        told = parser.format_help()
        assert f"'peel {name}': " in told
        assert "``" not in told
        for option in parser._actions:
            assert option.help, f"peel {name} {option.option_strings}"
