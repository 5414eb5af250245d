"""``peel vectors``: the vectors of a run for other programs. The dot product of a user's and an item's
vector ranks items as ``peel recommend`` does without a budget.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peel_ext.cli.arguments import parse_path
from peel_ext.cli.requirements import require_train
from peel_ext.errors import DataError
from peel_ext.format.file import replace_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from peel_ext.data import IdMap


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "vectors", help="write vectors for other programs", description=__doc__
    )
    parser.add_argument("folder", type=parse_path, help="run folder of 'peel train'")
    parser.add_argument(
        "--out",
        type=parse_path,
        required=True,
        help="folder of the .npy files, made if need be: item_vectors and user_vectors, and "
        "item_ids and user_ids with the id of every row",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    require_train("safetensors")
    import numpy as np

    from peel_ext.train.trained_run import TrainedRun

    trained = TrainedRun.open(options.folder)
    arrays = {
        "item_vectors": trained.item_vectors,
        "user_vectors": trained.user_vectors,
        "item_ids": _plain_ids(trained.items, "item"),
        "user_ids": _plain_ids(trained.users, "user"),
    }
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be made: {error.strerror}") from None
    files = []
    with contextlib.ExitStack() as stack:  # no file replaces an old one before all are written
        for name, array in arrays.items():
            path = out / f"{name}.npy"
            np.save(stack.enter_context(replace_atomically(path)), array, allow_pickle=False)
            files.append({"path": str(path), "shape": array.shape, "dtype": str(array.dtype)})
    if options.json:
        json.dump(files, sys.stdout, indent=2)
        print()
    else:
        for file in files:
            print(file["path"])
    return 0


def _plain_ids(ids: IdMap, what: str) -> NDArray[Any]:
    """Ids as a file without objects has them: int64, or unicode as wide as the longest.

    Raises:
        DataError: an id that would come back as another one.
    """
    if ids.holds_integers:
        return ids.ids
    plain = ids.ids.astype(str)
    odd = plain != ids.ids
    if odd.any():
        raise DataError(
            f"{what} {ids.ids[odd][0]!r} cannot be kept in a .npy file: it ends with a zero character"
        )
    return plain
