"""A bundle: the ``.peel`` files of many users in one, found by the user's id (``docs/format.md``)."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import urllib.parse
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import DataError, FormatError, NoUserError, SourceError
from peel_ext.format.file import replace_atomically
from peel_ext.format.header import BUNDLE_MAGIC, header_checksum, read_header
from peel_ext.format.layout import ALIGNMENT, HEADER_BYTES, padded

_VERSION = 1
_SUFFIX = ".peel"
_KEY_BYTES = 16
_MOST_PAGE_ENTRIES = 1 << 16

#: Users of a page on average: so many that the fullest page is not much larger, and so few that a page
#: is about as much as comes at once from a server.
_USERS_PER_PAGE = 64

_COPY_BYTES = 1 << 20

#: Magic, version, zeros, users, pages, entries of a page, bytes of the bundle, content, zeros, checksum.
_HEADER = struct.Struct("<4sB3sQIIQI24sI")
#: Checksum, entries in use, number of the page, zeros.
_PAGE = struct.Struct("<III20s")
_ENTRY = np.dtype(
    [
        ("key", f"V{_KEY_BYTES}"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("blocks_end", "<u4"),
        ("header_checksum", "<u4"),
    ]
)


def user_key(user: int | str) -> bytes:
    """The 16 bytes that stand for a user's id in the index; an integer is its decimal text.

    Raises:
        TypeError: neither an integer nor text.
        ValueError: empty text, or text with a zero character, which C cannot name.
    """
    return hashlib.sha256(user_text(user).encode()).digest()[:_KEY_BYTES]


def user_text(user: int | str) -> str:
    """A user's id as text. Errors are those of :func:`user_key`."""
    if isinstance(user, bool) or not isinstance(user, int | str | np.integer):
        raise TypeError(f"user must be an integer or text, got {user!r}")
    text = str(user)
    if not text or "\0" in text:
        raise ValueError(f"user must be text that is not empty and has no zero, got {user!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"user must be text that UTF-8 can hold, got {user!r}") from None
    return text


def user_file_name(user: int | str) -> str:
    """The name of a user's file: its id, with what names of files cannot hold escaped as in URLs.

    Errors are those of :func:`user_key`.
    """
    name = urllib.parse.quote(user_text(user), safe="")
    return name.replace(".", "%2E", 1 if name.startswith(".") else 0) + _SUFFIX


def user_of_file(name: str) -> str:
    """The id of the user whose file has this name.

    Raises:
        DataError: no name that :func:`user_file_name` gives, or one like it.
    """
    try:
        user = urllib.parse.unquote(name.removesuffix(_SUFFIX), errors="strict")
    except UnicodeDecodeError:
        raise DataError(f"{name!r} is no user's id: what is escaped is not UTF-8") from None
    if not name.endswith(_SUFFIX) or not user:
        raise DataError(f"{name!r} is no user's id, expected ID{_SUFFIX}")
    return user


def write_bundle(
    path: str | os.PathLike[str], files: Sequence[tuple[int | str, str | os.PathLike[str]]]
) -> int:
    """Writes the bundle of many users' files; at any moment the old one or the new one is there, whole.

    Of a user, 40 bytes are in memory beside the ids and paths given, and of the files one megabyte at a
    time. Blocks are not looked at: a device checks those it holds.

    Args:
        path: the bundle.
        files: ids of users, and the ``.peel`` file of each. The same files in the same order make the
            same bytes.

    Returns:
        Bytes of the bundle.

    Raises:
        DataError: no files, or an id that is there twice, also as integer and as text.
        FormatError: a file that is no ``.peel`` file, or is not whole.
        TypeError: an id that is neither an integer nor text.
        ValueError: an id that cannot be.
        SourceError: a file that cannot be read.
        OSError: the bundle cannot be written.
    """
    if not files:
        raise DataError("a bundle needs at least one user's file, got none")
    keys = bytearray()
    for user, _ in files:
        keys += user_key(user)
    entries = np.zeros(len(files), dtype=_ENTRY)
    entries["key"] = np.frombuffer(keys, entries.dtype["key"])
    order = _key_order(entries["key"])
    _check_distinct(entries["key"], order, files)
    num_pages = -(-len(files) // _USERS_PER_PAGE)
    counts = np.bincount(_page_numbers(entries["key"], num_pages), minlength=num_pages)
    page_entries = int(counts.max())
    if page_entries > _MOST_PAGE_ENTRIES:
        raise DataError(
            f"{page_entries} ids of users lie in one page, expected {_MOST_PAGE_ENTRIES}"
        )
    with replace_atomically(Path(path)) as bundle:
        at = HEADER_BYTES + num_pages * _page_bytes(page_entries)
        bundle.seek(at)
        for i, (_, file) in enumerate(files):
            at = _copy(Path(file), bundle, at, entries[i : i + 1])
        entries = entries[order]
        header = _pack_header(len(files), num_pages, page_entries, at, zlib.crc32(entries))
        bundle.seek(0)
        bundle.write(header)
        ends = np.cumsum(counts)
        for number, (end, count) in enumerate(zip(ends.tolist(), counts.tolist(), strict=True)):
            used = entries[end - count : end].tobytes()
            bundle.write(_pack_page(number, used, page_entries, header_checksum(header)))
    return at


def _copy(path: Path, bundle: BinaryIO, at: int, entry: NDArray[Any]) -> int:
    """Appends a file, and says in its entry where it lies; where the next one begins."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        head = file.read(HEADER_BYTES)
        try:
            header = read_header(head)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
        size = bundle.write(head)
        while part := file.read(_COPY_BYTES):
            size += bundle.write(part)
    if size < header.blocks_end:
        raise FormatError(f"{path}: cut short: {size} bytes, the blocks take {header.blocks_end}")
    entry["offset"], entry["size"] = at, size
    entry["blocks_end"] = header.blocks_end // ALIGNMENT
    entry["header_checksum"] = header_checksum(head)
    end = padded(size, ALIGNMENT)
    bundle.write(bytes(end - size))
    return at + end


def _page_bytes(page_entries: int) -> int:
    return padded(_PAGE.size + _ENTRY.itemsize * page_entries, ALIGNMENT)


def _key_order(keys: NDArray[Any]) -> NDArray[np.intp]:
    """Positions in ascending order of keys, byte by byte."""
    halves = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def _page_numbers(keys: NDArray[Any], num_pages: int) -> NDArray[np.int64]:
    """The page [m] of each key [m]: the keys' first four bytes, as a share of all there can be."""
    begin = np.ascontiguousarray(keys).view(">u4").reshape(-1, 4)[:, 0].astype(np.uint64)
    return (begin * np.uint64(num_pages) >> np.uint64(32)).astype(np.int64)


def _check_distinct(
    keys: NDArray[Any], order: NDArray[np.intp], files: Sequence[tuple[int | str, Any]]
) -> None:
    sorted_keys = keys[order]
    again = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    if len(again):
        first, second = (files[i] for i in order[again[0] : again[0] + 2].tolist())
        raise DataError(
            f"user {second[0]!r} has two files, {first[1]} and {second[1]}: expected one"
        )


def _pack_header(
    num_users: int, num_pages: int, page_entries: int, size: int, content: int
) -> bytes:
    fields = (BUNDLE_MAGIC, _VERSION, b"", num_users, num_pages, page_entries, size, content, b"")
    data = _HEADER.pack(*fields, 0)[:-4]
    return data + struct.pack("<I", zlib.crc32(data))


def _pack_page(number: int, used: bytes, page_entries: int, seed: int) -> bytes:
    page = _PAGE.pack(0, len(used) // _ENTRY.itemsize, number, b"") + used
    body = page.ljust(_page_bytes(page_entries), b"\0")[4:]
    return struct.pack("<I", zlib.crc32(body, seed)) + body


class BundleIndex:
    """The index of a bundle, read slowly and plainly: whole.

    Args:
        file: opened for reading; nothing is read behind the index.

    Attributes:
        size: bytes of the whole bundle.
        num_pages: pages of the index.
        page_entries: users that a page has room for.
        entries: those of all users in ascending order of keys, with fields ``key``, ``offset``, ``size``,
            ``blocks_end`` (in units of 64 bytes) and ``header_checksum``.

    Raises:
        FormatError: not a bundle, a newer one, or a damaged one.
    """

    def __init__(self, file: BinaryIO) -> None:
        there = file.seek(0, os.SEEK_END)
        file.seek(0)
        data = file.read(HEADER_BYTES)
        if not data or data[:4] != BUNDLE_MAGIC[: len(data)]:
            raise FormatError("not a bundle of users' files: it does not begin with 'PEEB'")
        if there < HEADER_BYTES:
            raise _cut_short(there)
        (_, version, zeros, num_users, self.num_pages, self.page_entries, self.size, content,
         more_zeros, checksum) = _HEADER.unpack_from(data)  # fmt: skip
        if version != _VERSION:
            raise FormatError(f"version {version} of bundles, this reads version {_VERSION}")
        if zlib.crc32(data[: HEADER_BYTES - 4]) != checksum:
            raise FormatError("damaged: the checksum of the bundle's header does not match")
        _require(not any(zeros + more_zeros), "reserved bytes are not zero")
        most = self.num_pages * self.page_entries
        can_be = 1 <= self.page_entries <= _MOST_PAGE_ENTRIES and 1 <= num_users <= most
        _require(can_be, "numbers of users and pages that cannot be")
        self._width = _page_bytes(self.page_entries)
        self._files_begin = HEADER_BYTES + self.num_pages * self._width
        _require(self.size >= self._files_begin, "it is smaller than its index")
        _require(there <= self.size, "bytes behind the last file")
        if there < self._files_begin:
            raise _cut_short(there)
        pages = [
            self._read_page(file.read(self._width), number, checksum)
            for number in range(self.num_pages)
        ]
        self.entries = np.concatenate(pages)
        sound = len(self.entries) == num_users and zlib.crc32(self.entries) == content
        _require(sound, "an index of other users than its header says")

    def _read_page(self, page: bytes, number: int, seed: int) -> NDArray[Any]:
        checksum, count, told, zeros = _PAGE.unpack_from(page)
        if zlib.crc32(page[4:], seed) != checksum:
            raise FormatError(
                f"damaged: the checksum of page {number} of the bundle's index does not match"
            )
        can_be = told == number and count <= self.page_entries and not any(zeros)
        _require(can_be, "a page of the index that cannot be")
        entries = np.frombuffer(page, _ENTRY, count, _PAGE.size)
        _require(not any(page[_PAGE.size + entries.nbytes :]), "padding that is not zero")
        _require(bool((_page_numbers(entries["key"], self.num_pages) == number).all()),
                 "a user in a wrong page")  # fmt: skip
        keys = [key.tobytes() for key in entries["key"]]
        _require(all(a < b for a, b in itertools.pairwise(keys)), "users out of order")
        for _, offset, size, blocks_end, _ in entries.tolist():
            within = self._files_begin <= offset <= offset + size <= self.size
            _require(offset % ALIGNMENT == 0 and within, "a user's file beyond the bundle")
            whole = max(HEADER_BYTES, blocks_end * ALIGNMENT) <= size
            _require(whole, "a user's file without its blocks")
        return entries

    def find(self, user: int | str) -> tuple[int, int, int, int]:
        """Offset, bytes, end of the blocks and checksum of the header of a user's file.

        Raises:
            NoUserError: the bundle has no file of this user.
            TypeError: neither an integer nor text.
            ValueError: text that cannot be an id.
        """
        at = np.flatnonzero(self.entries["key"] == np.void(user_key(user)))
        if not len(at):
            raise NoUserError(f"the bundle has no file of user {user_text(user)!r}")
        _, offset, size, blocks_end, checksum = self.entries[int(at[0])].item()
        return offset, size, blocks_end * ALIGNMENT, checksum


def _cut_short(size: int) -> FormatError:
    return FormatError(f"cut short: {size} bytes, the bundle's index is not all there")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise FormatError(f"not a valid bundle: {what}")
