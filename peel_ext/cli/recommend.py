"""``peel recommend``: the best items for a history of items, from a ``.peel`` file as a device has it,
or from a run folder, there also for a user of its training data.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from peel_ext.cli.arguments import Budget, parse_budget, parse_count, parse_ids
from peel_ext.cli.requirements import require_train
from peel_ext.cli.users import find_user
from peel_ext.errors import DataError, FormatError, SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peel_ext.train.pipeline import TrainedRun


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("recommend", help="recommend items", description=__doc__)
    parser.add_argument("source", help="a .peel file or its URL, or a run folder of 'peel train'")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="id of a user of the training data")
    who.add_argument(
        "--history", type=parse_ids, help="comma-separated ids of items; they are left out"
    )
    parser.add_argument("-n", type=parse_count, default=20, help="items to recommend")
    parser.add_argument("--budget", type=parse_budget, help="bytes or a share (default: all)")
    parser.add_argument(
        "--no-item-ids",
        action="store_true",
        help="tell items by row, also those of a .peel file that has not arrived whole",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    if not os.path.isdir(options.source):
        return _recommend_on_device(options)
    require_train()
    from peel_ext.train.pipeline import TrainedRun

    if options.no_item_ids:
        raise ValueError("--no-item-ids is for a .peel file, not for a run folder")
    trained = TrainedRun.open(options.source)
    vector, group, seen = find_user(trained, options.user, options.history)
    n = min(options.n, len(trained.items))
    ids, scores, held = _recommend(trained, vector, group, seen, n, options.budget)
    found = [(item, float(score)) for item, score in zip(ids, scores, strict=True) if item >= 0]
    names = trained.items.to_ids([item for item, _ in found])
    _print(group, held, list(names), [score for _, score in found], options.json)
    return 0


def _print(group: int, held: int, names: list[Any], scores: list[float], as_json: bool) -> None:
    if as_json:
        items = [{"item": name, "score": score} for name, score in zip(names, scores, strict=True)]
        json.dump({"group": group, "bytes": held, "items": items}, sys.stdout)
        print()
        return
    for name, score in zip(names, scores, strict=True):
        print(f"{name}\t{score:.4f}")
    print(f"group {group}, {held:,} bytes held", file=sys.stderr)


def _recommend_on_device(options: argparse.Namespace) -> int:
    """From a .peel file, on the base install."""
    from peel_ext.device import DeviceRecommender

    if options.user is not None:
        raise DataError("--user needs a run folder: a .peel file knows no users, give --history")
    file, budget = options.source, options.budget
    limit = None
    if budget is not None:
        limit = budget.resolve(_full_bytes(file) if budget.unit == "%" else 0)
    with DeviceRecommender.open(file, limit, item_ids=not options.no_item_ids) as recommender:
        history = [recommender.parse_item(text) for text in options.history]
        items, scores = recommender.recommend(history, n=options.n)
        names = items if isinstance(items, list) else items.tolist()
        _print(recommender.group, recommender.nbytes, names, scores.tolist(), options.json)
    return 0


def _full_bytes(file: str) -> int:
    """Bytes of the table in float32, by the header alone: the rest may be far away, or large."""
    from peel_ext.device.sources import HttpSource
    from peel_ext.format import read_header
    from peel_ext.format.layout import HEADER_BYTES

    try:
        if file.startswith(("http://", "https://")):
            data = HttpSource(file).read(0, HEADER_BYTES)
        else:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
            with open(descriptor, "rb") as opened:
                data = opened.read(HEADER_BYTES) or b""
        header = read_header(data)
    except FormatError as error:
        raise FormatError(f"{file}: {error}") from None
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{file}: cannot be opened: {error.strerror}") from None
    return header.num_embeddings * header.dim * 4


def _recommend(
    trained: TrainedRun,
    vector: NDArray[np.float32],
    group: int,
    seen: NDArray[np.int64],
    n: int,
    budget: Budget | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """Items, scores and bytes held."""
    import torch

    from peel_ext.ops import gathered_score

    users = torch.from_numpy(vector[None].copy())
    if budget is None:
        indices, scores = gathered_score(
            users,
            trained.embedding.weight,
            n,
            exclude_indptr=torch.tensor([0, len(seen)]),
            exclude=torch.from_numpy(seen),
        )
        return indices[0].numpy(), scores[0].numpy(), trained.full_bytes
    pee = trained.embedding.generate(group, budget.resolve(trained.full_bytes))
    ids, best = pee.score(trained.embedding.rotate(users).numpy(), n, [seen])
    return ids[0], best[0], pee.nbytes
