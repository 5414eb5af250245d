"""Losses, times and settings of the stages of a run, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.train.run_folder import RunFolder
from peel_ext.train.stages import STAGES

#: Points of a curve, at most.
_POINTS = 300


@dataclass(frozen=True)
class LossCurve:
    """The losses of a stage, in nats.

    Attributes:
        stage: its name.
        of_what: name of what each loss is of.
        steps: int [m], ascending, from 1; the last of each run of steps that was averaged.
        losses: [m].
        is_finished: whether the stage is.
    """

    stage: str
    of_what: str
    steps: list[int]
    losses: list[float]
    is_finished: bool


@dataclass(frozen=True)
class StageFacts:
    """A stage of a run.

    Attributes:
        name: name of the stage.
        seconds: it took; None: not finished.
        facts: what it says of itself.
    """

    name: str
    seconds: float | None
    facts: dict[str, Any]


def read_stages(folder: RunFolder) -> list[StageFacts]:
    """All stages that a run has, in order."""
    found = []
    for stage in STAGES:
        facts = dict(folder.stages.get(stage.name, {}))
        for hidden in ("sha256", "versions"):
            facts.pop(hidden, None)
        found.append(StageFacts(stage.name, facts.pop("seconds", None), facts))
    return found


def read_versions(folder: RunFolder) -> dict[str, str]:
    """The versions of what the stages were computed with; several where they differ."""
    found: dict[str, list[str]] = {}
    for facts in folder.stages.values():
        for name, version in facts.get("versions", {}).items():
            found.setdefault(name, []).append(version)
    return {name: ", ".join(dict.fromkeys(versions)) for name, versions in found.items()}


def read_curves(folder: RunFolder) -> list[LossCurve]:
    """The losses of every stage that has some; of one under way up to its last checkpoint.

    Raises:
        RunError: a file that is not the one written.
    """
    curves = []
    for stage, of_what in (
        ("pretraining", "loss of a batch"),
        ("refinement", "mean loss of the user groups"),
        ("block_weights", "loss of held-out interactions"),
    ):
        is_finished = stage in folder.stages
        state = folder.load(stage) if is_finished else folder.checkpoint(stage).load()
        losses = (state or {}).get("losses")
        if losses is None or not losses.size:
            continue
        if losses.ndim == 2:  # of every group
            losses = losses[~np.isnan(losses).all(axis=1)]
            losses = np.nanmean(losses, axis=0) if len(losses) else losses.reshape(-1)
        steps, means = _thin(losses[~np.isnan(losses)])
        if steps:
            curves.append(LossCurve(stage, of_what, steps, means, is_finished))
    return curves


def _thin(losses: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """At most 300 steps and losses: means of runs of steps."""
    parts = np.array_split(losses, min(_POINTS, len(losses))) if len(losses) else []
    ends = np.cumsum([len(part) for part in parts])
    return ends.tolist(), [round(float(part.mean()), 5) for part in parts]
