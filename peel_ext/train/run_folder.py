"""The folder of a run: one JSON of settings and finished stages, one safetensors file per stage.

The JSON also has the digest of every other file, and of itself, so that a damaged one is not taken for
whole. Every file is written to a temporary name, flushed to disk and renamed, and a stage counts as
finished only once the JSON says so, after its tensors are in place. A long stage keeps its state in a
checkpoint, with its own digest, until it is finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file

from peel_ext.errors import RunError
from peel_ext.train.run_files import (
    DIGEST,
    StageCheckpoint,
    digest_of,
    write_atomically,
    write_tensors,
)

FORMAT_VERSION = 4
_INDEX = "run.json"


def shared_checkpoint(path: Path, stage: str) -> Path:
    """The folder, in a run folder, where several processes keep the state of a stage under way."""
    return path / f"{stage}.checkpoint"


class RunFolder:
    """Reads and writes the folder of one run.

    Args:
        path: the folder.

    Raises:
        RunError: there is an index, but not one of this version, or not the one written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._index: dict[str, Any] = {}
        if not (self.path / _INDEX).exists():
            return
        try:
            self._index = json.loads((self.path / _INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.path / _INDEX}: not readable: {error}") from error
        found = self._index.get("format") if isinstance(self._index, dict) else None
        if found != FORMAT_VERSION:
            raise RunError(
                f"{self.path / _INDEX}: expected a run of format {FORMAT_VERSION}, got {found!r}"
            )
        digest = self._index.pop(DIGEST, None)
        if digest != _digest_of_index(self._index):
            raise RunError(_damaged(self.path / _INDEX))

    @property
    def exists(self) -> bool:
        """True if a run was begun here."""
        return bool(self._index)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings of the run."""
        return dict(self._index.get("config", {}))

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Facts about each finished stage, in order, and the digest of its file."""
        return dict(self._index.get("stages", {}))

    @property
    def documents(self) -> list[str]:
        """Names of the JSON documents beside the stages."""
        return list(self._index.get("documents", {}))

    def check_whole(self, last: str) -> None:
        """Checks what costs little: that the run is finished and all its files are there.

        Args:
            last: the last stage of the run.

        Raises:
            RunError: no run here, that stage is not finished, or a file cannot be opened.
        """
        self._check_finished(last)
        for name in (*(_file_of(stage) for stage in self.stages), *self.documents):
            try:
                (self.path / name).open("rb").close()
            except OSError as error:
                raise RunError(_unreadable(self.path / name, error)) from error

    def check_writable(self) -> None:
        """Checks that the folder is there and can be written, or can be made.

        Raises:
            RunError: it is not so.
        """
        nearest = self.path.absolute()
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            raise RunError(f"{self.path}: cannot be made: {nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RunError(f"{self.path}: cannot be written: no permission in {nearest}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the folder if need be, and keeps other processes from training in it.

        Raises:
            RunError: it cannot be made, or another process trains in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path}: another process is training here") from None
            yield
        finally:
            os.close(descriptor)

    def begin(
        self,
        config: Mapping[str, Any],
        data_fingerprint: str,
        depends: Mapping[str, Collection[str]],
        *,
        redo: bool = False,
    ) -> None:
        """Starts a run, or goes on with the one that is here.

        Args:
            config: the settings, by section; JSON values.
            data_fingerprint: fingerprint of the data.
            depends: the stages in order, and the sections each reads; a stage also depends on all
                before it.
            redo: whether to drop what other settings or data make invalid.

        Raises:
            RunError: stages that are finished or under way were made with other settings or data,
                and ``redo`` is not set; names them. Or the folder holds such files as a run has, but
                no run.
        """
        settings = json.loads(json.dumps(config))
        if self.exists:
            changed = _changes(self.config, settings)
            if self._index["data"] != data_fingerprint:
                # Another split has other parts of the same data, for all that is known.
                changed["data"] = changed.get("split", "other data")
            invalid = self._invalid_stages(changed, depends)
            if invalid and not redo:
                raise RunError(
                    f"{self.path} holds a run with other settings "
                    f"({', '.join(dict.fromkeys(changed.values()))}), which make "
                    f"{', '.join(invalid)} invalid: redo those (--redo, redo=True), choose another "
                    "folder, or remove this one"
                )
            self._drop(invalid)
        else:
            self._check_no_files()
            self._index = {"format": FORMAT_VERSION, "stages": {}, "documents": {}}
        if not self.stages or settings != self.config:
            self._index |= {"config": settings, "data": data_fingerprint}
            self._write_index()
        # By a process that was killed; the second is safetensors' name.
        for left_behind in (*self.path.glob(".*.tmp"), *self.path.glob(".tmp*")):
            with contextlib.suppress(OSError):
                left_behind.unlink()
        for stage in self.stages:
            self._remove_checkpoints(stage)

    def _check_no_files(self) -> None:
        """Somebody's own files could have the names of ours."""
        found = sorted(
            each.name for each in self.path.iterdir() if each.suffix in (".json", ".safetensors")
        )
        if found:
            raise RunError(
                f"{self.path}: expected a run, or no .json and .safetensors files, "
                f"found {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
            )

    def _invalid_stages(
        self, changed: Collection[str], depends: Mapping[str, Collection[str]]
    ) -> list[str]:
        """Finished stages and those under way from the first that reads what has changed."""
        names = list(depends)
        hit = [at for at, name in enumerate(names) if {*depends[name], "data"} & {*changed}]
        begun = [name for name in names if name in self.stages or self._has_checkpoint(name)]
        return [name for name in begun if hit and names.index(name) >= hit[0]]

    def _drop(self, stages: Collection[str]) -> None:
        # Checkpoints first: once the index has the new settings, an old one must not be resumed.
        for stage in stages:
            self._remove_checkpoints(stage)
        for stage in stages:
            self._index["stages"].pop(stage, None)
        if not self.stages:  # documents belong to the first stage, which writes those it has
            self._index["documents"] = {}

    def checkpoint(self, stage: str) -> StageCheckpoint:
        """The checkpoint of a stage under way."""
        return StageCheckpoint(self.path / f"{stage}.checkpoint.safetensors")

    def _has_checkpoint(self, stage: str) -> bool:
        return self.checkpoint(stage).path.exists() or shared_checkpoint(self.path, stage).exists()

    def _remove_checkpoints(self, stage: str) -> None:
        self.checkpoint(stage).remove()
        shutil.rmtree(shared_checkpoint(self.path, stage), ignore_errors=True)

    def finish(
        self, stage: str, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Saves a stage's tensors, then marks it finished with some facts about it."""
        digest = write_tensors(self.path / _file_of(stage), tensors)
        self._index["stages"][stage] = {**facts, DIGEST: digest}
        self._write_index()
        self._remove_checkpoints(stage)

    def load(self, stage: str) -> dict[str, NDArray[Any]]:
        """The tensors of a finished stage.

        Raises:
            RunError: no run here, the stage is not finished, or its file is not the one written.
        """
        self._check_finished(stage)
        path = self.path / _file_of(stage)
        try:
            if digest_of(path) != self.stages[stage].get(DIGEST):
                raise RunError(_damaged(path))
            return dict(load_file(path))
        except OSError as error:
            raise RunError(_unreadable(path, error)) from error

    def _check_finished(self, stage: str) -> None:
        if not self.exists:
            raise RunError(f"{self.path} holds no run: expected a folder made by 'peel train'")
        if stage not in self.stages:
            raise RunError(
                f"{self.path}: stage '{stage}' is not finished: run 'peel train' again to go on"
            )

    def write_document(self, name: str, value: Any) -> None:
        """Saves a JSON document beside the stages; it counts once the next stage is finished."""
        data = _as_json(value)
        write_atomically(self.path / name, data)
        self._index["documents"][name] = hashlib.sha256(data).hexdigest()

    def add_document(self, name: str, value: Any) -> None:
        """Saves a JSON document that counts at once."""
        self.write_document(name, value)
        self._write_index()

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
            raise RunError(_unreadable(path, error)) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise RunError(_damaged(path))
        return data

    def _write_index(self) -> None:
        index = {**self._index, DIGEST: _digest_of_index(self._index)}
        write_atomically(self.path / _INDEX, _as_json(index))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """For each section that differs, a line that says how."""
    changes = {}
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes[name] = ", ".join(
                f"{name}.{key} {new.get(key)!r} instead of {old.get(key)!r}"
                for key in sorted({*old, *new})
                if old.get(key) != new.get(key)
            )
        else:
            changes[name] = f"{name} {new!r} instead of {old!r}"
    return changes


def _file_of(stage: str) -> str:
    return f"{stage}.safetensors"


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: not readable: {error.strerror}"


def _damaged(path: Path) -> str:
    return (
        f"{path}: damaged: its contents are not what 'peel train' wrote; bring back the file, or "
        "remove the folder and train again"
    )


def _digest_of_index(index: Mapping[str, Any]) -> str:
    """The digest of all of an index but its own digest."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
