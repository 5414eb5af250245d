"""No object compiled for one instruction set may export a weak symbol: it could replace another's."""

import re
import subprocess
import sys

archive = sys.argv[1]
listing = subprocess.run(["nm", "-C", archive], capture_output=True, text=True, check=True).stdout
objects = {}
for line in listing.splitlines():
    if line.endswith(".o:"):
        objects[line[:-1]] = current = []
    elif line.strip():
        current.append(line)
checked = [name for name in objects if re.match(r"(avx2|avx512|neon)\.cpp\.o", name)]
# DW.ref.* are the personality references of exception tables, data without code.
bad = [
    (name, line)
    for name in checked
    for line in objects[name]
    if re.search(r" [WVu] ", line) and "DW.ref." not in line and "asan" not in line
]
if not checked or bad:
    sys.exit(f"weak symbols in per-instruction-set objects {checked}: {bad}")
print(f"no weak symbols in {', '.join(checked)}")
