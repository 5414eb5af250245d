"""The base install holds NumPy alone, and the device side works on it."""

import ctypes
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile

for name in ("torch", "sklearn", "scipy", "pyarrow", "safetensors", "rich"):
    if importlib.util.find_spec(name) is not None:
        sys.exit(f"{name} is installed beside the base install")

import numpy as np  # noqa: E402

import peel_ext  # noqa: E402
from peel_ext.device import PersonalizedElasticEmbedding  # noqa: E402
from peel_ext.format import (  # noqa: E402
    EncodedRows,
    GroupTable,
    PlanesLayout,
    pack_embedding,
    write_file,
)

requirements = importlib.metadata.requires("peel_ext") or []
base = [line for line in requirements if "extra ==" not in line]
if base != ["numpy>=2.0"]:
    sys.exit(f"the base install requires {base}")

layout = PlanesLayout()
rows = np.eye(16, dtype=np.float32)
buffer = pack_embedding(layout, 16, EncodedRows(*layout.encode(rows)), [np.arange(16)], [31])
ids, _ = PersonalizedElasticEmbedding(buffer).score(rows, 1)
if not np.array_equal(ids[:, 0], np.arange(16)):
    sys.exit(f"wrong recommendations: {ids[:, 0]}")

with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/a.peel"
    table = GroupTable(layout, 16, EncodedRows(*layout.encode(rows)), [np.arange(16)], np.arange(5))
    write_file(path, table, item_ids=[f"item {row}" for row in range(16)])
    for verb in (["recommend", path, "--history", "item 3"], ["similar", path, "item 3"]):
        command = [sys.executable, "-P", "-m", "peel_ext.cli.main", *verb, "-n", "2"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or len(done.stdout.splitlines()) != 2 or "item 3" in done.stdout:
            sys.exit(f"peel {verb[0]} from a file: {done.returncode} {done.stdout} {done.stderr}")

library = ctypes.CDLL(str(peel_ext.get_library()))
library.peel_version.restype = ctypes.c_char_p
if library.peel_version().decode() != peel_ext.__version__ or not list(
    peel_ext.get_include().glob("peel.h")
):
    sys.exit("the C library of the wheel is not that of the package")

for verb in (["train", "x", "--out", "y"], ["evaluate", "y"]):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "peel_ext.cli.main", *verb], capture_output=True, text=True
    )
    if done.returncode != 1 or "pip install 'peel_ext[train]'" not in done.stderr:
        sys.exit(f"peel {verb[0]} without torch: {done.returncode} {done.stderr}")
print(f"base install of peel_ext {peel_ext.__version__} is right")
