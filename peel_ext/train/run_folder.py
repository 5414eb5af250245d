"""The folder of a run: one JSON of settings and finished stages, one safetensors file per stage.

The JSON also has the digest of every other file, so that a damaged one is not taken for whole. Every
file is written to a temporary name, flushed to disk and renamed, and a stage counts as finished only
once the JSON says so, after its tensors are in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from peel_ext.errors import RunError

FORMAT_VERSION = 2
_INDEX = "run.json"
_PARTS = {"config": dict, "data": str, "stages": dict, "documents": dict}


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that at any moment the old or the new one is there, whole.

    Raises:
        RunError: it cannot be written; the old one, if any, is still there.
    """
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_and_rename(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def fingerprint(arrays: Mapping[str, NDArray[Any]]) -> str:
    """A digest of named arrays, their shapes and dtypes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class RunFolder:
    """Reads and writes the folder of one run.

    Args:
        path: the folder.

    Raises:
        RunError: there is an index, but not one of this version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._index: dict[str, Any] = {}
        if not (self.path / _INDEX).exists():
            return
        try:
            self._index = json.loads((self.path / _INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / _INDEX}: not readable: {error}") from error
        found = self._index.get("format") if isinstance(self._index, dict) else None
        if found != FORMAT_VERSION:
            raise RunError(
                f"{self.path / _INDEX}: expected a run of format {FORMAT_VERSION}, got {found!r}"
            )
        for name, kind in _PARTS.items():
            if not isinstance(self._index.get(name), kind):
                raise RunError(
                    f"{self.path / _INDEX}: {name} must be a {kind.__name__}, "
                    f"got {self._index.get(name)!r}"
                )

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return bool(self._index)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings of the run."""
        return dict(self._index["config"]) if self.exists else {}

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What is known of each finished stage, in order; with the digest of its file."""
        return dict(self._index["stages"]) if self.exists else {}

    def begin(self, config: Mapping[str, Any], data_fingerprint: str) -> None:
        """Starts a run, or goes on with the one that is here.

        Raises:
            RunError: the run here has other settings or other data.
        """
        if self.exists:
            before = self.config
            changed = sorted(
                key for key in {*before, *config} if before.get(key) != config.get(key)
            )
            if changed:
                raise RunError(
                    f"{self.path} holds a run with other settings ({', '.join(changed)}): choose "
                    "another folder, or remove this one"
                )
            if self._index.get("data") != data_fingerprint:
                raise RunError(
                    f"{self.path} holds a run on other data: choose another folder, or remove "
                    "this one"
                )
            for left in self.path.glob(".*.tmp"):  # by a process killed while it wrote
                with contextlib.suppress(OSError):
                    left.unlink()
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made: {error.strerror}") from error
        self._index = {
            "format": FORMAT_VERSION,
            "config": dict(config),
            "data": data_fingerprint,
            "stages": {},
            "documents": {},
        }
        self._write_index()

    def finish(
        self, stage: str, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Saves a stage's tensors, then marks it finished with some facts about it."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        data = save(contiguous)
        write_atomically(self.path / f"{stage}.safetensors", data)
        self._index["stages"][stage] = {**facts, "sha256": hashlib.sha256(data).hexdigest()}
        self._write_index()

    def load(self, stage: str) -> dict[str, NDArray[Any]]:
        """The tensors of a finished stage.

        Raises:
            RunError: no run here, the stage is not finished, or its file is not the one written.
        """
        if not self.exists:
            raise RunError(f"{self.path} holds no run: expected a folder made by 'peel train'")
        if stage not in self.stages:
            raise RunError(
                f"{self.path}: stage '{stage}' is not finished: run 'peel train' again to go on"
            )
        digest = self.stages[stage].get("sha256")
        return dict(load(self._read_whole(f"{stage}.safetensors", digest)))

    def write_document(self, name: str, value: Any) -> None:
        """Saves a JSON document beside the stages; it counts once the next stage is finished."""
        data = _as_json(value)
        write_atomically(self.path / name, data)
        self._index["documents"][name] = hashlib.sha256(data).hexdigest()

    def read_document(self, name: str) -> Any:
        """A JSON document beside the stages.

        Raises:
            RunError: it is not there, or not the one written.
        """
        digest = self._index.get("documents", {}).get(name)
        return json.loads(self._read_whole(name, digest))

    def _read_whole(self, name: str, digest: str | None) -> bytes:
        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: not readable: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise RunError(f"{path}: damaged: its contents are not what 'peel train' wrote")
        return data

    def _write_index(self) -> None:
        write_atomically(self.path / _INDEX, _as_json(self._index))


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
