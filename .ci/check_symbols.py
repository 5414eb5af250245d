"""No object compiled for one instruction set may export a weak symbol: it could replace another's.

Takes the folder of a CMake build; which sources have an instruction set of their own follows from the
flags they were compiled with.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

folder = Path(sys.argv[1])
#: In portable builds every source is the baseline's; NEON is the baseline of aarch64.
own_flags = re.compile(r"\s-m(arch=|cpu=|avx|fma|f16c|sse|bmi)")
commands = json.loads((folder / "compile_commands.json").read_text())
compiled = {Path(command["file"]).name: command["command"] for command in commands}
checked = sorted(
    name for name, command in compiled.items() if own_flags.search(command) or name == "neon.cpp"
)
listing = subprocess.run(
    [os.environ.get("NM", "nm"), "-C", folder / "libpeel_core.a"],
    capture_output=True,
    text=True,
    check=True,
).stdout
objects: dict[str, list[str]] = {}
current: list[str] = []
for line in listing.splitlines():
    if line.endswith(".o:"):
        objects[line[:-1]] = current = []
    elif line.strip():
        current.append(line)
absent = [name for name in checked if f"{name}.o" not in objects]
# DW.ref.* are the personality references of exception tables, data without code.
bad = [
    (name, line)
    for name in checked
    for line in objects.get(f"{name}.o", [])
    if re.search(r" [WVu] ", line) and "DW.ref." not in line and "asan" not in line
]
if not checked or absent or bad:
    sys.exit(f"weak symbols in per-instruction-set objects {checked}: {bad}, not found: {absent}")
print(f"no weak symbols in {', '.join(checked)}")
