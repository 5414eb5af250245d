"""The source distribution holds what building and testing need, and nothing else of the tree."""

import subprocess
import sys
import tarfile
from pathlib import Path

if not Path(".git").exists():
    print(
        "NOT TRIED: without git there is no list of files to compare the sdist with",
        file=sys.stderr,
    )
    sys.exit()
with tarfile.open(sys.argv[1]) as archive:
    held = {name.partition("/")[2] for name in archive.getnames() if "/" in name}
listing = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    capture_output=True,
    text=True,
    check=True,
)
tracked = set(listing.stdout.splitlines())
needed = {
    name
    for name in tracked
    if name.startswith(("csrc/", "peel_ext/", "python_tests/"))
    or name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml")
}
missing = needed - held
if missing:
    sys.exit(f"the sdist lacks {sorted(missing)}")
extra = held - tracked - {"PKG-INFO"}
if extra:
    sys.exit(f"the sdist holds {sorted(extra)}")
print(f"the sdist holds {len(held)} files, all of them ours")
