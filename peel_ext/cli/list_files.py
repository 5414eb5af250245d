"""Files of the lists of many users, written a batch of users at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from peel_ext.cli.answers import run_facts
from peel_ext.format.file import replace_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peel_ext.train.recommendations import Ranked
    from peel_ext.train.trained_run import TrainedRun

#: What a file may be called.
SUFFIXES = (".parquet", ".csv", ".jsonl")

#: Takes the rows [m] of users, and what was found for them.
WriteLists = Callable[["NDArray[np.int64]", "Ranked"], None]


@contextmanager
def open_lists(path: Path, trained: TrainedRun) -> Iterator[WriteLists]:
    """A file of lists, which at the end takes the place of an old one.

    In Parquet and csv a line is an item of a list: user_id, item_id, rank from 1 and score. In jsonl
    it is a user, with what :func:`peel_ext.cli.answers.run_facts` has.

    Args:
        path: the file; its suffix is one of ``SUFFIXES``.
        trained: the run of the lists.

    Raises:
        OSError: the file cannot be made.
    """
    with replace_atomically(path) as file:
        if path.suffix == ".jsonl":
            yield _json_lines(file, trained)
            return
        with _TableFile(file, path.suffix, trained) as table:
            yield table.write


def _json_lines(file: BinaryIO, trained: TrainedRun) -> WriteLists:
    """Writes one object a user: its id, and the list."""

    def write(user_rows: NDArray[np.int64], ranked: Ranked) -> None:
        groups = trained.user_group[user_rows].tolist()
        users = trained.users.to_ids(user_rows)
        for user, group, rows, scores, nbytes in zip(users, groups, *ranked, strict=True):
            facts = run_facts(trained, rows, scores, int(nbytes), group=group)
            file.write(json.dumps({"user": user, **facts}).encode() + b"\n")

    return write


class _TableFile:
    """A Parquet or csv file with a line for every item of every list; a context manager."""

    def __init__(self, file: BinaryIO, suffix: str, trained: TrainedRun) -> None:
        import pyarrow

        # Of what each batch takes the ids it has.
        self._users = pyarrow.array(trained.users.ids)
        self._items = pyarrow.array(trained.items.ids)
        self._schema = pyarrow.schema(
            {
                "user_id": self._users.type,
                "item_id": self._items.type,
                "rank": pyarrow.int32(),
                "score": pyarrow.float32(),
            }
        )
        self._writer: Any
        if suffix == ".parquet":
            from pyarrow.parquet import ParquetWriter

            self._writer = ParquetWriter(file, self._schema)
        else:
            from pyarrow.csv import CSVWriter, WriteOptions

            file.write(",".join(self._schema.names).encode() + b"\n")  # Arrow would quote it
            self._writer = CSVWriter(
                file, self._schema, write_options=WriteOptions(include_header=False)
            )

    def write(self, user_rows: NDArray[np.int64], ranked: Ranked) -> None:
        """Writes the lists of a batch."""
        import numpy as np
        import pyarrow

        there = ranked.rows >= 0
        columns = [
            self._users.take(pyarrow.array(np.repeat(user_rows, there.sum(axis=1)))),
            self._items.take(pyarrow.array(ranked.rows[there])),
            pyarrow.array((np.nonzero(there)[1] + 1).astype(np.int32)),
            pyarrow.array(ranked.scores[there]),
        ]
        self._writer.write_table(pyarrow.table(columns, schema=self._schema))

    def __enter__(self) -> _TableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
