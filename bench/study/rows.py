"""The rows of the study in their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peel_ext.format.file import write_atomically


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row; an interruption leaves the file with it or without it."""
    before = path.read_text() if path.exists() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (before + json.dumps(row) + "\n").encode())
