"""All files that name the version name the same one, that of the tag given if there is one."""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def found(path: str, pattern: str) -> str:
    """What a pattern finds in a file, or an exit that says that it finds nothing."""
    match = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    if match is None:
        sys.exit(f"{path} names no version")
    return match[1]


def main(tag: str = "") -> None:
    """Exits with the versions unless they agree."""
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    versions = {
        "pyproject.toml": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "version"
        ],
        "csrc/device/peel.h": found("csrc/device/peel.h", r'^#define PEEL_VERSION "(.*)"'),
        "web/package.json": json.loads((ROOT / "web" / "package.json").read_text())["version"],
        "web/package-lock.json": lock["packages"][""]["version"],
        "CITATION.cff": found("CITATION.cff", r"^version: (.*)$"),
    }
    if tag:
        versions["the tag"] = tag.removeprefix("v")
        if not re.search(rf"^## \[?{re.escape(versions['the tag'])}\b", changes(), re.MULTILINE):
            sys.exit(f"CHANGELOG.md has no section for {versions['the tag']}")
    if len(set(versions.values())) != 1:
        sys.exit("\n".join(f"{version:12} {name}" for name, version in versions.items()))
    print(f"all are {versions['pyproject.toml']}")


def changes() -> str:
    """The changelog."""
    return (ROOT / "CHANGELOG.md").read_text()


if __name__ == "__main__":
    main(*sys.argv[1:])
