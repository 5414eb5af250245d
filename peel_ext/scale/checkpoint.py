"""The state of a stage under way where several processes share it: each saves its own rows.

Tables go through ``torch.distributed.checkpoint`` into safetensors files, from which any number of ranks
reads its own rows again; what is the same on all ranks goes into one more. An index has the digest of
each file. It is written last, so that a state that was not saved whole is not there. None of the files is
a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from peel_ext.errors import RunError
from peel_ext.format import file as files
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition

_FORMAT = 1
_INDEX = "index.json"
_REST = "rest.safetensors"


class SharedCheckpoint:
    """A place for a state of which each rank has its own rows.

    All ranks call each method at the same time. What is in parts is told by its name, up to a first dot.

    Args:
        path: path of a folder, on a file system that all ranks share.
        partitions: partitions of the tables in parts, by name; all else is the same on every rank.
        ranks: the processes.
    """

    def __init__(self, path: Path, partitions: Mapping[str, Partition], ranks: Collectives) -> None:
        self.path, self._partitions, self._ranks = path, partitions, ranks

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state.

        Raises:
            RunError: it cannot be written; the one before is still there.
        """
        number = self._ranks.tell(self._next_number() if self._ranks.is_first else 0)
        folder = self.path / str(number)
        tables = {name: array for name, array in state.items() if self._partition(name)}
        rest = {name: array for name, array in state.items() if name not in tables}
        try:
            self._begin(folder)
            digests = self._save_tables(folder, tables)
            if self._ranks.is_first:
                data = save({name: np.ascontiguousarray(array) for name, array in rest.items()})
                files.write_atomically(folder / _REST, data)
                index = {
                    "format": _FORMAT,
                    "folder": number,
                    "files": {**digests, _REST: hashlib.sha256(data).hexdigest()},
                    "tables": {
                        name: [array.dtype.str, array.shape[1]] for name, array in tables.items()
                    },
                }
                text = (json.dumps(index, indent=1) + "\n").encode()
                files.write_atomically(self.path / _INDEX, text)
                self._remove_others(number)
        except OSError as error:
            raise RunError(
                f"{folder}: rank {self._ranks.rank} cannot write there: {error.strerror or error}"
            ) from error

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state saved last, of tables the own rows; or None.

        Raises:
            RunError: it is not the one written, or not to be seen from this rank.
        """
        index = self._ranks.tell(self._read_index() if self._ranks.is_first else None)
        if index is None:
            return None
        folder = self.path / str(index["folder"])
        self._check(folder, index["files"])
        try:
            state: dict[str, NDArray[Any]] = dict(load((folder / _REST).read_bytes()))
        except (OSError, SafetensorError) as error:
            raise RunError(f"{folder / _REST}: not readable: {error}") from error
        if index["tables"]:
            state |= self._load_tables(folder, index["tables"])
        return state

    # ---- tables ----

    def _save_tables(self, folder: Path, tables: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """The digests of the files of all ranks, by name."""
        if not tables:
            return {}
        # Not at the top: importing them takes a second, which trainings of a moment need not wait.
        from torch.distributed.checkpoint import api, hf_storage, state_dict_saver

        writer = hf_storage.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            state_dict_saver.save(self._as_sharded(tables), storage_writer=writer)
        except api.CheckpointException as error:
            raise RunError(f"{folder}: {_tell_failure(error.failures, 'write')}") from error
        self._ranks.barrier()
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        own = _digest(folder / names[self._ranks.rank])
        every = self._ranks.stack(torch.from_numpy(np.frombuffer(own, dtype=np.uint8).copy()))
        rows = every.numpy()
        return {name: row.tobytes().hex() for name, row in zip(names, rows, strict=True)}

    def _load_tables(
        self, folder: Path, tables: Mapping[str, tuple[str, int]]
    ) -> dict[str, NDArray[Any]]:
        from torch.distributed.checkpoint import api, hf_storage, state_dict_loader

        found = {}
        for name, (dtype, dim) in tables.items():
            partition = self._partition(name)
            assert partition is not None  # of such names only tables were saved
            shape = partition.count(self._ranks.rank), dim
            found[name] = np.zeros(shape, dtype=np.dtype(dtype))
        reader = hf_storage.HuggingFaceStorageReader(str(folder))
        try:
            state_dict_loader.load(self._as_sharded(found), storage_reader=reader)
        except api.CheckpointException as error:
            raise RunError(f"{folder}: {_tell_failure(error.failures, 'read')}") from error
        return found

    def _as_sharded(self, tables: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The own rows as parts of whole tables, in the same memory."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard

        mesh = init_device_mesh("cpu", (self._ranks.size,))
        made = {}
        for name, array in tables.items():
            partition = self._partition(name)
            assert partition is not None
            dim = array.shape[1]
            made[name] = DTensor.from_local(
                torch.from_numpy(np.ascontiguousarray(array)), mesh, [Shard(0)], run_check=False,
                shape=torch.Size((partition.size, dim)), stride=(dim, 1),
            )  # fmt: skip
        return made

    def _partition(self, name: str) -> Partition | None:
        return self._partitions.get(name.split(".", 1)[0])

    # ---- files ----

    def _begin(self, folder: Path) -> None:
        if self._ranks.is_first:
            shutil.rmtree(folder, ignore_errors=True)  # of a save that did not come to its end
            folder.mkdir(parents=True)
        self._ranks.barrier()
        if not folder.is_dir():
            raise RunError(
                f"{folder}: rank {self._ranks.rank} does not see this folder, which rank 0 has made: "
                "the run folder must be on a file system that all ranks share"
            )

    def _next_number(self) -> int:
        index = self._read_index()
        return 1 if index is None else index["folder"] + 1

    def _read_index(self) -> dict[str, Any] | None:
        path = self.path / _INDEX
        try:
            index = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path}: not readable: {error}") from error
        if not _is_index(index):
            raise RunError(f"{self.path}: damaged: remove it to begin the stage again")
        made: dict[str, Any] = index
        return made

    def _check(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Checks that the files are those that were written; each rank looks at some of them."""
        wrong = None
        for name in sorted(digests)[self._ranks.rank :: self._ranks.size]:
            try:
                if _digest(folder / name).hex() != digests[name]:
                    wrong = f"{folder / name}: damaged"
            except OSError as error:
                wrong = f"{folder / name}: rank {self._ranks.rank} cannot read it: {error.strerror}"
        found = self._ranks.total(wrong is not None)
        if found:
            wrong = wrong or f"{folder}: damaged, as another rank finds"
            raise RunError(f"{wrong}: remove {self.path} to begin the stage again")

    def _remove_others(self, number: int) -> None:
        for each in self.path.iterdir():
            if each.name not in (_INDEX, str(number)) and each.is_dir():
                shutil.rmtree(each, ignore_errors=True)


def _is_index(index: Any) -> bool:
    """Whether all that is read from an index is of its kind."""
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        return False
    files_found, tables = index.get("files"), index.get("tables")
    if not isinstance(files_found, dict) or not isinstance(tables, dict):
        return False
    names = [*files_found]
    return (
        type(index.get("folder")) is int
        and _REST in names
        and all(name == os.path.basename(name) and name.endswith(".safetensors") for name in names)
        and all(isinstance(each, str) for each in files_found.values())
        and all(
            isinstance(each, list) and len(each) == 2 and each[0] == "<f4" and type(each[1]) is int
            for each in tables.values()
        )
    )


def _tell_failure(failures: Mapping[int, Any], what: str) -> str:
    """Which rank cannot do what, and why, of the failures that torch has gathered on all ranks."""
    rank = min(failures)
    error = failures[rank][0]
    return f"rank {rank} cannot {what} there: {getattr(error, 'strerror', None) or error}"


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
