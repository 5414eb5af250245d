"""Compiles the C++ core into dist/peel.wasm with the clang of ``ziglang`` (PyPI).

Its C++ library comes without exceptions, so the few parts of it that the core needs are compiled from
its own sources, with them. What is compiled already and newer than every source is left as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ziglang

WEB = Path(__file__).resolve().parent
ROOT = WEB.parent
OBJECTS = ROOT / "build" / "web"
ZIG = Path(ziglang.__file__).parent / "zig"
LIBRARY = ZIG.parent / "lib"

SOURCES = (
    "bindings/wasm",
    "core/out_of_range",
    "core/processor",
    "core/serial_executor",
    "device/appendix",
    "device/block_checks",
    "device/block_walk",
    "device/bundle",
    "device/checksum",
    "device/file_header",
    "device/fold_in",
    "device/item_ids",
    "device/levels",
    "device/peel",
    "device/peel_file",
    "device/prefix_wasm",
    "device/recommender",
    "device/sha256",
    "device/similar",
    "device/source",
    "kernels/cpu/gathered_score",
    "kernels/cpu/grouped_lookup",
    "kernels/cpu/packed_tiles",
    "kernels/cpu/plane_rows",
    "kernels/cpu/score_bounds",
    "simd/dispatch",
    "simd/wasm128",
)
RUNTIME = (
    "libcxx/src/algorithm",
    "libcxx/src/functional",
    "libcxx/src/hash",
    "libcxx/src/memory",
    "libcxx/src/stdexcept",
    "libcxx/src/string",
    "libcxxabi/src/cxa_aux_runtime",
    "libcxxabi/src/cxa_default_handlers",
    "libcxxabi/src/cxa_exception",
    "libcxxabi/src/cxa_exception_storage",
    "libcxxabi/src/cxa_guard",
    "libcxxabi/src/cxa_handlers",
    "libcxxabi/src/cxa_personality",
    "libcxxabi/src/cxa_virtual",
    "libcxxabi/src/fallback_malloc",
    "libcxxabi/src/private_typeinfo",
    "libcxxabi/src/stdlib_exception",
    "libcxxabi/src/stdlib_stdexcept",
    "libcxxabi/src/stdlib_typeinfo",
)
EXPORTS = (
    "average_user",
    "choose_group",
    "continue",
    "find_rows_by_text",
    "fold_in",
    "get_info",
    "get_item_id_type",
    "get_item_text",
    "rotate",
    "score",
    "score_items",
    "score_with_shipped",
    "similar",
)

#: Without vectors of 128 bits it would be 25 times slower, so a module without them is not made.
TARGET = ["-target", "wasm32-wasi", "-mcpu=generic+exception_handling+simd128"]
EXCEPTIONS = ["-fwasm-exceptions", "-DNDEBUG"]
ZIG_OBJECT = ["build-obj", *TARGET, "-OReleaseSmall", "-fno-compiler-rt"]
#: Where no time is spent, fewer bytes are what counts.
SMALL = ("bindings/", "device/", "core/")
FAST = ("device/fold_in", "device/checksum", "device/similar")
STACK_BYTES = 1 << 16

#: The tag that C++ exceptions have, which linkers expect from the C++ library.
EXCEPTION_TAG = """
\t.tagtype __cpp_exception i32
\t.globl __cpp_exception
__cpp_exception:
"""


def core_command(source: str) -> list[str]:
    """How a file under csrc is compiled."""
    small = source.startswith(SMALL) and source not in FAST
    return [
        *("c++", *TARGET, *EXCEPTIONS, "-std=c++17", "-Os" if small else "-O3"),
        *("-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"),
        "-Wno-unused-private-field",  # of a prefix, what only systems with virtual memory need
        *(f"-I{ROOT / 'csrc'}", "-c", str(ROOT / "csrc" / f"{source}.cpp")),
    ]


def runtime_command(source: str) -> list[str]:
    """How a file of the C++ library is compiled."""
    return [
        *("c++", *TARGET, *EXCEPTIONS, "-std=c++23", "-Os", "-w"),
        *(
            "-D_LIBCPP_BUILDING_LIBRARY",
            "-D_LIBCXXABI_BUILDING_LIBRARY",
            "-DLIBCXX_BUILDING_LIBCXXABI",
        ),
        *("-DLIBCXXABI_ENABLE_EXCEPTIONS", "-D_LIBCXXABI_HAS_NO_THREADS"),
        "-DLIBCXXABI_SILENT_TERMINATE",  # which would bring all of printf
        *(f"-I{LIBRARY / path}" for path in ("libcxxabi/include", "libcxx/src", "libcxxabi/src")),
        *("-c", str(LIBRARY / f"{source}.cpp")),
    ]


def main() -> None:
    """Makes dist/peel.wasm."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    tag = OBJECTS / "tag.s"
    tag.write_text(EXCEPTION_TAG)
    unwind = LIBRARY / "libunwind"
    commands = {
        **{source: core_command(source) for source in SOURCES},
        **{source: runtime_command(source) for source in RUNTIME},
        "unwind": [
            *("cc", *TARGET, *EXCEPTIONS, "-Os", "-w", "-fdeclspec", "-D_LIBUNWIND_HIDE_SYMBOLS"),
            *(f"-I{unwind / 'include'}", "-c", str(unwind / "src" / "Unwind-wasm.c")),
        ],
        "tag": ["cc", *TARGET, "-c", str(tag)],
        # Of its C library what is written in Zig, memory and text, is all that is called.
        "c": [*ZIG_OBJECT, "-lc", str(LIBRARY / "c.zig")],
        "compiler_rt": [*ZIG_OBJECT, str(LIBRARY / "compiler_rt.zig")],
    }
    newest = max(path.stat().st_mtime for path in [*(ROOT / "csrc").rglob("*.*"), Path(__file__)])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda item: make(*item, newest), commands.items()))
    target = WEB / "dist" / "peel.wasm"
    target.parent.mkdir(exist_ok=True)
    run(
        *("wasm-ld", "--no-entry", "--gc-sections", "-s", "-z", f"stack-size={STACK_BYTES}"),
        *(f"--export={name}" for name in ("__wasm_call_ctors", *(f"peel_{e}" for e in EXPORTS))),
        *(str(path) for path in objects),
        *("-o", str(target)),
    )
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size} bytes")


def make(name: str, command: list[str], newest: float) -> Path:
    """The object of a source, compiled where it is older than the newest of them."""
    made = OBJECTS / (name.replace("/", "_") + ".o")
    if not made.exists() or made.stat().st_mtime < newest:
        output = f"-femit-bin={made}" if command[0] == "build-obj" else f"-o{made}"
        run(*command, output)
    return made


def run(*arguments: str) -> None:
    """Runs zig, and ends this where it fails."""
    done = subprocess.run([ZIG, *arguments], check=False)
    if done.returncode:
        sys.exit(f"zig {arguments[0]} failed on {arguments[-2]}")


if __name__ == "__main__":
    main()
