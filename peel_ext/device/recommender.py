"""Recommendations on a device, from a ``.peel`` file under a budget of bytes."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peel_ext import _core
from peel_ext.device import _bridge
from peel_ext.device.http_source import HttpSource, is_url, shown_url
from peel_ext.device.item_ids import ItemIds, open_item_ids
from peel_ext.device.shipped_list import add_shipped, check_shipped
from peel_ext.device.sources import CachedSource, FileObjectSource, describe, open_url
from peel_ext.device.user_source import Readable, UserSource
from peel_ext.errors import DataError, FormatError, UnknownUserWarning
from peel_ext.format.appendix import ITEM_IDS, ROTATION, ROW_MEAN
from peel_ext.format.bundle import user_text

Ids = Sequence[int | str] | NDArray[np.integer]


class DeviceRecommender:
    """Recommends items from what it holds of a ``.peel`` file.

    What is held may be resized at any time; methods may be called from any thread, and each sees what
    was held at one moment. A context manager; without it, call :meth:`close`. It cannot be copied or
    pickled: that is a TypeError.

    Where the file has item ids, items are those: integers or text. Else they are row numbers.

    Rows may be rotated, and vectors of users must be then: those shipped by
    :meth:`peel_ext.nn.ElasticEmbedding.rotate`, others by :meth:`rotate`. What is folded in is.
    """

    def __init__(
        self,
        file: _core.PeelFile,
        item_ids: bool = True,
        *,
        source: HttpSource | CachedSource | None = None,
    ) -> None:
        self._file = file
        self._source = source  # None where the file is on this machine
        self._ids: ItemIds | None = None
        self._rotation: NDArray[np.float32] | None = None
        self._lock = threading.Lock()
        self._torn: FormatError | None = None
        self._has_ids = False
        if item_ids:
            try:
                self._has_ids = file.find_section(ITEM_IDS)[0] > 0
            except FormatError as error:
                self._torn = error

    @classmethod
    def open(
        cls,
        file: str | os.PathLike[str] | BinaryIO | _bridge.Buffer,
        budget_bytes: int | None = None,
        *,
        user: int | str | None = None,
        item_ids: bool = True,
        cache: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> DeviceRecommender:
        """Opens a file and holds as many of its blocks as the budget has room for.

        Args:
            file: a path; the URL of a server that answers range requests, of which only the bytes
                held are fetched; a binary file object that can seek; or the bytes themselves, in
                whatever has the buffer protocol (bytes, a bytearray, a mapped file, an array), which
                are used where they lie and must stay as they are. A file of which only the first
                bytes have arrived is a smaller model, whose items go by row: open it with
                ``item_ids=False``.
            budget_bytes: upper limit of everything held for the table; None: all there is.
            user: where the file is a bundle of many users' files (:mod:`peel_ext.format.bundle`), the id
                of the one whose file to open; an integer is its decimal text. Nothing is read of the
                others but where they lie.
            item_ids: whether to tell items by the ids of the file; without them items are row
                numbers. Ids are not held: they are read where they are when they are needed, those of
                a server from a temporary file, which they come to once.
            cache: with a URL, a local file that keeps the blocks fetched, so that growing again after
                shrinking fetches nothing twice. It is the first bytes of the file: without a network,
                open it by its path. It serves one recommender at a time; what is damaged in it is
                fetched again.
            headers: with a URL, to send with every request, for example ``Authorization``. They do not
                go to another server that this one redirects to, and messages do not have their values.
            timeout: with a URL, seconds without an answer after which a request fails; None: 30. A
                connection that breaks, or an answer like 503, is tried three times.

        Raises:
            FormatError: not a ``.peel`` file, a newer version, or damaged; with a user, no bundle.
            NoUserError: the bundle has no file of this user.
            SourceError: it cannot be read.
            BudgetError: too few bytes for the first block; names the minimum.
            TypeError: budget_bytes is not an integer, user neither that nor text, cache not a path,
                headers not a mapping of text, or timeout not a number.
            ValueError: what is for files on a server, given with another; bytes that do not lie one
                after another.
        """
        whose = None if user is None else user_text(user)
        if not isinstance(cache, str | os.PathLike | None):
            raise TypeError(f"cache must be a path, got {cache!r}")
        with _bridge.native_budget(budget_bytes) as budget:
            if isinstance(file, str) and is_url(file):
                return cls._open_url(file, budget, whose, item_ids, cache, headers, timeout)
            for name, value in (("cache", cache), ("headers", headers), ("timeout", timeout)):
                if value is not None:
                    raise ValueError(f"{name} is for files on a server, got {describe(file)}")
            return cls(_open_here(file, budget, whose), item_ids)

    @classmethod
    def _open_url(
        cls,
        url: str,
        budget: int | None,
        user: str | None,
        item_ids: bool,
        cache: str | os.PathLike[str] | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> DeviceRecommender:
        try:
            opened, remote = open_url(url, budget, user, cache, headers, timeout)
        except FormatError as error:
            raise FormatError(f"{shown_url(url)}: {error}") from None
        try:
            return cls(opened, item_ids, source=remote)
        except BaseException:
            remote.close()
            raise

    # ---- what is held ----

    @property
    def nbytes(self) -> int:
        """Bytes held for the table: header, entries, blocks, and the directory to find them by."""
        return self._file.pee().nbytes

    @property
    def num_blocks(self) -> int:
        """Blocks held."""
        return self._file.pee().num_blocks

    @property
    def num_embeddings(self) -> int:
        """Items of the whole table."""
        return self._file.pee().num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Values of a user's vector."""
        return self._file.pee().dim

    @property
    def group(self) -> int:
        """The user group of the file."""
        return self._file.group

    @property
    def rotated(self) -> bool:
        """True if the file says that its rows are rotated; files of before this was said do not."""
        return self._file.rotated

    def resize(self, budget_bytes: int | None) -> None:
        """Holds what opening under this budget would hold; only what is missing is read.

        What was held stays when this fails.

        Raises:
            BudgetError: too few bytes for the first block; names the minimum.
            SourceError: what is missing cannot be read.
            FormatError: what is missing is damaged, or the file is not the one opened.
            TypeError: budget_bytes is not an integer.
            ClosedError: it has been closed.
        """
        with _bridge.native_budget(budget_bytes) as budget:
            if not isinstance(self._source, CachedSource):
                self._file.resize(budget)
                return
            # What a cache has beyond what is held may be damaged, or the server's was: try once more.
            with contextlib.suppress(FormatError):
                self._resize_or_forget(budget, self._source)
                return
            self._resize_or_forget(budget, self._source)

    def _resize_or_forget(self, budget: int | None, cache: CachedSource) -> None:
        try:
            self._file.resize(budget)
        except FormatError:
            cache.forget(self._file.pee().prefix_bytes)
            raise

    def close(self) -> None:
        """Gives the memory back once calls that are under way have ended. Closing twice is fine."""
        self._file.close()
        if self._source is not None:
            self._source.close()

    def __enter__(self) -> DeviceRecommender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(
            "a DeviceRecommender cannot be pickled or copied: it holds an open file; "
            "pickle its path and open it again"
        )

    # ---- recommending ----

    def recommend(
        self,
        history: Ids | None = None,
        *,
        user: ArrayLike | None = None,
        rotated: bool | None = None,
        n: int = 20,
        exclude: Ids | None = None,
        shipped: tuple[Ids, ArrayLike] | None = None,
    ) -> tuple[list[int | str] | NDArray[np.int64], NDArray[np.float32]]:
        """The best items held for a user, and those of a list that came with its vector.

        Args:
            history: items the user knows; they are left out. Without ``user`` its vector is learned
                from them; where none of them is held, it is that of the group's average user, by the
                centroids of the file. A file without them gives the average user of what is held
                (:func:`peel_ext.device.fold_in.average_user`), with an :class:`UnknownUserWarning`.
            user: [embedding_dim], the user's vector.
            rotated: whether ``user`` is in the space of the rows, as what was shipped for this file or
                folded in is. False: it is in that of the model, and is rotated here (:meth:`rotate`).
                To be said where the rows are rotated, for a vector does not tell.
            n: items to return, at least 1.
            exclude: further items to leave out.
            shipped: distinct items [m] that a server ranked for the user with the full table, and
                their scores [m]. Those that are not held compete with these scores, so that what a
                budget has no room for is not lost. Twice n are enough: some will be left out.

        Returns:
            Items and scores float32, both as many as there are up to n, best first, equal scores in
            the order of rows. Items are a list where the file has ids, else int64.

        Raises:
            DataError: an unknown id.
            IndexError: a row out of range.
            ValueError: neither history nor user, n below 1, a vector of wrong shape or not finite, or
                ``rotated`` left out where the rows are rotated; a shipped list with an item twice, or
                scores that are not as many or not finite.
            FormatError: a vector to rotate, and no rotation in the file.
        """
        pee = self._file.pee()
        known = self._rows("history", [] if history is None else history)
        left_out = self._rows("exclude", [] if exclude is None else exclude)
        count = self._count(n)
        vector = self._user(pee, user, rotated, None if history is None else known)
        seen = np.sort(np.concatenate([known, left_out]))
        exclusions = (np.array([0, len(seen)], dtype=np.int64), seen)
        ids, scores = _bridge.score(pee, vector[None], count, exclusions)
        if shipped is not None:
            rows, worth = self._shipped(shipped)
            held = _bridge.lookup(pee, rows)[2].any(axis=1)
            missing = ~held & ~np.isin(rows, np.concatenate([seen, ids[0]]))
            ids, scores = add_shipped(ids, scores, rows[missing][None], worth[missing][None])
        return self._found(ids[0], scores[0])

    def similar(
        self, item: int | str, n: int = 20
    ) -> tuple[list[int | str] | NDArray[np.int64], NDArray[np.float32]]:
        """The items held that are most like one, by the cosine of their rows.

        Args:
            item: one that is held.
            n: items to return, at least 1.

        Returns:
            Items and cosines float32 as those of :meth:`recommend`, without the item itself.

        Raises:
            DataError: an unknown id, or an item that is not held.
            IndexError: a row out of range.
            TypeError: an item that is no integer, nor text where the file has ids.
            ValueError: n below 1.
        """
        pee = self._file.pee()
        position, ids, scores = _bridge.similar(pee, self._row(item), self._count(n))
        if position >= 0:
            raise DataError(f"item {item!r} is not held: a larger budget may hold it")
        return self._found(ids[0], scores[0])

    def parse_item(self, text: str) -> int | str:
        """The item that a text names, as a command line has it.

        Raises:
            DataError: the file tells items by integers, and the text is none.
        """
        names = self._item_ids()
        if names is not None and not names.holds_integers:
            return text
        if not re.fullmatch(" *-?[0-9]{1,19} *", text):  # int() would take '1_0', too
            raise DataError(f"item {text!r} is not known: items of this file are integers")
        return int(text)

    def score_items(
        self,
        ids: Ids,
        *,
        history: Ids | None = None,
        user: ArrayLike | None = None,
        rotated: bool | None = None,
    ) -> NDArray[np.float32]:
        """Scores float32 [m] of given items [m] for a user; 0 for items not held.

        Args and errors are those of :meth:`recommend`.
        """
        pee = self._file.pee()
        known = None if history is None else self._rows("history", history)
        vector = self._user(pee, user, rotated, known)
        return _bridge.score_items(pee, vector, self._rows("ids", ids))

    def mean_score(self, user: ArrayLike, *, rotated: bool | None = None) -> float:
        """The constant by which every score is less than an inner product with the vectors of the table.

        The mean is subtracted from the rows of a table of vectors
        (:meth:`peel_ext.nn.ElasticEmbedding.from_vectors`): the order of the rows is the same, and a
        score plus this number is the inner product, or for a query of length 1 the cosine. 0 where
        nothing was subtracted. Read from the file at each call.

        Args:
            user: [embedding_dim], the query.
            rotated: as in :meth:`recommend`.

        Raises:
            FormatError: a damaged file; a vector to rotate, and no rotation in the file.
            SourceError: it cannot be read.
            ValueError: a vector of wrong shape or not finite, or ``rotated`` left out.
        """
        pee = self._file.pee()
        count, width, payload = self._file.section(ROW_MEAN)
        if count == 0:
            return 0.0
        if (count, width, len(payload)) != (1, pee.dim, 4 * pee.dim):
            raise FormatError("not a valid .peel file: the row mean does not fit the table")
        vector = self._user(pee, user, rotated, None)
        return float(vector.astype(np.float64) @ np.frombuffer(payload, "<f4"))

    # ---- vectors of users ----

    def rotate(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Vectors float32 [..., embedding_dim] of the model's space in the space of the rows.

        They come back as they are where the file does not say that its rows are rotated. The rotation
        is read when it is first needed and held from then on, beside what a budget counts.

        Raises:
            FormatError: the rows are rotated and the file does not carry the rotation, or a damaged one.
            SourceError: it cannot be read.
            ValueError: vectors of wrong shape or not finite.
        """
        dim = self.embedding_dim
        given = np.asarray(vectors, dtype=np.float32)
        if given.shape[-1:] != (dim,) or not np.isfinite(given).all():
            raise ValueError(
                f"vectors must be finite and have shape (..., {dim}), got {given.shape}"
            )
        return given @ self._read_rotation(dim) if self.rotated else given

    def fold_in(self, history: Ids) -> NDArray[np.float32]:
        """A user's vector float32 [embedding_dim] from a history; zeros where none of it is held.

        The formula is that of :func:`peel_ext.device.fold_in.fold_in_softmax`, with the settings of the
        file, over the rows held; of more than 2,048 over a sample
        (:func:`peel_ext.device.fold_in.sample_rows`).

        Raises:
            DataError: an unknown id.
            IndexError: a row out of range.
        """
        return _bridge.fold_in(self._file.pee(), self._rows("history", history))[0]

    def continue_vector(self, user: ArrayLike, known_count: int, items: Ids) -> NDArray[np.float32]:
        """A user's vector, made of ``known_count`` items, brought up to date with new ones.

        Args:
            user: [embedding_dim], of length 1, shipped or folded in before, rotated where the rows are.
            known_count: items it was made of.
            items: the new ones. Where none of them is held the vector stays as it was.

        Returns:
            float32 [embedding_dim], of length 1: the mean of ``user`` and the fold-in of the new items,
            weighted by how many items each stands for.

        Raises:
            DataError: an unknown id.
            IndexError: a row out of range.
            ValueError: a vector of wrong shape or not finite, or a count below 0.
        """
        pee = self._file.pee()
        if isinstance(known_count, bool) or not isinstance(known_count, int | np.integer):
            raise TypeError(f"known_count must be an integer, got {known_count!r}")
        if not 0 <= known_count < 1 << 63:
            raise ValueError(f"known_count must be at least 0 and below 2^63, got {known_count}")
        vector = self._vector(pee, user)
        return _bridge.continue_vector(pee, vector, int(known_count), self._rows("items", items))

    def choose_group(self, user: ArrayLike) -> int:
        """The user group whose file suits a user's vector best, one that is rotated where the rows are.

        Raises:
            FormatError: the file has no centroids.
            ValueError: a vector of wrong shape or not finite.
        """
        return _bridge.choose_group(self._file, self._vector(self._file.pee(), user))

    # ---- ----

    def _item_ids(self) -> ItemIds | None:
        """The file's ids, or None where it has none or none are wanted."""
        if self._torn is not None:
            raise FormatError(
                f"{self._torn}: whether it has item ids is not known; without them "
                "(item_ids=False, --no-item-ids) items go by row"
            )
        if not self._has_ids:
            return None
        with self._lock:
            if self._ids is None:
                self._ids = open_item_ids(
                    self._file, self.num_embeddings, keep_on_disk=self._source is not None
                )
            return self._ids

    def _count(self, n: int) -> int:
        """How many rows to look for, where n items are asked for."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {n!r}")
        return max(1, min(int(n), self.num_embeddings))

    def _found(
        self, ids: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[list[int | str] | NDArray[np.int64], NDArray[np.float32]]:
        """Items and scores of the rows that were found."""
        found = int((ids >= 0).sum())
        names = self._item_ids()
        rows = ids[:found]
        return (rows if names is None else names.to_ids(rows)), scores[:found]

    def _rows(self, name: str, items: Ids) -> NDArray[np.int64]:
        """Rows int64 [m], in range, of items."""
        wrong_shape = items.ndim != 1 if isinstance(items, np.ndarray) else False
        if isinstance(items, str | bytes) or not hasattr(items, "__len__") or wrong_shape:
            raise TypeError(f"{name} must be a sequence of items, got {items!r}")
        names = self._item_ids() if len(items) else None
        if names is not None:
            return names.to_rows(items.tolist() if isinstance(items, np.ndarray) else items)
        rows = np.asarray(items)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise TypeError(
                f"{name} must hold integers of at most 64 bits, got {rows.dtype} of shape {rows.shape}"
            )
        bad = np.flatnonzero((rows < 0) | (rows >= self.num_embeddings))
        if len(bad):
            raise IndexError(
                f"{name}[{bad[0]}] is {rows[bad[0]]}, expected an id in [0, {self.num_embeddings})"
            )
        return np.ascontiguousarray(rows, dtype=np.int64)

    def _shipped(
        self, shipped: tuple[Ids, ArrayLike]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows int64 [m], in range and distinct, and scores float32 [m] of a shipped list."""
        if not isinstance(shipped, tuple) or len(shipped) != 2:
            raise TypeError(f"shipped must be items and their scores, got {shipped!r}")
        rows = self._rows("shipped", shipped[0])
        return rows, check_shipped(rows, shipped[1])

    def _row(self, item: int | str) -> NDArray[np.int64]:
        """The row int64 [1], in range, of an item."""
        names = self._item_ids()
        told_by_text = isinstance(item, str) and names is not None
        if not told_by_text and (isinstance(item, bool) or not isinstance(item, int | np.integer)):
            expected = "an integer" if names is None else "an integer or text"
            raise TypeError(f"item must be {expected}, got {item!r}")
        if names is not None:
            return names.to_rows([item])
        if not 0 <= int(item) < self.num_embeddings:
            raise IndexError(f"item is {item}, expected an id in [0, {self.num_embeddings})")
        return np.array([item], dtype=np.int64)

    def _user(
        self,
        pee: _core.Pee,
        user: ArrayLike | None,
        rotated: bool | None,
        known: NDArray[np.int64] | None,
    ) -> NDArray[np.float32]:
        """The vector given, or that of a history, or that of the average user of the group or the file."""
        if user is not None:
            vector = self._vector(pee, user)
            if rotated is None and self.rotated:
                raise ValueError(
                    "rotated must be given with user, because the rows of this file are rotated: True "
                    "for a vector that is rotated like them, False for one of the model's space"
                )
            return self.rotate(vector) if rotated is False else vector
        if known is None:
            raise ValueError("history or user must be given, got neither")
        vector, held = _bridge.fold_in(pee, known)
        if held:
            return vector
        centroid = np.array(self._file.own_centroid(), dtype=np.float32)
        if centroid.size:
            return centroid
        warnings.warn(
            "no item of the history is held, and the file has no centroids: the answer is for the "
            "average user of what is held",
            UnknownUserWarning,
            stacklevel=3,
        )
        return _bridge.average_user(pee)

    def _vector(self, pee: _core.Pee, user: ArrayLike) -> NDArray[np.float32]:
        """A user's vector as the native core takes it."""
        vector = np.ascontiguousarray(user, dtype=np.float32)
        if vector.shape != (pee.dim,):
            raise ValueError(f"user must have shape ({pee.dim},), got {vector.shape}")
        if not np.isfinite(vector).all():
            bad = int(np.argmin(np.isfinite(vector)))
            raise ValueError(f"user must be finite, user[{bad}] is {vector[bad]}")
        return vector

    def _read_rotation(self, dim: int) -> NDArray[np.float32]:
        """The rotation float32 [dim, dim] that the file carries."""
        with self._lock:
            if self._rotation is None:
                count, width, payload = self._file.section(ROTATION)
                if count == 0:
                    raise FormatError(
                        "the rows of this file are rotated and it does not carry the rotation: rotate "
                        "vectors before they are shipped, with ElasticEmbedding.rotate, or write the "
                        "file with its rotation"
                    )
                if (count, width, len(payload)) != (dim, dim, 4 * dim * dim):
                    raise FormatError("not a valid .peel file: the rotation does not fit the table")
                rotation = np.frombuffer(payload, "<f4").reshape(dim, dim)
                if not np.isfinite(rotation).all():
                    raise FormatError("not a valid .peel file: a rotation that is not finite")
                self._rotation = rotation
            return self._rotation


def _open_here(
    file: str | os.PathLike[str] | BinaryIO | _bridge.Buffer,
    budget: int | None,
    user: str | None,
) -> _core.PeelFile:
    """Opens a file on this machine, or bytes, as :meth:`DeviceRecommender.open` has it."""
    if isinstance(file, str | os.PathLike):
        try:
            return _core.PeelFile.open_path(os.fspath(file), budget, user)
        except FormatError as error:
            raise FormatError(f"{os.fspath(file)}: {error}") from None
    if _bridge.is_buffer(file):
        return _core.PeelFile.open_buffer(_bridge.aligned(file), budget, user)
    source: Readable = FileObjectSource(cast(BinaryIO, file))
    if user is not None:
        source = UserSource(source, user, ahead=0)
    return _core.PeelFile.open_callable(source.read, source.size, budget)
