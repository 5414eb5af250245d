"""Writes the device library as two files, for apps that build it themselves: peel.h and peel.cpp.

peel.cpp is one translation unit of C++17 for GCC and Clang, on any system the library runs on. On x86-64
it holds every instruction set, each compiled for itself whatever the flags, and picks one as it starts;
on 64-bit ARM it holds NEON. What trains is left out.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections import Counter
from pathlib import Path

CSRC = Path(__file__).parent
#: Kernels that a device does not call.
TRAINING = {"topk_blocks", "update_rows"}
#: Instruction sets that a compiler is told of for one part of the file, as CMakeLists.txt does by flags.
AVX512 = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"
TARGETS = {
    "avx2": "avx2,fma,f16c",
    "avx512": AVX512,
    "avx512_vnni": f"{AVX512},avx512vnni,avx512vbmi,gfni",
}

HEAD = """\
// The device library of peel_ext {version} in one file, made by csrc/amalgamate.py: do not edit.
// C++17, Clang or GCC; under GCC scores have the bits of other builds with -ffp-contract=off.
#define _FILE_OFFSET_BITS 64
#pragma GCC diagnostic ignored "-Wpsabi"  // no vector crosses a boundary
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wuninitialized"  // as GCC 12 says of its own header
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Waggressive-loop-optimizations"
#endif
#if defined(__x86_64__)
#define PEEL_X86 1
#elif defined(__aarch64__)
#define PEEL_ARM64 1
#endif
"""

#: Around the code of one instruction set.
REGION = """\
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("{target}"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("{target}")
#endif
{code}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
"""


def sources() -> list[Path]:
    """The translation units of a device, in the order of the build."""
    recipe = (CSRC.parent / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(r"add_library\(peel_core STATIC(.*?)\)", recipe, re.DOTALL)
    if listed is None:
        raise ValueError("CMakeLists.txt has no add_library(peel_core STATIC ...)")
    units = [CSRC.parent / name for name in listed[1].split()]
    units = [unit for unit in units if unit.stem not in TRAINING and unit.stem != "portable"]
    return units + [CSRC / "simd" / f"{name}.cpp" for name in ("portable", "neon", *TARGETS)]


class Amalgamation:
    """What has been put together so far."""

    def __init__(self) -> None:
        self._included: set[Path] = set()

    def expand(self, path: Path) -> str:
        """The text of a file with those of ours that it includes; a header with a guard comes once."""
        text = path.read_text(encoding="utf-8")
        if "#pragma once" in text or path.name == "peel.h":
            if path in self._included:
                return ""
            self._included.add(path)
        if path.name == "peel.h":
            return '#include "peel.h"\n'
        text = text.replace("#pragma once\n", "")
        return re.sub(
            r'^#include "([^"]+)"$',
            lambda line: self.expand(CSRC / line[1]),
            text,
            flags=re.MULTILINE,
        )

    def instruction_set(self, path: Path) -> str:
        """One of several units that give their functions the same names: they get a namespace."""
        text = self.expand(path)
        name = path.stem
        head, body = text.split("namespace peel::simd {\nnamespace {\n", 1)
        body, tail = body.split("}  // namespace\n\nextern const Primitives ", 1)
        primitives, after = tail.split("}  // namespace peel::simd")[0].split(";\n", 1)
        variable, value = primitives.split(" = ")
        body += f"constexpr Primitives kAll = {value};\n"
        code = (
            f"namespace {{\nnamespace {name} {{\n{body}}}  // namespace {name}\n}}  // namespace\n"
        )
        if name in TARGETS:
            code = REGION.format(target=TARGETS[name], code=code)
        defined = dict.fromkeys(re.findall(r"^#define (\w+)", code, re.MULTILINE))
        undo = "".join(f"#undef {macro}\n" for macro in defined)
        code = (
            f"{head}namespace peel::simd {{\n{code}"
            f"extern const Primitives {variable} = {name}::kAll;\n{after}}}  // namespace peel::simd\n"
            f"{undo}"
        )
        if name == "portable":
            return code
        return f"#if defined({'PEEL_X86' if name in TARGETS else 'PEEL_ARM64'})\n{code}#endif\n"


def own_names(text: str) -> set[str]:
    """Names that a unit has for itself: those in its namespaces without a name."""
    inside = re.findall(r"^namespace \{\n(.*?)^\}  // namespace$", text, re.DOTALL | re.MULTILINE)
    beginning = (
        r"^(?:\[\[noreturn\]\] )?(?!using|static_assert)"
        r"\w[\w:<>*&, \[\]]*?\b(\w+)(?: = |\(|\{| \{|;)"
    )
    return {name for part in inside for name in re.findall(beginning, part, re.MULTILINE)}


def main(folder: Path) -> None:
    """Writes both files."""
    units = sources()
    owners = Counter(
        name
        for unit in units
        if unit.stem == "dispatch" or unit.parent.name != "simd"
        for name in own_names(unit.read_text(encoding="utf-8"))
    )
    amalgamation = Amalgamation()
    header = (CSRC / "device" / "peel.h").read_text(encoding="utf-8")
    version = re.findall(r'^#define PEEL_VERSION "(.*)"$', header, re.MULTILINE)[0]
    parts = [HEAD.format(version=version)]
    for unit in units:
        parts.append(f"\n// ======== {unit.relative_to(CSRC)} ========\n")
        if unit.parent.name == "simd" and unit.stem != "dispatch":
            parts.append(amalgamation.instruction_set(unit))
            continue
        text = amalgamation.expand(unit)
        # A name that two units have becomes another in each; headers come before it does.
        for name in sorted(own_names(unit.read_text(encoding="utf-8"))):
            if owners[name] > 1:
                begin = text.index("namespace {\n")
                text = text[:begin] + re.sub(rf"\b{name}\b", f"{name}_of_{unit.stem}", text[begin:])
        parts.append(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peel.cpp").write_text("".join(parts), encoding="utf-8")
    shutil.copyfile(CSRC / "device" / "peel.h", folder / "peel.h")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    main(parser.parse_args().folder)
