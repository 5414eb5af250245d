"""Notes of the verbs on stderr, beside their results."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from peel_ext.train.narration import Narration

if TYPE_CHECKING:
    from peel_ext.train.trained_run import TrainedRun

__all__ = ["Narration", "note_target_kept", "suggest"]


def suggest(command: str, quiet: bool = False) -> None:
    """Says on a terminal what to do next; programs and files are not told."""
    if sys.stderr.isatty() and not quiet:
        print(f"next: {command}", file=sys.stderr)


def note_target_kept(trained: TrainedRun) -> None:
    """Says so where what is served was trained without a part of the interactions."""
    kept, known = len(trained.test.items), len(trained.train.items)
    if not kept:
        return
    settings, method = trained.folder.config["split"], trained.folder.stages["data"]["split"]
    asked_for = method in ("random", "time") and settings["target"] == "test"
    share = settings["test_share"] if asked_for else kept / (kept + known)
    print(
        f"peel: note: trained without the {100 * share:.2g}% kept for 'peel evaluate'; train with "
        "--test-share 0 to serve",
        file=sys.stderr,
    )
