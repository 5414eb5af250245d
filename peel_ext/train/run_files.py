"""The files of a run: written atomically, and known by their digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save, save_file

from peel_ext.errors import RunError
from peel_ext.format import file as files

#: The name of a file's own digest in it.
DIGEST = "sha256"

#: What is read at a time of a file whose digest is wanted.
_PART_BYTES = 1 << 20


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that at any moment the old or the new one is there, whole.

    Raises:
        RunError: it cannot be written; the old one, if any, is still there.
    """
    try:
        files.write_atomically(path, data)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Writes a safetensors file so that at any moment the old or the new one is there, whole.

    It takes no memory beside that of the tensors.

    Returns:
        The file's digest.

    Raises:
        RunError: it cannot be written; the old one, if any, is still there.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        with files.replace_atomically(path) as made:
            save_file(contiguous, made.name)  # a file of its own in that place, for its owner alone
            with open(made.name, "rb") as file:
                os.fchmod(file.fileno(), os.fstat(made.fileno()).st_mode)
                os.fsync(file.fileno())
        return digest_of(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
        raise RunError(f"{path}: cannot be written: {reason}") from error


def digest_of(path: Path) -> str:
    """The digest of a file, a part of which is in memory at a time.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def fingerprint(arrays: Mapping[str, NDArray[Any]]) -> str:
    """A digest of named arrays, their shapes and dtypes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class StageCheckpoint:
    """The state of a stage under way, in a safetensors file with its own digest.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state saved last, or None.

        Raises:
            RunError: the file is not the one written.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{self.path}: not readable: {error.strerror}") from error
        try:
            state = dict(load(data))
        except SafetensorError:
            state = {}
        digest = state.pop(DIGEST, np.zeros(0, np.uint8)).tobytes()
        if digest.hex() != fingerprint(state):
            raise RunError(f"{self.path}: damaged: remove it to begin the stage again")
        return state

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state, atomically."""
        tensors = {name: np.ascontiguousarray(array) for name, array in state.items()}
        digest = np.frombuffer(bytes.fromhex(fingerprint(tensors)), dtype=np.uint8)
        write_atomically(self.path, save({**tensors, DIGEST: digest}))

    def remove(self) -> None:
        """Forgets the state."""
        if self.path.exists():  # a folder that cannot be written need not be, where nothing is
            self.path.unlink()
