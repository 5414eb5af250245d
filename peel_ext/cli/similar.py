"""``peel similar``: the items most like one, by the cosine of their rows, from a ``.peel`` file as a
device has it, or from the whole table of a run folder.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from peel_ext.cli.devices import add_options, open_device, print_items
from peel_ext.cli.requirements import require_train
from peel_ext.cli.users import find_rows


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("similar", help="find similar items", description=__doc__)
    parser.add_argument("source", help="a .peel file or its URL, or a run folder of 'peel train'")
    parser.add_argument("item", help="id of the item, which is left out")
    add_options(parser, "items to find")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    if os.path.isdir(options.source):
        return _find_in_run(options)
    with open_device(options) as recommender:
        items, scores = recommender.similar(recommender.parse_item(options.item), options.n)
        names = items if isinstance(items, list) else items.tolist()
        print_items(names, scores.tolist(), recommender.nbytes, as_json=options.json)
    return 0


def _find_in_run(options: argparse.Namespace) -> int:
    """In the table of all user groups, in full precision."""
    require_train()
    from peel_ext.device import similar_rows
    from peel_ext.train.pipeline import TrainedRun

    if options.no_item_ids or options.budget is not None:
        option = "--no-item-ids" if options.no_item_ids else "--budget"
        raise ValueError(f"{option} is for a .peel file, not for a run folder")
    trained = TrainedRun.open(options.source)
    row = find_rows(trained.items, [options.item], "item")
    n = min(options.n, len(trained.items))
    ids, scores = similar_rows(trained.embedding.weight.detach().numpy(), row, n)
    found = ids[0] >= 0
    names = trained.items.to_ids(ids[0, found])
    print_items(names, scores[0, found].tolist(), trained.full_bytes, as_json=options.json)
    return 0
