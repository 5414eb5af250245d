"""Ids of the items of a ``.peel`` file: they stay where they are, and are read when asked for."""

from __future__ import annotations

import os
import tempfile
import threading
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peel_ext import _core
from peel_ext.errors import DataError, FormatError, SourceError
from peel_ext.format.appendix import ITEM_IDS
from peel_ext.format.header import header_checksum
from peel_ext.format.layout import ALIGNMENT, HEADER_BYTES, padded

#: Bytes of the file, or ids, looked at together.
_PIECE_BYTES, _PIECE_IDS = 1 << 16, 1 << 12

#: The largest below 2^32.
_PRIME = 4_294_967_291

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

#: Gives the bytes [offset, offset + count) of a payload.
_Read = Callable[[int, int], bytes]


class ItemIds:
    """Ids of the items and their rows. An id is looked for as among ascending ones.

    Where ids do not ascend, the first that is not found so makes an index of all, in a temporary file.

    Args:
        count: number of ids.
        integers: whether they are integers, not text.
        read: gives bytes of the section's payload, which :func:`open_item_ids` has checked.
    """

    def __init__(self, count: int, integers: bool, read: _Read) -> None:
        self._count, self._integers, self._read = count, integers, read
        self._names_begin = 4 * (count + 1)
        self._ascending = False  # until all have been looked at
        self._index: _Index | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def holds_integers(self) -> bool:
        """True if ids are integers, not text."""
        return self._integers

    def to_ids(self, rows: ArrayLike) -> list[int | str]:
        """Ids of rows, as Python integers or text.

        Raises:
            FormatError: an id that is not text, or not the integer it should be.
            SourceError: the file cannot be read.
        """
        return [self._id_at(int(row)) for row in np.asarray(rows, dtype=np.int64)]

    def to_rows(self, ids: Sequence[int | str]) -> NDArray[np.int64]:
        """Rows int64 of ids.

        Raises:
            DataError: an id that is not known.
            FormatError: an id of the file that is not text, or not the integer it should be.
            SourceError: the file cannot be read.
        """
        keys = [self._key_of(name) for name in ids]
        rows = {key: self._find(key) for key in set(keys) if key is not None}
        found = [None if key is None else rows[key] for key in keys]
        for name, row in zip(ids, found, strict=True):
            if row is None:
                kind = "integers" if self._integers else "text"
                raise DataError(f"item {name!r} is not known: ids of this file are {kind}")
        return np.array(found, dtype=np.int64)

    # ---- keys: integers, or text as it is encoded, which is ordered alike ----

    def _key_of(self, name: object) -> int | bytes | None:
        if self._integers:
            if isinstance(name, bool) or not isinstance(name, int | np.integer):
                return None
            return int(name)
        return name.encode(errors="surrogatepass") if isinstance(name, str) else None

    def _key(self, name: bytes) -> int | bytes:
        if not self._integers:
            return name
        try:
            return int(name)
        except ValueError:
            raise FormatError(f"not a valid .peel file: item id {name!r} is no integer") from None

    def _id_at(self, row: int) -> int | str:
        name = self._names(row, 1)[0]
        if self._integers:
            return int(self._key(name))
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise FormatError(f"not a valid .peel file: item id {name!r} is no text") from None

    def _names(self, first: int, count: int) -> list[bytes]:
        """The names of rows [first, first + count)."""
        ends = np.frombuffer(self._read(4 * first, 4 * (count + 1)), "<u4").tolist()
        if any(begin > end for begin, end in pairwise(ends)):
            raise FormatError("damaged: item ids have changed since they were checked")
        text = self._read(self._names_begin + ends[0], ends[-1] - ends[0])
        return [text[begin - ends[0] : end - ends[0]] for begin, end in pairwise(ends)]

    def _find(self, key: int | bytes) -> int | None:
        """The row of a key, or None where there is none."""
        row = self._search(key) if self._index is None else None
        if row is not None or self._ascending:
            return row
        if self._index is None:
            self._look_at_all()
            if self._ascending:
                return None
        assert self._index is not None
        rows = self._index.rows_of(_hash(key))
        return next((row for row in rows if self._key(self._names(row, 1)[0]) == key), None)

    def _search(self, key: int | bytes) -> int | None:
        """The row of a key, or None where it is not found as among ascending ones."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            found = self._key(self._names(middle, 1)[0])
            if found == key:
                return middle
            if found < key:  # type: ignore[operator] # both are of the same kind
                low = middle + 1
            else:
                high = middle
        return None

    def _look_at_all(self) -> None:
        """Tells whether ids ascend, and makes the index where they do not."""
        hashes = np.empty(self._count, dtype=np.uint32)
        before: int | bytes | None = None
        ascending = True
        for first in range(0, self._count, _PIECE_IDS):
            names = self._names(first, min(_PIECE_IDS, self._count - first))
            keys = [self._key(name) for name in names]
            hashes[first : first + len(keys)] = [_hash(key) for key in keys]
            joined = keys if before is None else [before, *keys]
            # Both of a pair are of the same kind.
            ascending = ascending and all(a < b for a, b in pairwise(joined))  # type: ignore[operator]
            before = keys[-1]
        if not ascending:
            self._index = _Index(hashes)
        self._ascending = ascending


def _hash(key: int | bytes) -> int:
    """32 bits of a key. A remainder by a prime, as integer ids often have their lower bits in common."""
    return key % _PRIME if isinstance(key, int) else zlib.crc32(key)


class _Index:
    """Rows by the hash of their ids, in a temporary file: 8 bytes an item, mapped.

    Args:
        hashes: uint32 [n], that of row i at i.

    Raises:
        SourceError: the temporary file cannot be written.
    """

    def __init__(self, hashes: NDArray[np.uint32]) -> None:
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        try:
            with tempfile.TemporaryFile() as file:
                file.write(np.concatenate([hashes[order], order]).tobytes())
                file.flush()
                kept = np.memmap(file, np.uint32, "r", shape=(2, len(hashes)))
        except OSError as error:
            raise SourceError(
                f"the index of item ids cannot be kept on disk: {error.strerror}"
            ) from error
        self._hashes, self._rows = kept

    def rows_of(self, hashed: int) -> list[int]:
        """Ascending rows whose ids have this hash."""
        wanted = np.uint32(hashed)  # of another type all hashes would be converted
        begin, end = (np.searchsorted(self._hashes, wanted, side) for side in _SIDES)
        found: list[int] = self._rows[begin:end].tolist()
        return found


def open_item_ids(file: _core.PeelFile, num_embeddings: int, *, keep_on_disk: bool) -> ItemIds:
    """The ids of a file that has some, after a look at all their bytes.

    Args:
        file: with a section of item ids.
        num_embeddings: ids there should be.
        keep_on_disk: whether to keep their bytes in a temporary file, from which they are read then:
            for files that are slow to reach.

    Raises:
        FormatError: damaged, or not ids of so many items.
        SourceError: the file cannot be read, or the temporary file not be written.
    """
    begin, size, count, width = file.find_section(ITEM_IDS)
    if count != num_embeddings:
        raise FormatError(f"not a valid .peel file: {count} item ids, expected {num_embeddings}")
    if size < 4 * (count + 1):
        raise FormatError("not a valid .peel file: item ids are cut short")
    if not keep_on_disk:
        _check(file, begin, size, count, None)
        return ItemIds(count, bool(width), lambda at, length: file.read(begin + at, length))
    try:
        kept = _Kept()
        _check(file, begin, size, count, kept)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"item ids cannot be kept on disk: {error.strerror}") from error
    return ItemIds(count, bool(width), kept.read)


class _Kept:
    """Bytes in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as this
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Puts bytes behind those there."""
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])

    def read(self, offset: int, count: int) -> bytes:
        """The bytes [offset, offset + count), from any thread."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:  # on Windows
            self._file.seek(offset)
            return self._file.read(count)

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()


def _check(file: _core.PeelFile, begin: int, size: int, count: int, kept: _Kept | None) -> None:
    """Checksum and positions of a section's payload, a piece at a time."""
    header = file.read(begin - ALIGNMENT, ALIGNMENT)
    checksum = zlib.crc32(header[4:], header_checksum(file.read(0, HEADER_BYTES)))
    before = 0
    positions = 4 * (count + 1)
    for at in range(0, padded(size, ALIGNMENT), _PIECE_BYTES):
        piece = file.read(begin + at, min(_PIECE_BYTES, padded(size, ALIGNMENT) - at))
        checksum = zlib.crc32(piece, checksum)
        if kept is not None:
            kept.write(piece)
        if at < positions:
            ends = np.frombuffer(piece[: positions - at], "<u4").astype(np.int64)
            if (at == 0 and ends[0] != 0) or bool((np.diff(ends, prepend=before) < 0).any()):
                raise FormatError("not a valid .peel file: item ids overlap")
            before = int(ends[-1])
    if checksum != int.from_bytes(header[:4], "little"):
        raise FormatError(f"damaged: the checksum of section {ITEM_IDS} does not match")
    if before != size - positions:
        raise FormatError("not a valid .peel file: item ids overlap")
