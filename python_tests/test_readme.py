from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/in_your_model.md"])
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(blocks) >= 2
    space: dict[str, object] = {}
    for block in blocks:
        exec(block, space)  # the examples build on each other


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "bench/README.md",
        "docs/concepts.md",
        "docs/data.md",
        "docs/format.md",
        "docs/in_your_model.md",
        "docs/ops.md",
        "docs/web.md",
        "docs/log.md",
        "docs/devices.md",
        "examples/device_c/README.md",
        "examples/device_node/README.md",
        "examples/device_rust/README.md",
        "web/README.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
