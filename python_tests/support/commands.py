"""The command line, called as its users call it."""

from __future__ import annotations

import pytest

from peel_ext.cli.main import main


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit code, and what one command prints to stdout and to stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return code, streams.out, streams.err
