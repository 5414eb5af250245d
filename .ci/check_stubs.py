"""The committed stub of the native module is the one its docstrings generate."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

committed = Path(__file__).parent.parent / "peel_ext" / "_core.pyi"
with tempfile.TemporaryDirectory() as folder:
    subprocess.run(
        [sys.executable, "-P", "-m", "pybind11_stubgen", "peel_ext._core", "-o", folder],
        check=True,
        capture_output=True,
    )
    made = (Path(folder) / "peel_ext" / "_core.pyi").read_text()
# Versions and compilers differ between machines.
stable = re.sub(r"^(__version__|compiler): str = .*$", r"\1: str", made, flags=re.MULTILINE)
if sys.argv[1:] == ["--write"]:
    committed.write_text(stable)
elif stable != committed.read_text():
    sys.exit(f"{committed} is not what the native module declares: run this with --write")
else:
    print("the stub is that of the native module")
