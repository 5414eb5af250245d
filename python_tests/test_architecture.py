"""The rules of the house: layers, light imports, one name for one kernel everywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "peel_ext"

#: Each layer may import itself and those on lines below it.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"evaluation"},
    {"train"},
    {"scale"},
    {"models", "nn", "optim"},
    {"ops", "reference"},
    {"device"},
    {"format", "data"},
    {"errors", "config", "metrics", "threads", "memory", "c_library", "__init__"},
    {"_core"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NO_TORCH = {
    "device",
    "format",
    "data",
    "errors",
    "config",
    "metrics",
    "threads",
    "memory",
    "c_library",
}
KERNELS = ["gathered_score", "grouped_lookup", "topk_blocks", "update_rows"]


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR, f"{room} is on no floor"
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "torch":
            assert room not in NO_TORCH, f"{path.name} imports torch"
        if parts[0] != "peel_ext" or len(parts) == 1:
            continue
        other = parts[1]
        if other not in FLOOR or other == room:
            assert other in FLOOR or len(parts) == 2, f"{path.name} imports {name}"
            continue
        assert FLOOR[other] > FLOOR[room], f"{room} imports {other}, which is not below it"
        if room != "ops" and parts[1] == "ops" and parts[-1] != "*":
            hidden = [part for part in parts[2:] if part.startswith("_")]
            assert not hidden, f"{path} imports a private part of ops: {name}"
        if room == "reference":
            pytest.fail(f"reference imports torch alone, not {name}")


def test_only_bridges_touch_addresses() -> None:
    for path in sources():
        text = path.read_text(encoding="utf-8")
        bridges = ("_bridge.py", "_launching.py")
        if path.name not in bridges and path.parts[-2:] != ("device", "embedding.py"):
            assert "data_ptr" not in text or path.name == "tensor_cache.py", path
            assert "__array_interface__" not in text, path


def test_no_tensor_depends_on_the_defaults_of_torch() -> None:
    """Where ``torch.set_default_dtype`` or ``set_default_device`` has a say, both are named."""
    of_default_dtype = {
        "empty", "zeros", "ones", "full", "rand", "randn", "eye", "linspace", "tensor",
        "scalar_tensor", "Linear", "Embedding",
    }  # fmt: skip
    on_default_device = of_default_dtype | {
        "arange", "randint", "randperm", "as_tensor", "asarray", "sparse_coo_tensor",
        "sparse_csr_tensor",
    }  # fmt: skip
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, maker = ast.unparse(node.func.value), node.func.attr
            if owner not in ("torch", "nn", "torch.nn"):
                continue
            named = {keyword.arg for keyword in node.keywords}
            if None in named:  # those of a dictionary
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
            assert maker not in on_default_device or "device" in named, place
            assert maker not in of_default_dtype or "dtype" in named, place


@pytest.mark.parametrize("module", ["peel_ext", "peel_ext.device", "peel_ext.cli.main"])
def test_importing_the_device_side_imports_no_torch(module: str) -> None:
    heavy = ["torch", "sklearn", "scipy", "pyarrow", "rich", "safetensors"]
    code = (
        f"import sys, {module}; "
        f"found = [name for name in {heavy} if name in sys.modules]; "
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_has_one_name_everywhere(kernel: str) -> None:
    for place in (
        f"csrc/kernels/{kernel}.h",
        f"csrc/kernels/cpu/{kernel}.cpp",
        f"csrc/kernels/cuda/{kernel}.cu",
        f"csrc/tests/test_{kernel}.cpp",
        f"csrc/tests/test_cuda_{kernel}.cpp",
        f"peel_ext/ops/{kernel}.py",
        f"peel_ext/reference/{kernel}.py",
        f"python_tests/ops/test_{kernel}.py",
        f"bench/ops/bench_{kernel}.py",
    ):
        assert (ROOT / place).exists(), f"{kernel} has no {place}"
    bindings = (ROOT / "csrc/bindings/module.cpp").read_text()
    assert f"// ---- {kernel} ----" in bindings
    assert f'm.def("{kernel}"' in bindings
    assert f"## `{kernel}`" in (ROOT / "docs/ops.md").read_text()


def test_the_contracts_are_of_the_four_kernels_and_of_tiles() -> None:
    contracts = sorted(path.stem for path in (ROOT / "csrc" / "kernels").glob("*.h"))
    assert contracts == sorted([*KERNELS, "packed_tiles"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_reference_has_the_signature_of_the_op(kernel: str) -> None:
    def arguments(folder: str) -> list[str]:
        tree = ast.parse((PACKAGE / folder / f"{kernel}.py").read_text(encoding="utf-8"))
        function = next(
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == kernel
        )
        every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        return [argument.arg for argument in every]

    assert arguments("ops") == arguments("reference")


def test_every_native_source_is_built_and_every_native_test_runs() -> None:
    recipe = (ROOT / "CMakeLists.txt").read_text()
    sources = sorted(
        path.relative_to(ROOT)
        for ending in ("cpp", "cu")
        for path in (ROOT / "csrc").rglob(f"*.{ending}")
        if path.parent.name != "tests"
    )
    module = (ROOT / "web" / "build.py").read_text()  # what only WebAssembly has
    assert not [
        str(path)
        for path in sources
        if str(path) not in recipe and f'"{path.relative_to("csrc").with_suffix("")}"' not in module
    ]
    lists = re.findall(r"set\(PEEL_(?:CUDA_|CUDA_SHIM_)?TESTS([^)]*)\)", recipe)
    assert len(lists) == 3
    tests = [path.stem.removeprefix("test_") for path in (ROOT / "csrc/tests").glob("test_*.cpp")]
    assert sorted(" ".join(lists).split()) == sorted(tests)


def test_native_layers_include_downward() -> None:
    order = ["core", "simd", "kernels", "device", "bindings"]
    for path in (ROOT / "csrc").rglob("*.[hc]*"):
        room, *inner = path.relative_to(ROOT / "csrc").parts
        if room == "tests":
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if line == '#include "tests/cuda_shim/cuda_shim.h"':
                assert inner == ["cuda", "device.h"], f"{path.name}: {line}"
            elif line.startswith("#include <cu"):
                assert inner in (["cuda", "device.h"], ["cuda", "sort.cu"]), f"{path}: {line}"
            elif line.startswith('#include "kernels/cpu/'):
                assert inner[0] == "cpu", f"{path.name}: {line}"
            elif line.startswith('#include "kernels/cuda/'):
                assert inner[0] == "cuda" or room == "bindings", f"{path.name}: {line}"
            elif line.startswith('#include "'):
                other = line.split('"')[1].split("/")[0]
                assert order.index(other) <= order.index(room), f"{path.name}: {line}"
            if line.startswith("#include <pybind11"):
                assert room == "bindings", path
