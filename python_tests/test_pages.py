"""What the pages say runs: blocks of Python, commands, CMake, JavaScript and C. Links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, blocks_of, commands_of, languages_of
from small_shop import OPTIONS

import peel_ext
from peel_ext import ops, reference
from peel_ext.cli.main import _parser, main
from peel_ext.data import read_interactions
from peel_ext.train import pipeline

#: Commands that are not run here, by page, how they begin, and why.
NOT_RUN = [
    ("README.md", "pip install", "asks a package index; .ci/check_wheels installs"),
    ("CONTRIBUTING.md", ".ci/run", "runs this test"),
    ("CONTRIBUTING.md", "build/venv/bin/pip", "asks a package index"),
    ("bench/README.md", "bench/gpu.sh", "needs a GPU"),
    ("docs/gpus.md", "peel", "needs a GPU"),
    ("docs/gpus.md", "torchrun", "needs several GPUs"),
    ("docs/train.md", "peel train interactions.parquet --preset", "trains for long"),
    ("docs/evaluate.md", "peel evaluate", "measures rivals for long; python_tests/cli"),
    ("docs/scale.md", "torchrun", "starts processes; python_tests/train/sharded"),
    ("docs/scale.md", "pip install", "asks a package index; python_tests/scale/test_torchrec.py"),
    ("docs/devices.md", "cmake", "compiles for minutes, or for another system; .ci/check_library"),
    ("docs/devices.md", "cc", "needs the library installed; .ci/check_library"),
    ("examples/device_c/README.md", "", "compiles for minutes; .ci/check_library"),
    ("examples/device_node/README.md", "", "asks a package index; .ci/check_library"),
    ("examples/device_rust/README.md", "", "needs the library installed; .ci/check_library"),
]
#: Blocks that no test runs: what is shown, and a build of Android's, which needs Gradle, its plugin and
#: the SDK. Of that the braces are matched and the path is looked up.
SHOWN = {"text", "http", "groovy"}
#: Signatures alone.
SIGNATURES = "docs/ops.md"


@pytest.fixture
def shop(trained_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with interactions; what is made up has the same ones."""
    path = shutil.copy(trained_shop / "interactions.parquet", tmp_path)
    monkeypatch.setattr(pipeline, "make_interactions", lambda: read_interactions(path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- Python ----


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_of(page, "python") and page != SIGNATURES]
)
def test_blocks_of_python_run(page: str, shop: Path, trained_shop: Path) -> None:
    # Pages are about calls: that the training they describe is there already makes no difference.
    shutil.copytree(trained_shop / "run", shop / "trained")
    space: dict[str, object] = {}
    for block in blocks_of(page, "python"):
        exec(block, space)  # they build on each other


def parameters_of(signature: str) -> str:
    """The parameters of ``name(...)`` in one form."""
    [function] = ast.parse(f"def {signature.strip()}: ...").body
    assert isinstance(function, ast.FunctionDef)
    return ast.unparse(function.args)


def test_signatures_are_those_of_the_kernels() -> None:
    found = {}
    for block in blocks_of(SIGNATURES, "python"):
        name = block.partition("(")[0]
        found[name] = parameters_of(block)
    assert sorted(found) == sorted(name for name in ops.__all__ if hasattr(reference, name))
    for name, parameters in found.items():
        for function in (getattr(ops, name), getattr(reference, name)):
            signature = inspect.signature(function)
            plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
            assert parameters == parameters_of(f"{name}{inspect.Signature(plain)}"), name


# ---- commands ----


def reason_not_to_run(page: str, words: list[str]) -> str | None:
    """Why a command is not run, None where it is."""
    command = " ".join(words)
    found = [why for where, begins, why in NOT_RUN if where == page and command.startswith(begins)]
    return found[0] if found else None


def run_command(words: list[str], trained_shop: Path) -> None:
    """Runs a command of the pages in the working folder, or looks up what it names."""
    program, *arguments = words
    if program == "peel":
        run_peel(arguments, trained_shop)
    elif program == "make":
        look_up_targets(arguments)
    elif program == "python" and arguments[0] == "-m":  # of a folder in bench/
        look_up_options([f"bench/{arguments[1]}/__main__.py", *arguments[2:]])
    elif program == "python" and arguments[0].startswith("bench/"):
        look_up_options(arguments)
    elif program == "python" and arguments[0].startswith("examples/"):
        shutil.copytree(trained_shop / "run", Path("runs", "quickstart"), dirs_exist_ok=True)
        runpy.run_path(str(ROOT / arguments[0]))["main"](arguments[1:])
    elif program == "python":
        subprocess.run([sys.executable, "-P", ROOT / arguments[0], *arguments[1:]], check=True)
    else:
        pytest.fail(f"nothing here runs {program}: {' '.join(words)}")


def run_peel(arguments: list[str], trained_shop: Path) -> None:
    """Runs a verb of the command line, on what was trained before where it trains alike."""
    if "run/" in arguments and not Path("run").exists():
        shutil.copytree(trained_shop / "run", "run")
    quick = OPTIONS if arguments[0] == "train" else []
    assert main([*arguments, *quick]) == 0, arguments


def look_up_targets(arguments: list[str]) -> None:
    """A target of the Makefile, and variables that it reads; it would run for minutes."""
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, equals, _ = word.partition("=")
        there = rf"\$[({{]{name}[)}}]|if \$\({name}\)" if equals else rf"(?m)^{name}:"
        assert re.search(there, makefile), word


def look_up_options(arguments: list[str]) -> None:
    """A benchmark and its options; it would run for hours, and pytest bench runs each once."""
    source = (ROOT / arguments[0]).read_text()
    for word in arguments[1:]:
        assert not word.startswith("--") or f'"{word}"' in source, word


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_commands_run(
    page: str, shop: Path, trained_shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands_of(page):
        if reason_not_to_run(page, words) is None:
            run_command(words, trained_shop)
        elif words[0] == "peel":
            _parser().parse_args(words[1:])
        elif words[0] == "torchrun":
            _parser().parse_args(words[words.index("peel_ext") + 1 :])
        elif words[:2] == ["pip", "install"]:
            extras = re.findall(r"\[(.*)\]", " ".join(words))
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert all(extra in project["optional-dependencies"] for extra in extras), words


def test_commands_that_are_not_there_fail(shop: Path, trained_shop: Path) -> None:
    for words in (
        ["peel", "no-verb"],
        ["make", "no-target"],
        ["make", "bench", "NOTHING=1"],
        ["python", "bench/quality.py", "--no-option"],
        ["no-program"],
    ):
        with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)):
            run_command(words, trained_shop)


def test_only_commands_of_pages_are_not_run() -> None:
    for page, begins, why in NOT_RUN:
        assert why
        assert any(" ".join(words).startswith(begins) for words in commands_of(page)), (
            page,
            begins,
        )


# ---- other languages ----


@pytest.mark.parametrize("page", PAGES)
def test_every_language_is_checked(page: str) -> None:
    assert languages_of(page) <= {"", "python", "cmake", "js", "c"} | SHOWN


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "js")])
def test_blocks_of_javascript_parse(page: str, tmp_path: Path) -> None:
    node = shutil.which("node") or pytest.skip("node is absent: JavaScript of pages is not parsed")
    for block in blocks_of(page, "js"):
        (tmp_path / "block.mjs").write_text(block)
        subprocess.run([node, "--check", tmp_path / "block.mjs"], check=True)


def compile_c(source: str, folder: Path) -> None:
    """Checks C against the installed peel.h, warnings as errors; nothing is linked."""
    compiler = shutil.which("cc") or pytest.skip("cc is absent: C of pages is not compiled")
    (folder / "block.c").write_text(source)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    include = f"-I{peel_ext.get_include()}"
    subprocess.run([compiler, *flags, include, folder / "block.c"], check=True)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "c")])
def test_blocks_of_c_compile(page: str, tmp_path: Path) -> None:
    for block in blocks_of(page, "c"):
        compile_c(block, tmp_path)
        with pytest.raises(subprocess.CalledProcessError):
            compile_c(block.replace("peel_", "peal_"), tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "groovy")])
def test_blocks_of_gradle_are_whole(page: str) -> None:
    for block in blocks_of(page, "groovy"):
        depths = list(itertools.accumulate((c == "{") - (c == "}") for c in block))
        assert min(depths) == depths[-1] == 0
        assert block.count('"') % 2 == 0
        text = (ROOT / page).read_text()
        assert all(f"`{path}`" in text for path in re.findall(r'path "([^"]+)"', block))


#: Stands for an installed library: what blocks link with has these names.
PACKAGE = """
add_library(peel::peel INTERFACE IMPORTED)
add_library(peel::peel_static INTERFACE IMPORTED)
"""
BEFORE = """
cmake_minimum_required(VERSION 3.20)
project(app LANGUAGES C CXX)
file(WRITE ${CMAKE_BINARY_DIR}/app.c "int main(void) { return 0; }")
add_executable(app ${CMAKE_BINARY_DIR}/app.c)
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "cmake")])
def test_blocks_of_cmake_configure(page: str, tmp_path: Path) -> None:
    cmake = shutil.which("cmake") or pytest.skip("cmake is absent: CMake of pages is not tried")
    (tmp_path / "peel").mkdir()
    (tmp_path / "peel" / "peelConfig.cmake").write_text(PACKAGE)
    version = "set(PACKAGE_VERSION_COMPATIBLE TRUE)\n"
    (tmp_path / "peel" / "peelConfigVersion.cmake").write_text(version)
    for at, block in enumerate(blocks_of(page, "cmake")):
        folder = tmp_path / str(at)
        (folder / "peel").mkdir(parents=True)
        (folder / "peel" / "peel.cpp").touch()
        (folder / "peel_ext").symlink_to(ROOT)
        text = block if "project(" in block else BEFORE + block
        (folder / "CMakeLists.txt").write_text(text)
        subprocess.run(
            [
                cmake, "-S", folder, "-B", folder / "build", f"-Dpeel_DIR={tmp_path / 'peel'}",
                "-DCMAKE_C_COMPILER_WORKS=1", "-DCMAKE_CXX_COMPILER_WORKS=1",
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip


# ---- links ----


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
