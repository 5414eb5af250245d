"""Trains and measures one part of the study."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import circumstances

from peel_ext.config import PipelineConfig
from peel_ext.evaluation import Evaluation, Measurement, evaluate_run
from peel_ext.evaluation.plan import BLENDED
from peel_ext.train.pipeline import SYNTHETIC, TrainedRun, run_pipeline
from study.parts import PARTS
from study.sources import SOURCES

#: Values of a row of the table that budgets are shares of.
_DIM = 64


@dataclass(frozen=True)
class Task:
    """One row of the study: a data set and its split, a protocol, a seed, and a part."""

    source: str
    protocol: str
    seed: int
    part: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What a row of it is known by."""
        return (*self.source.split("/"), self.protocol, self.seed, self.part)

    def base(self) -> Task | None:
        """The task whose run this one begins with."""
        base = PARTS[self.part].base
        return None if base is None else dataclasses.replace(self, part=base)

    def config(self) -> PipelineConfig:
        """All settings; every draw at random has the seed of the task."""
        part, base = PARTS[self.part], self.base()
        config = PipelineConfig() if base is None else base.config()
        config = config if part.change is None else part.change(config)
        split = SOURCES[self.source].split(self.protocol, self.seed)
        seeded = {
            each.name: dataclasses.replace(section, seed=self.seed)
            for each in dataclasses.fields(config)
            if hasattr(section := getattr(config, each.name), "seed")
        }
        return dataclasses.replace(config, **{**seeded, "split": split})

    def folder(self, runs: Path) -> Path:
        """Where its run lies; protocols that train alike share it."""
        new = "-new" if SOURCES[self.source].split(self.protocol, 0).new_user_share else ""
        return runs / f"{self.source.replace('/', '-')}{new}-{self.seed}" / self.part


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is known by."""
    return tuple(row[name] for name in ("data", "split", "protocol", "seed", "part"))


def measure(task: Task, data: Path, runs: Path) -> dict[str, Any]:
    """The row of a task.

    Args:
        task: what to train and measure.
        data: folder of the data sets.
        runs: folder of run folders; what is there is gone on from.
    """
    part, base = PARTS[task.part], task.base()
    if part.change is None and base is not None:
        run, trained = train(base, data, runs)[0], 0.0
    else:
        run, trained = train(task, data, runs)
    began = time.process_time()
    if part.table is not None:
        run.embedding = part.table(run)  # in the place of the one that would be read
    lines = _lines(evaluate(task, run), part.measures)
    evaluated = time.process_time() - began
    data_set, split = task.source.split("/")
    stages = run.folder.stages
    return {
        "data": data_set,
        "split": split,
        "protocol": task.protocol,
        "seed": task.seed,
        "part": task.part,
        "groups": len(run.centroids),
        "embedding_dim": run.item_vectors.shape[1],
        "temperature": run.temperature,
        "prior": stages["pretraining"].get("prior_weights", stages["tuning"].get("prior")),
        "table_bytes": len(run.items) * _DIM * 4,
        "lines": lines,
        "training_processor_seconds": None if trained is None else round(trained, 1),
        "evaluation_processor_seconds": round(evaluated, 1),
        **circumstances(),
    }


def train(task: Task, data: Path, runs: Path) -> tuple[TrainedRun, float | None]:
    """The run of a task, and the processor seconds that went into what its base has not.

    The seconds are None where an earlier process did part of it.
    """
    out, base, source = task.folder(runs), task.base(), SOURCES[task.source]
    begun_before = out.exists()
    if base is not None and not begun_before:
        _copy(train(base, data, runs)[0].folder.path, out)
    began = time.process_time()
    path = SYNTHETIC if source.path == SYNTHETIC else data / source.path
    run = run_pipeline(path, out, task.config(), redo=True, on_remark=lambda _: None)
    return run, None if begun_before else time.process_time() - began


def evaluate(task: Task, run: TrainedRun) -> Evaluation:
    """What a run is worth under the budgets that all its groups can be had under."""
    part = PARTS[task.part]
    budgets = budgets_of(SOURCES[task.source].shares, len(run.items))
    least = max(run.embedding.minimum_budget_bytes(group) for group in range(len(run.centroids)))
    return evaluate_run(
        run,
        task.protocol,
        [budget for budget in budgets if budget >= least],
        with_blends=part.measures == "blends",
        with_rivals=part.measures == "rivals",
    )


def budgets_of(shares: Sequence[float], num_items: int) -> list[int]:
    """Bytes, of shares of a table of 64 values a row in float32."""
    return [int(share * num_items * _DIM * 4) for share in shares]


def _lines(evaluation: Evaluation, measures: str) -> list[dict[str, Any]]:
    if measures == "rivals":
        chosen = evaluation.rivals
    elif measures == "blends":
        chosen = [each for each in evaluation.others if each.method == BLENDED]
    else:
        chosen = [evaluation.ceiling, *evaluation.curve]
    return [_line(evaluation, each) for each in chosen]


def _line(evaluation: Evaluation, measured: Measurement) -> dict[str, Any]:
    quality = measured.users.mean()
    line: dict[str, Any] = {
        "method": measured.method,
        "variant": measured.variant,
        "budget_bytes": measured.budget_bytes,
        "bytes": measured.max_bytes,
        "recall": round(quality.recall, 6),
        "ndcg": round(quality.ndcg, 6),
    }
    if evaluation.floor is not None:
        line["gap_recovered"] = evaluation.gap_recovered(measured)
    return line


def _copy(source: Path, out: Path) -> None:
    """Copies a folder so that an interruption leaves none."""
    beginning = out.with_name(f"{out.name}.copy")
    shutil.rmtree(beginning, ignore_errors=True)
    shutil.copytree(source, beginning)
    os.replace(beginning, out)
