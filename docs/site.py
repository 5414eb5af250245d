"""What the site adds to the pages: the README as its start, files that lie beside docs/, and formulas."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\]\(((?:\.\./)+)([^)#]+)")


def _linked(path: str) -> Path | None:
    """What a link to a path in the project shows: a file, or the page of a folder."""
    found = ROOT / path
    found = found / "README.md" if found.is_dir() else found
    return found if found.is_file() else None


def on_files(files: Files, config: Any) -> Files:
    """Adds the start page, and whatever pages link to outside docs/."""
    start = (ROOT / "README.md").read_text()
    start = re.sub(r"\]\(docs/", "](", start)
    start = re.sub(r"\]\((?!https?:|#)(?=[A-Z.]|bench/|csrc/|examples/|web/)", "](../", start)
    files.append(File.generated(config, "index.md", content=start))
    texts = [file.content_string for file in files.documentation_pages()]
    for path in sorted({match[2] for text in texts for match in _LINK.finditer(text)}):
        source = _linked(path)
        if source is not None:
            name = f"project/{source.relative_to(ROOT)}.txt"
            files.append(File.generated(config, name, content=source.read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links at what was added, and turns formulas into MathML."""
    here = posixpath.dirname(page.file.src_uri)

    def point(match: re.Match[str]) -> str:
        source = _linked(match[2])
        if source is None:
            return match[0]
        return "](" + posixpath.relpath(f"project/{source.relative_to(ROOT)}.txt", here or ".")

    markdown = _LINK.sub(point, markdown)
    return re.sub(
        r"(?ms)^( *)\$\$(.+?)\$\$",
        lambda match: f'{match[1]}<div class="formula">{convert(match[2], display="block")}</div>',
        markdown,
    )
