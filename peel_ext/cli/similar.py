"""``peel similar``: the items most like one, by the cosine of their rows, from a ``.peel`` file as a
device has it, or from the whole table of a run folder.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from peel_ext.cli.answers import answer_facts, print_answer, run_facts
from peel_ext.cli.arguments import parse_path
from peel_ext.cli.devices import add_options, check_no_device_options, open_device
from peel_ext.cli.requirements import require_train
from peel_ext.cli.users import find_rows


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("similar", help="find similar items", description=__doc__)
    parser.add_argument(
        "source",
        type=parse_path,
        help="a .peel file or a bundle or its URL, or a run folder of 'peel train'",
    )
    parser.add_argument("item", help="id of the item, which is left out")
    add_options(parser, "items to find")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    if os.path.isdir(options.source):
        return _find_in_run(options)
    with open_device(options) as recommender:
        items, scores = recommender.similar(recommender.parse_item(options.item), options.n)
        ids = items if isinstance(items, list) else items.tolist()
        facts = answer_facts(ids, scores.tolist(), recommender.nbytes)
        print_answer(facts, as_json=options.json)
    return 0


def _find_in_run(options: argparse.Namespace) -> int:
    """In the table of all user groups, in full precision."""
    require_train("safetensors")
    from peel_ext.device import similar_rows
    from peel_ext.device.item_prior import part_tastes
    from peel_ext.train.trained_run import TrainedRun

    if options.no_item_ids or options.budget is not None:
        option = "--no-item-ids" if options.no_item_ids else "--budget"
        raise ValueError(f"{option} is for a .peel file, not for a run folder")
    check_no_device_options(options)
    trained = TrainedRun.open(options.source)
    row = find_rows(trained.items, [options.item], "item")
    n = min(options.n, len(trained.items))
    # Two items are not alike for being popular.
    rows = part_tastes(trained.item_vectors) if trained.prior else trained.item_vectors
    ids, scores = similar_rows(rows, row, n)
    print_answer(run_facts(trained, ids[0], scores[0], trained.full_bytes), as_json=options.json)
    return 0
