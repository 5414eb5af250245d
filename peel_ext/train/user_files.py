"""The ``.peel`` files of single users, many at a time, and a map over batches of users that makes them."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import BlendConfig, ExposureConfig
from peel_ext.errors import DataError
from peel_ext.train.trained_run import TrainedRun

if TYPE_CHECKING:
    import pyarrow

#: Users times items whose values are in memory at once.
_BATCH_CELLS = 1 << 22

_COLUMN = "user"


class UserFile(NamedTuple):
    """The file of one user, and what a device needs beside it.

    Attributes:
        row: row of the user.
        group: its user group.
        known_count: items its vector was made of.
        vector: float32 [dim], in the space of the file.
        content: the ``.peel`` file.
    """

    row: int
    group: int
    known_count: int
    vector: NDArray[np.float32]
    content: bytes


def make_user_files(
    run: TrainedRun,
    user_rows: NDArray[np.int64],
    budget_bytes: int | None = None,
    item_ids: bool = True,
) -> Iterator[UserFile]:
    """The files of users of the training data, in their order, as ``peel export --user`` writes one.

    The same run and users make the same bytes.

    Args:
        run: the trained run.
        user_rows: [m].
        budget_bytes: budget of what the files hold; None: all blocks.
        item_ids: whether files carry the ids of all items.

    Raises:
        BudgetError: too few bytes for some user's first block.
    """
    import torch

    from peel_ext.train.blending import blend_for_users

    shared: dict[str, Any] = {
        "fold_in": run.fold_in_settings,
        "centroids": run.embedding.rotate(torch.from_numpy(run.centroids)).numpy(),
        "item_ids": run.items.to_ids(range(len(run.items))) if item_ids else None,
    }
    exposure = ExposureConfig(**run.folder.config["exposure"])
    size = max(1, _BATCH_CELLS // len(run.items))
    for start in range(0, len(user_rows), size):
        rows = user_rows[start : start + size]
        vectors = run.user_vectors[rows]
        blend = blend_for_users(
            run.embedding, vectors, run.seen(rows), run.centroids, BlendConfig(), exposure
        )
        for i, row in enumerate(rows.tolist()):
            file = io.BytesIO()
            blend.export(file, i, budget_bytes=budget_bytes, **shared)
            vector = blend.rotate(torch.from_numpy(vectors[i])).numpy()
            known_count = int(run.train.counts[row])
            yield UserFile(row, int(run.user_group[row]), known_count, vector, file.getvalue())


def export_users(
    batch: Any,
    run: str | os.PathLike[str],
    budget_bytes: int | None = None,
    item_ids: bool = False,
) -> Any:
    """Makes the files of a batch of users: a map that Ray Data and Spark run as it is.

    ``ds.map_batches(export_users, batch_format="pyarrow", fn_kwargs={"run": "run/"})`` in Ray; in
    Spark ``df.mapInArrow(lambda batches: (export_users(each, "run/") for each in batches), schema)``.
    A process opens a run once, and has one copy of the table for all its batches.

    Args:
        batch: users of the training data, by their ids in the column ``user``: a table or a record
            batch of pyarrow, or a mapping of names to arrays.
        run: folder of the run, where every process can read it.
        budget_bytes: budget of what the files hold; None: all blocks, and so all bits of all items.
        item_ids: whether files carry the ids of all items, which may be more than the budget.

    Returns:
        A batch of the same kind, one line a user in the same order: ``user``; ``group``;
        ``known_count``, items its ``vector`` float32 [dim] was made of; and ``file``, the bytes of the
        ``.peel`` file.

    Raises:
        BudgetError: too few bytes for some user's first block.
        DataError: no column ``user``, or an id that is not known.
        RunError: no finished run in the folder.
        TypeError: another kind of batch.
    """
    users = _users_of(batch)
    trained = _open_run(os.path.abspath(run))
    try:
        rows = trained.users.to_rows(users)
    except DataError as error:
        raise DataError(f"user {error}") from None
    made = list(make_user_files(trained, rows, budget_bytes, item_ids))
    columns: dict[str, Any] = {
        "group": np.array([each.group for each in made], dtype=np.int64),
        "known_count": np.array([each.known_count for each in made], dtype=np.int64),
        "vector": [each.vector for each in made],
        "file": [each.content for each in made],
    }
    if isinstance(batch, Mapping):
        as_arrays = {
            "vector": np.array(columns["vector"]),
            "file": np.array(columns["file"], object),
        }
        return {_COLUMN: batch[_COLUMN], **columns, **as_arrays}
    return type(batch).from_arrays(
        [batch.column(_COLUMN), *_arrow_columns(columns)], names=[_COLUMN, *columns]
    )


def _arrow_columns(columns: Mapping[str, Any]) -> list[pyarrow.Array]:
    import pyarrow

    types = {"vector": pyarrow.list_(pyarrow.float32()), "file": pyarrow.binary()}
    return [pyarrow.array(values, types.get(name)) for name, values in columns.items()]


def _users_of(batch: Any) -> list[int | str]:
    """The ids in a batch."""
    names = list(batch) if isinstance(batch, Mapping) else getattr(batch, "schema", None)
    if names is None or not (isinstance(batch, Mapping) or hasattr(batch, "column")):
        raise TypeError(
            "batch must be a table or a record batch of pyarrow, or a mapping of names to arrays, "
            f"got a {type(batch).__name__}"
        )
    names = names if isinstance(names, list) else list(names.names)
    if _COLUMN not in names:
        raise DataError(
            f"a batch must have the ids of users in the column {_COLUMN!r}, got {names}"
        )
    if isinstance(batch, Mapping):
        return list(np.asarray(batch[_COLUMN]).tolist())
    return list(batch.column(_COLUMN).to_pylist())


@functools.lru_cache(maxsize=1)
def _open_run(path: str) -> TrainedRun:
    """The run of this process."""
    return TrainedRun.open(path)
