"""Sentences of the documentation are short enough to be read once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_WORDS = 25

#: The log and the changelog keep what was written when it was written.
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "web/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
    if path.name not in ("log.md", "CHANGELOG.md")
)


def sentences(text: str) -> list[str]:
    """The sentences of a page, without code, tables, headings and the targets of links."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if re.match(r"\s*(\||#|:::|<)", line):
            paragraphs.append([])
        elif re.match(r"\s*([-*]|[0-9]+\.) ", line) or not line.strip():
            paragraphs.append([line])
        else:
            paragraphs[-1].append(line)
    joined = (" ".join(" ".join(lines).split()) for lines in paragraphs)
    return [each for part in joined for each in re.split(r"(?<=[.!?])[*_)\"]*\s", part) if each]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    long = [
        f"{len(words)} words: {sentence}"
        for sentence in sentences(page.read_text())
        if len(words := re.findall(r"[\w'.,%-]*\w[\w'.,%-]*", sentence)) > MOST_WORDS
    ]
    assert not long, "\n".join(long)


def test_a_long_sentence_is_found(tmp_path: Path) -> None:
    assert len(sentences("A `b c d` e. F g:\n\n| a | table |\n- one\n- two")) == 4
    page = tmp_path / "page.md"
    page.write_text("First. " + "word " * 13 + "half;\n" + "word " * 11 + "last.\n")
    with pytest.raises(AssertionError, match="26 words"):
        test_sentences_are_short(page)
