"""Files dealt out to several processes, so that each reads a share: row groups of Parquet, and runs of
lines of text that is neither compressed nor quoted. Other files are read by one process whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peel_ext.config import ReadingConfig
from peel_ext.data.folders import format_of
from peel_ext.data.parquet_files import row_group_sizes
from peel_ext.data.tables import COMPRESSIONS


@dataclass(frozen=True)
class Pieces:
    """The pieces that a file can be cut into.

    Attributes:
        sizes: bytes of each piece, about, at least 1.
        kind: ``"groups"`` of rows, ``"lines"`` wherever one ends, or the ``"whole"``.
    """

    sizes: list[int]
    kind: str


@dataclass(frozen=True)
class Share:
    """A part of a file that one process reads.

    Attributes:
        file: its position among the files.
        extent: row groups or bytes, from a first one to before a last one; None is all of it.
    """

    file: int
    extent: tuple[int, int] | None


def find_pieces(file: Path, reading: ReadingConfig) -> Pieces:
    """Finds the pieces that a file can be cut into, but for quotes (:func:`has_quoted_fields`).

    A file that is not there is one piece: who opens it tells of that.

    Raises:
        DataError: it ought to be Parquet and is not.
    """
    try:
        size = max(1, file.stat().st_size)
        kind = format_of(file, reading)
        if kind == "parquet":
            rows = row_group_sizes(file)
            sizes = [max(1, size * count // max(1, sum(rows))) for count in rows]
            return Pieces(sizes, "groups") if sizes else Pieces([1], "whole")
    except OSError:  # which is told by who opens it
        return Pieces([1], "whole")
    is_text = kind not in (None, "lightgcn") and file.suffix.lower() not in COMPRESSIONS
    return Pieces([size], "lines" if is_text else "whole")


def deal(files: Sequence[Pieces], num_shares: int) -> list[list[Share]]:
    """Shares of about as many bytes for each process, in the order of the files and their lines.

    Of two processes the second reads what comes after all that the first reads.
    """
    total = sum(sum(pieces.sizes) for pieces in files)
    dealt = []
    for at in range(num_shares):
        low, high = total * at // num_shares, total * (at + 1) // num_shares
        shares: list[Share] = []
        start = 0
        for file, pieces in enumerate(files):
            extent = _within(pieces, start, low, high)
            if extent is not None:
                is_all = pieces.kind == "whole" or extent == _whole(pieces)
                shares.append(Share(file, None if is_all else extent))
            start += sum(pieces.sizes)
        dealt.append(shares)
    return dealt


def _whole(pieces: Pieces) -> tuple[int, int]:
    return (0, pieces.sizes[0] if pieces.kind == "lines" else len(pieces.sizes))


def _within(pieces: Pieces, start: int, low: int, high: int) -> tuple[int, int] | None:
    """What of a file that starts at some byte of all lies within a run of them, or None."""
    if pieces.kind == "lines":
        first, last = max(low - start, 0), min(high - start, pieces.sizes[0])
        return (first, last) if first < last else None
    chosen = []
    for at, size in enumerate(pieces.sizes):
        if 2 * low <= 2 * start + size < 2 * high:  # by its middle
            chosen.append(at)
        start += size
    return (chosen[0], chosen[-1] + 1) if chosen else None
