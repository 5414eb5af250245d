"""The people a command is for: users of the training data, or whoever has a history of items."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from peel_ext.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peel_ext.data import IdMap
    from peel_ext.train.trained_run import TrainedRun

#: int() would take '1_0', too.
_INTEGER = re.compile(" *-?[0-9]{1,19} *")

#: Unknown users that an error names.
_NAMED = 3


class Person(NamedTuple):
    """Somebody a command is for.

    Attributes:
        vector: float32 [dim].
        group: the user group.
        seen: rows of items to leave out [m], ascending.
        known_count: items the vector was made of.
    """

    vector: NDArray[np.float32]
    group: int
    seen: NDArray[np.int64]
    known_count: int


def find_user(trained: TrainedRun, user: str | None, history: list[str] | None) -> Person:
    """A user of the training data, or somebody with a history.

    Args:
        trained: the run.
        user: id of a user of the training data, or None.
        history: ids of items, of which the vector is folded in.

    Raises:
        DataError: an id that is not known.
    """
    import numpy as np

    from peel_ext.device import fold_in_softmax
    from peel_ext.train.clustering import nearest_group

    if user is not None:
        row = int(find_rows(trained.users, [user], "user")[0])
        trained_on = len(trained.train[row])
        seen = trained.seen([row]).items
        return Person(trained.user_vectors[row], int(trained.user_group[row]), seen, trained_on)
    items = np.unique(find_rows(trained.items, history or [], "item"))
    vector = fold_in_softmax(
        trained.item_vectors, items, temperature=trained.temperature, prior=trained.prior
    )
    group = int(nearest_group(vector[None], trained.centroids)[0])
    return Person(vector, group, items, len(items))


def read_users(trained: TrainedRun, source: str) -> NDArray[np.int64]:
    """Rows int64 [m] of distinct users, in their order.

    Args:
        trained: the run.
        source: ``all``, a file with one id a line, or ``-``, the same on standard input.

    Raises:
        DataError: no such file, not UTF-8, no user in it, or users that are not known.
    """
    import numpy as np

    if source == "all":
        return np.arange(len(trained.users))
    known = set(trained.users.ids.tolist())
    found: dict[int | str, None] = {}  # in order, and each once
    unknown: dict[str, None] = {}
    for line in _read_lines(source):
        user = _parse_id(trained.users, line)
        if user is not None and user in known:
            found[user] = None
        else:
            unknown[line] = None
    if unknown:
        named = ", ".join(map(repr, list(unknown)[:_NAMED]))
        raise DataError(
            f"{source}: {len(unknown)} of {len(unknown) + len(found)} users are not known: "
            f"{named}{', ...' if len(unknown) > _NAMED else ''}"
        )
    if not found:
        raise DataError(f"{source}: expected one id of a user a line, found none")
    return trained.users.to_rows(list(found))


def _read_lines(source: str) -> list[str]:
    """Lines of a file, or of standard input, that are not blank."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{source}: not readable: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{source}:{line}: not UTF-8 text") from None
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def find_rows(known: IdMap, text: list[str], what: str) -> NDArray[np.int64]:
    """Rows int64 of ids given as text.

    Raises:
        DataError: an id that is not known; calls it ``what``.
    """
    ids = [_parse_id(known, name) for name in text]
    for name, parsed in zip(text, ids, strict=True):
        if parsed is None:
            raise DataError(f"{what} {name!r} is not known: ids of this run are integers")
    try:
        return known.to_rows([each for each in ids if each is not None])
    except DataError as error:
        raise DataError(f"{what} {error}") from None


def _parse_id(known: IdMap, text: str) -> int | str | None:
    """The id that a text is, or None where ids are integers and it is none."""
    if not known.holds_integers:
        return text
    return int(text) if _INTEGER.fullmatch(text) else None
