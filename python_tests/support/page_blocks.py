"""Blocks of code on pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
#: What is read as documentation. The log keeps what was written when it was written.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md", "bench/*.md", "docs/*.md", "docs/api/*.md", "web/*.md", "examples/*/*.md",
    )
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)  # fmt: skip


def blocks_of(page: str, language: str) -> list[str]:
    """The blocks of a page in a language; commands are in blocks of none."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    return [text for name, text in found if name == language]


def languages_of(page: str) -> set[str]:
    """Those of the blocks of a page."""
    return set(
        re.findall(r"^```(\w*)\n.*?^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    )


def commands_of(page: str) -> list[list[str]]:
    """The commands of a page as words, without comments and assignments before them."""
    lines = "\n".join(blocks_of(page, "")).replace("\\\n", " ").replace("&&", "\n").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    for words in commands:
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
    return [words for words in commands if words]
