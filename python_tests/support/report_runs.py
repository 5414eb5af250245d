"""Small runs to report on: their settings, evaluations, and names of items nobody would like."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peel_ext.config import ClusteringConfig, PipelineConfig, PretrainingConfig
from peel_ext.evaluation import BLENDED_PROTOCOLS, evaluate_run
from peel_ext.evaluation.record import keep_evaluation
from peel_ext.evaluation.summary import summarise
from peel_ext.train.pipeline import TrainedRun

QUICK = PipelineConfig(
    pretraining=PretrainingConfig(
        embedding_dim=16, epochs=2, steps_per_epoch=4, temperature=0.1, prior=(0.1,)
    ),
    clustering=ClusteringConfig(num_groups=3),
)

HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)//",
    "quotes \" and ' and `",
    "x" * 5000,
    "שלום עולם",
    "\u202eright to left\u202c",
    "{{ 7 * 7 }} {% raw %}",
    "line\nbreak\tand\x07bell",
    "🙂" * 50,
)


def write_names(path: Path, items: Sequence[int | str]) -> Path:
    """Writes a file with one of the hostile names for every item."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["item_id", "title"])
        for at, item in enumerate(items):
            lines.writerow([item, HOSTILE_NAMES[at % len(HOSTILE_NAMES)]])
    return path


def keep_evaluations(
    folder: Path, *protocols: str, rivals: bool = True
) -> dict[str, dict[str, Any]]:
    """Measures a run under some protocols, with blends, as ``peel evaluate`` does."""
    run = TrainedRun.open(folder)
    names = {int(run.full_bytes * share): f"{share:.0%}" for share in (0.1, 0.05)}
    found = {}
    for protocol in protocols:
        blends = protocol in BLENDED_PROTOCOLS
        evaluation = evaluate_run(
            run, protocol, list(names), n=10, with_rivals=rivals, with_blends=blends
        )
        found[protocol] = summarise(run, evaluation, names)
        keep_evaluation(run, found[protocol])
    return found
