"""Turns a run of the kernel benchmarks into rows for ``bench/results`` and one table of ratios."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from measurement import LIMIT, OURS

Row = dict[str, Any]

TARGETS = json.loads((Path(__file__).parent / "targets.json").read_text())
PACKAGES = (
    "peel_ext", "torch", "numpy", "faiss-cpu", "fbgemm-gpu-cpu", "implicit", "usearch",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--append", type=Path, help="JSON lines file to add the rows to")
    options = parser.parse_args()
    run = json.loads(options.run.read_text())
    rows = rows_of(run)
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**row, **origin(run)}) + "\n" for row in rows)
    print_table(rows, run)


def origin(run: dict[str, Any]) -> Row:
    """Where and from what the rows of a run come."""
    machine = run["machine_info"]
    commit = run["commit_info"]
    return {
        "date": run["datetime"][:10],
        "commit": str(commit.get("id"))[:10] + ("-dirty" if commit.get("dirty") else ""),
        "machine": {
            "processor": machine["cpu"].get("brand_raw", machine["processor"]),
            "cores": machine["usable_cores"],
            "caches": machine["caches"],
            "isa": machine["isa"],
            "blas": machine["blas"],
        },
        "versions": {"python": machine["python_version"], **versions()},
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def rows_of(run: dict[str, Any]) -> list[Row]:
    """One row a measurement, in seconds, with its ratios to the limit and to ours."""
    rows = []
    for measured in run["benchmarks"]:
        stats = measured["stats"]
        times = {name: float(f"{stats[name]:.4g}") for name in ("median", "iqr", "min")}
        rows.append({**measured["extra_info"], **times, "rounds": stats["rounds"]})
    for group in groups_of(rows).values():
        limit, ours = group.get(LIMIT), group.get(OURS)
        for row in group.values():
            row["limit"] = limit and limit["median"]
            row["to_ours"] = 1.0 if row is ours else row.get("to_ours")
            both = row["to_ours"] and limit and limit.get("to_ours")
            row["to_limit"] = float(f"{row['to_ours'] / limit['to_ours']:.4g}") if both else None
    return rows


def groups_of(rows: list[Row]) -> dict[tuple[str, str, int], dict[str, Row]]:
    """Rows by (kernel, case, threads) and contender."""
    groups: dict[tuple[str, str, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        groups[row["kernel"], row["case"], row["threads"]][row["contender"]] = row
    return groups


def value_against(target: Row, ours: Row, groups: dict[Any, dict[str, Row]]) -> float | None:
    """What a target is about, of one of our rows; None where it was not measured."""
    against = target["against"]
    if against == LIMIT:
        return ours["to_limit"]
    if against == "ns a row":
        return 1e9 * ours["median"] / ours["shape"][1]
    if against == "time a byte at 100%":
        whole = re.sub(r"\d+%", "100%", ours["case"])
        full = groups.get((ours["kernel"], whole, ours["threads"]), {}).get(OURS)
        return full and (ours["median"] / ours["bytes"]) / (full["median"] / full["bytes"])
    peer = groups[ours["kernel"], ours["case"], ours["threads"]].get(against)
    return peer and peer["to_ours"]


def targets_of(key: tuple[str, str, int]) -> list[Row]:
    kernel, case, threads = key
    return [
        target
        for target in TARGETS
        if target["kernel"] == kernel
        and re.fullmatch(target["case"], case)
        and target.get("threads", threads) == threads
    ]


def verdict(target: Row, value: float) -> tuple[bool, str]:
    if "at_most" in target:
        return value <= target["at_most"], f"<= {target['at_most']}"
    return value >= target["at_least"], f">= {target['at_least']}"


def print_table(rows: list[Row], run: dict[str, Any]) -> None:
    """Peers as multiples of our time, ours as a multiple of the limit, and what was wanted."""
    where = origin(run)
    print(f"\n{where['machine']['processor']}, {where['machine']['cores']} cores, commit "
          f"{where['commit']}, {where['machine']['isa']}")  # fmt: skip
    print(f"caches {where['machine']['caches']}, blas {where['machine']['blas']}")
    groups = groups_of(rows)
    met: list[bool] = []
    unmeasured = list(TARGETS)
    kernel = None
    for key, group in groups.items():
        if key[0] != kernel:
            kernel = key[0]
            print(f"\n{kernel:46} {'threads':>7} {'ours':>9} {'x limit':>8}  peers, x our time")
        ours = group.get(OURS)
        time = duration(ours["median"]) if ours else "-"
        to_limit = f"{ours['to_limit']:.2f}" if ours and ours["to_limit"] else "-"
        peers = [
            f"{name} {row['to_ours']:.2f}"
            if row["to_ours"]
            else f"{name} {duration(row['median'])}"
            for name, row in group.items()
            if name not in (OURS, LIMIT)
        ]
        print(f"{key[1]:46} {key[2]:7} {time:>9} {to_limit:>8}  {', '.join(peers)}")
        for target in targets_of(key) if ours else ():
            value = value_against(target, ours, groups)
            if value is not None:
                good, wanted = verdict(target, value)
                met.append(good)
                unmeasured = [other for other in unmeasured if other is not target]
                word = "met" if good else "MISSED"
                print(f"{'':4}{target['against']}: {value:.2f}, wanted {wanted}: {word}")
    for target in unmeasured:
        print(f"not measured: {target['kernel']}, {target['case']}, against {target['against']}")
    print(f"\n{sum(met)} of {len(met)} targets met")


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


if __name__ == "__main__":
    main()
