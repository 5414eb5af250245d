"""An evaluation in parts, by processes that know nothing of each other, and the figures of all parts."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import RunError
from peel_ext.evaluation.ranking import RankedLists
from peel_ext.evaluation.sharing import Sharing
from peel_ext.format.file import write_atomically
from peel_ext.train.trained_run import TrainedRun

_SETTINGS = "settings"


class OneShard(Sharing):
    """The users of one part. Lists are kept for :meth:`save`; those of other parts are empty.

    Args:
        index: the number of the part, from 1.
        count: the number of all parts.
    """

    def __init__(self, index: int, count: int) -> None:
        super().__init__()
        self._rank, self._size = index - 1, count
        self._kept: dict[str, NDArray[Any]] = {}

    def join(self, lists: RankedLists, parts: list[NDArray[np.int64]]) -> RankedLists:
        """Keeps the lists of this part."""
        at = len(self._kept) // 2
        self._kept[f"lists_{at}"] = lists.indices[self.own(parts)].astype(np.int32)
        self._kept[f"counts_{at}"] = np.array([lists.max_bytes, lists.num_rows, lists.num_users])
        return lists

    def save(self, run: TrainedRun, settings: dict[str, Any]) -> Path:
        """Writes what was kept into the run folder; where it is. At any moment it is there whole, or not.

        Args:
            run: the run that was measured.
            settings: those of the evaluation, which all parts must have alike.

        Raises:
            OSError: it cannot be written.
        """
        path = shard_path(run, settings["protocol"], self._rank + 1, self._size)
        told = json.dumps(_facts(run, settings)).encode()
        content = io.BytesIO()
        np.savez(content, **{_SETTINGS: np.frombuffer(told, np.uint8)}, **self._kept)  # type: ignore[arg-type]
        write_atomically(path, content.getvalue())
        return path


class AllShards(Sharing):
    """The lists that all parts have kept, in place of ranking.

    Args:
        run: the run that was measured.
        settings: those of the evaluation.
        count: the number of all parts.

    Raises:
        RunError: a part that is not there, or was measured with other settings or on another run.
    """

    def __init__(self, run: TrainedRun, settings: dict[str, Any], count: int) -> None:
        super().__init__()
        self._size, self._at = count, 0
        self._parts = [
            _load(shard_path(run, settings["protocol"], index, count), _facts(run, settings))
            for index in range(1, count + 1)
        ]

    def own(self, parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Nobody: all lists are there."""
        return np.zeros(0, dtype=np.int64)

    def join(self, lists: RankedLists, parts: list[NDArray[np.int64]]) -> RankedLists:
        """The lists of all users."""
        indices = np.full_like(lists.indices, -1)
        indices[np.concatenate(parts)] = np.concatenate(
            [kept[f"lists_{self._at}"] for kept in self._parts]
        )
        counts = np.stack([kept[f"counts_{self._at}"] for kept in self._parts])
        self._at += 1
        return RankedLists(
            indices, int(counts[:, 0].max()), int(counts[:, 1].sum()), int(counts[:, 2].sum())
        )


def shard_path(run: TrainedRun, protocol: str, index: int, count: int) -> Path:
    """The place of a part of an evaluation."""
    return run.folder.path / f"evaluation-{protocol}-{index}-of-{count}.npz"


def _facts(run: TrainedRun, settings: dict[str, Any]) -> dict[str, Any]:
    stages = {name: facts["sha256"] for name, facts in run.folder.stages.items()}
    return {**settings, "stages": stages}


def _load(path: Path, expected: dict[str, Any]) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        told = json.loads(kept.pop(_SETTINGS).tobytes())
    except FileNotFoundError:
        raise RunError(f"{path}: this part has not been measured: use --shard") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise RunError(f"{path}: not the part of an evaluation that was written") from None
    for name, value in expected.items():
        if told.get(name) != value:
            shown = "the run" if name == "stages" else f"{name} {told.get(name)}, now {value}"
            raise RunError(f"{path}: measured with another setting: {shown}")
    return kept
