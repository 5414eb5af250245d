"""The rules of docstrings: they are there, and begin with a verb or with what the thing is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "peel_ext"

#: Words that ask, or hang on another word that is not there.
FRAGMENTS = {"What", "Who", "Whom", "Whose", "Where", "Whether", "How", "Of"}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def documented(node: ast.AST, inside: str = "") -> Iterator[tuple[str, Documented]]:
    """A module and what is public in it, by name; what functions define inside is not."""
    if isinstance(node, ast.Module):
        yield "the module", node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{inside}{child.name}"
            if not child.name.startswith("_"):
                yield name, child
                if isinstance(child, ast.ClassDef):
                    yield from documented(child, f"{name}.")
        elif isinstance(child, ast.If | ast.Try):
            yield from documented(child, inside)


def described(docstring: str) -> Iterator[tuple[str, str]]:
    """The names under Args and Attributes, and the words after them."""
    sections = re.split(r"^(Args|Attributes|Returns|Raises|Yields):$", docstring, flags=re.M)
    for title, text in zip(sections[1::2], sections[2::2], strict=True):
        if title in ("Args", "Attributes"):
            yield from re.findall(r"^    (\*{0,2}\w+): (.*)$", text, flags=re.M)


def faults(path: Path) -> list[str]:
    """Docstrings of a file that are missing or begin with a fragment."""
    found = []
    for name, node in documented(ast.parse(path.read_text(encoding="utf-8"))):
        line = getattr(node, "lineno", 1)
        docstring = ast.get_docstring(node)
        decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", ())]
        if any(re.search(r"overload$|\.setter$|\.deleter$", each) for each in decorators):
            continue  # described where it is implemented, or read
        if docstring is None:
            found.append(f"{line}: {name} has no docstring")
            continue
        if docstring.split(maxsplit=1)[0].strip(",.:") in FRAGMENTS:
            found.append(f"{line}: {name} begins with {docstring.splitlines()[0]!r}")
        for argument, text in described(docstring):
            if text.split(maxsplit=1)[0].lower() == "of":
                found.append(f"{line}: {argument} of {name} begins with {text!r}")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_say_what_a_thing_is(path: Path) -> None:
    assert faults(path) == []
