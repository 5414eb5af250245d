"""``peel recommend``: the best items for a history of items, from a ``.peel`` file as a device has it,
or from a run folder, there also for a user of its training data.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from peel_ext.cli.arguments import Budget, parse_ids
from peel_ext.cli.devices import add_options, open_device, print_items
from peel_ext.cli.requirements import require_train
from peel_ext.cli.users import find_user
from peel_ext.errors import DataError

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
    add_options(parser, "items to recommend")
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
    print_items(names, [score for _, score in found], held, as_json=options.json, group=group)
    return 0


def _recommend_on_device(options: argparse.Namespace) -> int:
    """From a .peel file, on the base install."""
    if options.user is not None:
        raise DataError("--user needs a run folder: a .peel file knows no users, give --history")
    with open_device(options) as recommender:
        history = [recommender.parse_item(text) for text in options.history]
        items, scores = recommender.recommend(history, n=options.n)
        names = items if isinstance(items, list) else items.tolist()
        held, group = recommender.nbytes, recommender.group
        print_items(names, scores.tolist(), held, as_json=options.json, group=group)
    return 0


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
            exclude_indptr=torch.tensor([0, len(seen)], dtype=torch.int64, device="cpu"),
            exclude=torch.from_numpy(seen),
        )
        return indices[0].numpy(), scores[0].numpy(), trained.full_bytes
    pee = trained.embedding.generate(group, budget.resolve(trained.full_bytes))
    ids, best = pee.score(trained.embedding.rotate(users).numpy(), n, [seen])
    return ids[0], best[0], pee.nbytes
