"""Evaluations kept in the run folder, the last of each protocol, for ``peel report``."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import peel_ext
from peel_ext.evaluation.plan import PROTOCOLS
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.trained_run import TrainedRun


@dataclass(frozen=True)
class KeptEvaluation:
    """An evaluation as it was kept.

    Attributes:
        summary: the figures, as of :func:`peel_ext.evaluation.summary.summarise`.
        version: version of this package, which measured them.
        measured_at: when, in UTC, as ``2026-11-29T12:00:00+00:00``.
        is_current: True if the run still is the one that was measured.
    """

    summary: dict[str, Any]
    version: str
    measured_at: str
    is_current: bool


def keep_evaluation(trained: TrainedRun, summary: dict[str, Any]) -> None:
    """Saves the figures of an evaluation in the run's folder, in place of the last of its protocol.

    Args:
        trained: the run that was measured.
        summary: result of :func:`peel_ext.evaluation.summary.summarise`.

    Raises:
        RunError: the folder cannot be written, or another process trains in it.
    """
    document = {
        "summary": summary,
        "version": peel_ext.__version__,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "stages": _digests(trained.folder),
    }
    with trained.folder.lock():  # what another process has added meanwhile stays in the index
        folder = RunFolder(trained.folder.path)
        folder.add_document(_file_of(summary["protocol"]), document)


def kept_evaluations(folder: RunFolder) -> list[KeptEvaluation]:
    """Those in a run folder, by protocol.

    Raises:
        RunError: a file that is not the one written.
    """
    found = []
    for protocol in PROTOCOLS:
        if _file_of(protocol) not in folder.documents:
            continue
        document = folder.read_document(_file_of(protocol))
        found.append(
            KeptEvaluation(
                document["summary"],
                document["version"],
                document["measured_at"],
                document["stages"] == _digests(folder),
            )
        )
    return found


def _file_of(protocol: str) -> str:
    return f"evaluation-{protocol}.json"


def _digests(folder: RunFolder) -> dict[str, str]:
    """The digest of what each stage has made."""
    return {name: facts["sha256"] for name, facts in folder.stages.items()}
