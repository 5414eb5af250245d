"""Quality per byte under some protocols, over several seeds: rows for ``bench/results``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import peel_ext
from peel_ext.cli.arguments import parse_budgets
from peel_ext.config import PretrainingConfig
from peel_ext.evaluation import PROTOCOLS, Evaluation, Measurement, evaluate_run
from peel_ext.evaluation.curves import rival_inputs
from peel_ext.evaluation.plan import Ship
from peel_ext.evaluation.rivals import Rival, build_rivals
from peel_ext.evaluation.rivals.dimensions import TrainedDimensions
from peel_ext.evaluation.summary import summarise
from peel_ext.metrics import paired_bootstrap
from peel_ext.train.pipeline import TrainedRun
from peel_ext.train.pretraining import pretrain

BUDGETS = "10%,5%,2.5%,1%,0.5%,0.25%,0.1%"
NEW_USER_SHARE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="file or folder of interactions")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        nargs="+",
        default=["known"],
        help="those that train alike share one training a seed",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it")
    parser.add_argument("--runs", type=Path, help="folder of trained runs: made, or gone on from")
    parser.add_argument("--budgets", default=BUDGETS, help="as of 'peel evaluate'")
    parser.add_argument("--target", choices=("test", "validation"), default="test")
    parser.add_argument("--rivals", action="store_true", help="as of 'peel evaluate'")
    parser.add_argument(
        "--family", help="of the rivals only those whose family begins so, as 'column blocks'"
    )
    parser.add_argument(
        "--retrain", action="store_true", help="train models of fewer dimensions as a rival too"
    )
    parser.add_argument(
        "--append", type=Path, help="JSON lines file to add one row per protocol and seed to"
    )
    options = parser.parse_args()
    if options.family and (options.rivals or options.retrain):
        parser.error("--family chooses among the rivals: give it without --rivals and --retrain")
    measured: dict[str, list[tuple[Evaluation, dict[str, Any]]]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arguments, protocols in trainings(options.protocol).items():
            for evaluation, row in measure(options, seed, arguments, protocols):
                measured.setdefault(evaluation.protocol, []).append((evaluation, row))
                if options.append:  # what was measured stays if a later one fails
                    with options.append.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    for pairs in measured.values():
        evaluations, rows = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        print_curve(rows)
        if options.rivals or options.family or options.retrain:
            print_rivals(rows, evaluations)


def trainings(protocols: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """The protocols by what they ask of training."""
    new_users, by_time = ("--new-user-share", str(NEW_USER_SHARE)), ("--split", "time")
    asked = {"new": new_users, "offline": new_users, "time": by_time}
    found: dict[tuple[str, ...], list[str]] = {}
    for protocol in dict.fromkeys(protocols):
        found.setdefault(asked.get(protocol, ()), []).append(protocol)
    return found


def measure(
    options: argparse.Namespace, seed: int, arguments: Sequence[str], protocols: Sequence[str]
) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    """Trains once as a user would, and evaluates under each protocol."""
    with tempfile.TemporaryDirectory() as folder:
        name = "-".join(["seed", str(seed), *(part.strip("-") for part in arguments)])
        out = Path(options.runs or folder) / name
        command = [sys.executable, "-P", "-m", "peel_ext.cli.main", "train", options.data]
        command += ["--out", out, "--seed", seed, "--target", options.target, *arguments]
        trained_before = out.exists()
        began = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        # The largest of the children so far, so of this training or an earlier one.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        run = TrainedRun.open(out)
        names = {
            budget.resolve(run.full_bytes): budget.text for budget in parse_budgets(options.budgets)
        }
        more_rivals = smaller_models(run) if options.retrain else None
        if options.family:
            more_rivals = functools.partial(family_of, run, options.family)
        for protocol in protocols:
            evaluation = evaluate_run(
                run,
                protocol,
                list(names),
                with_blends=True,
                with_rivals=options.rivals,
                more_rivals=more_rivals,
            )
            row = {
                "data": options.data.name,
                **summarise(run, evaluation, names),
                "train_wall_seconds": None if trained_before else round(wall, 1),
                "train_peak_bytes": None if trained_before else peak,
                **circumstances(),
            }
            yield evaluation, row


def family_of(run: TrainedRun, family: str, _: Ship) -> Sequence[Rival]:
    rivals, _left_out = build_rivals(*rival_inputs(run))
    chosen = [rival for rival in rivals if rival.family.startswith(family)]
    if not chosen:
        names = ", ".join(dict.fromkeys(rival.family for rival in rivals))
        raise SystemExit(f"--family is {family!r}, expected the beginning of one of {names}")
    return chosen


def smaller_models(run: TrainedRun) -> Callable[[Ship], Sequence[Rival]]:
    """Makes models of the same kind with fewer dimensions, each trained once for all protocols."""
    dim = run.item_vectors.shape[1]
    settings = PretrainingConfig(
        **run.folder.config["pretraining"] | {"temperature": run.temperature, "embedding_dim": dim}
    )
    prior = run.item_vectors.sum(axis=1) / dim**0.5 * run.prior

    @functools.cache
    def train(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        small = dataclasses.replace(settings, embedding_dim=dim)
        made = pretrain(run.train, len(run.items), small, prior=prior)
        return made.users, made.items

    def rivals(ship: Ship) -> Sequence[Rival]:
        @functools.cache
        def shipped(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            users, items = train(dim)
            return ship(users, items), items

        return [TrainedDimensions(shipped, len(run.items), dim, bits) for bits in (32, 8, 4)]

    return rivals


def circumstances() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "versions": {
            "peel_ext": peel_ext.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def commit() -> str:
    """The commit of what is measured, with a mark if the sources differ from it."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "csrc", "peel_ext", "CMakeLists.txt")
    return git("rev-parse", "--short=10", "HEAD") + ("-dirty" if changed else "")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_curve(rows: list[dict[str, Any]]) -> None:
    """Means over the seeds, and the distance of the farthest seed from them."""
    first = rows[0]
    print(f"{first['data']}, {first['protocol']} users: {len(rows)} seeds, target "
          f"{first['target']}, {training(rows)}")  # fmt: skip
    has_gap = first["floor"] is not None
    gap = " of the gap |" if has_gap else ""
    print(f"| method | budget | bytes held | Recall@20 | NDCG@20 | of full |{gap}")
    print(f"|---|---|---|---|---|---|{'---|' if has_gap else ''}")
    parts = [[*row["rows"], *([row["floor"]] if has_gap else []), *row["others"]] for row in rows]
    full = np.mean([part[0]["recall"] for part in parts])
    for lines in zip(*parts, strict=True):
        cells = [lines[0]["method"], lines[0]["budget"]]
        cells.append(f"{max(line['max_bytes'] for line in lines):,}")
        cells += [spread([line[name] for line in lines]) for name in ("recall", "ndcg")]
        cells.append(f"{np.mean([line['recall'] for line in lines]) / full:.1%}")
        if has_gap:
            gaps = [line["gap_recovered"] for line in lines if line["gap_recovered"] is not None]
            cells.append(f"{np.mean(gaps):.1%}" if gaps else "-")
        print(f"| {' | '.join(cells)} |")


def training(rows: list[dict[str, Any]]) -> str:
    """What training took at most, of the runs that were made and not found."""
    timed = [row for row in rows if row["train_wall_seconds"] is not None]
    if not timed:
        return "trained before"
    wall = max(row["train_wall_seconds"] for row in timed)
    peak = max(row["train_peak_bytes"] for row in timed)
    return f"training took up to {wall:.0f} s and {peak / 1e9:.1f} GB"


def spread(values: list[float]) -> str:
    mean = np.mean(values)
    return f"{mean:.4f} ± {np.abs(np.array(values) - mean).max():.4f}"


def print_rivals(rows: list[dict[str, Any]], evaluations: list[Evaluation]) -> None:
    """Each rival that all seeds measured, in the variants they chose, and our lead on it."""
    print("\n| budget | rival | variants | bytes held | Recall@20 | lead, 95% interval |")
    print("|---|---|---|---|---|---|")
    for ours in zip(*(evaluation.curve for evaluation in evaluations), strict=True):
        budget = ours[0].budget_bytes
        name = next(row["budget"] for row in rows[0]["rows"] if row["budget_bytes"] == budget)
        found: dict[str, list[Measurement]] = {}
        for evaluation in evaluations:
            for rival in evaluation.best_rivals(budget):
                found.setdefault(rival.method, []).append(rival)
        for method, seeds in found.items():
            if len(seeds) < len(evaluations):
                continue
            variants = " / ".join(dict.fromkeys(each.variant for each in seeds))
            lead = paired_bootstrap(*(of_users(each, rows[0]) for each in (ours, seeds)))
            whose = "" if seeds[0].per_group else " (one table for all)"
            print(f"| {name} | {method}{whose} | {variants} | "
                  f"{max(each.max_bytes for each in seeds):,} | "
                  f"{spread([float(each.users.recall.mean()) for each in seeds])} | "
                  f"{lead.mean:+.4f} ({lead.low:+.4f} to {lead.high:+.4f}) |")  # fmt: skip


def of_users(seeds: Sequence[Measurement], row: dict[str, Any]) -> NDArray[np.float64]:
    """Recalls to draw users from: each once, with the mean over the seeds, where all have the same."""
    recalls = [each.users.recall for each in seeds]
    same = row["protocol"] == "known" and row["split"] == "given"
    return np.mean(recalls, axis=0) if same else np.concatenate(recalls)


if __name__ == "__main__":
    main()
