from __future__ import annotations

import re
from pathlib import Path

import pytest

from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train import pipeline

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "bench", "docs", "docs/api", "web", "examples/device_c",
                   "examples/device_node", "examples/device_rust")
    for path in (ROOT / folder).glob("*.md")
    if path.name != "CHANGELOG.md"
)  # fmt: skip


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "page",
    # Signatures alone, and what belongs into a project of others, cannot run.
    [page for page in PAGES if python_blocks(page) and page not in ("docs/ops.md",)],
)
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is trained on there is less here: pages are about calls.
    small = make_interactions(SyntheticConfig(num_users=300, num_items=400))
    monkeypatch.setattr(pipeline, "make_interactions", lambda: small)
    monkeypatch.chdir(tmp_path)
    assert len(python_blocks(page)) >= (2 if page in ("README.md", "docs/in_your_model.md") else 1)
    space: dict[str, object] = {}
    for block in python_blocks(page):
        exec(block, space)  # the examples build on each other


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
