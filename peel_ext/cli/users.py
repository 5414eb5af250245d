"""Whom a command is for: a user of the training data, or whoever has a history of items."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from peel_ext.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peel_ext.data import IdMap
    from peel_ext.train.pipeline import TrainedRun


def find_user(
    trained: TrainedRun, user: str | None, history: list[str] | None
) -> tuple[NDArray[np.float32], int, NDArray[np.int64]]:
    """Vector float32 [dim], user group, and items already seen [m], ascending.

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
        seen = trained.train_items[trained.train_indptr[row] : trained.train_indptr[row + 1]]
        return trained.user_vectors[row], int(trained.user_group[row]), seen
    items = np.unique(find_rows(trained.items, history or [], "item"))
    table = trained.embedding.weight.detach().numpy()
    vector = fold_in_softmax(table, items, temperature=trained.temperature)
    return vector, int(nearest_group(vector[None], trained.centroids)[0]), items


def find_rows(known: IdMap, text: list[str], what: str) -> NDArray[np.int64]:
    """Rows int64 of ids given as text.

    Raises:
        DataError: an id that is not known; calls it ``what``.
    """
    integers = known.ids.dtype.kind == "i"
    for name in text:
        if integers and not re.fullmatch(" *-?[0-9]{1,19} *", name):  # int() would take '1_0', too
            raise DataError(f"{what} {name!r} is not known: ids of this run are integers")
    values: list[int | str] = [int(name) if integers else name for name in text]
    try:
        return known.to_rows(values)
    except DataError as error:
        raise DataError(f"{what} {error}") from None
