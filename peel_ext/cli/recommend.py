"""``peel recommend``: the best items for a history of items, from a ``.peel`` file as a device has it,
or from a run folder, there also for a user of its training data, or for many in one file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peel_ext.cli.answers import answer_facts, print_answer, run_facts
from peel_ext.cli.arguments import parse_ids, parse_path, parse_shard
from peel_ext.cli.devices import add_options, check_no_device_options, open_device
from peel_ext.cli.list_files import SUFFIXES, open_lists
from peel_ext.cli.narration import Narration, note_target_kept
from peel_ext.cli.requirements import require_train
from peel_ext.cli.users import find_user, read_users
from peel_ext.errors import DataError, UnknownUserWarning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peel_ext.train.trained_run import TrainedRun


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("recommend", help="recommend items", description=__doc__)
    parser.add_argument(
        "source",
        type=parse_path,
        help="a .peel file or a bundle or its URL, or a run folder of 'peel train'",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--user", help="id of a user of the training data; what it had there is left out"
    )
    who.add_argument(
        "--history", type=parse_ids, help="comma-separated ids of items; they are left out"
    )
    who.add_argument(
        "--users",
        metavar="all|FILE",
        help="many users of the training data, each once, for --out: a file of one id a line, or - "
        "for standard input",
    )
    parser.add_argument(
        "--out",
        type=_parse_lists_file,
        metavar="FILE",
        help="where the lists of --users go: a .parquet, .csv or .jsonl file; in the order of the "
        "users, with a budget by user group",
    )
    parser.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="of the users of --users the I-th of N parts: the parts' files one after another are "
        "those of all users",
    )
    add_options(parser, "items to recommend")
    parser.add_argument("--quiet", action="store_true", help="print the result alone")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    if (options.users is None) != (options.out is None):
        raise ValueError("--users and --out must be given together")
    if options.shard is not None and options.users is None:
        raise ValueError("--shard is for --users")
    if not os.path.isdir(options.source):
        return _recommend_on_device(options)
    require_train("safetensors", *(["torch"] if options.budget is not None else []))
    from peel_ext.train.trained_run import TrainedRun

    if options.no_item_ids:
        raise ValueError("--no-item-ids is for a .peel file, not for a run folder")
    check_no_device_options(options)
    trained = TrainedRun.open(options.source)
    if options.users is not None:
        _recommend_to_many(trained, options)
    else:
        _recommend_to_one(trained, options)
    if not options.quiet:
        note_target_kept(trained)
    return 0


def _recommend_to_one(trained: TrainedRun, options: argparse.Namespace) -> None:
    import numpy as np

    from peel_ext.data import ItemLists

    person = find_user(trained, options.user, options.history)
    ranked = trained.rank(
        person.vector[None],
        np.array([person.group]),
        ItemLists.from_lists([person.seen]),
        min(options.n, len(trained.items)),
        _resolve_budget(trained, options),
    )
    held = int(ranked.nbytes[0])
    facts = run_facts(trained, ranked.rows[0], ranked.scores[0], held, group=person.group)
    print_answer(facts, as_json=options.json, quiet=options.quiet)


def _recommend_to_many(trained: TrainedRun, options: argparse.Namespace) -> None:
    """Writes the lists of many users, and says where they are."""
    if options.out.suffix != ".jsonl":
        require_train("pyarrow")
    began = time.perf_counter()
    users = read_users(trained, options.users)
    if options.shard is not None:
        users = users[options.shard.of(len(users))]
    limit, n = _resolve_budget(trained, options), min(options.n, len(trained.items))
    done, num_items = 0, 0
    with contextlib.ExitStack() as stack:
        try:
            write = stack.enter_context(open_lists(options.out, trained))
        except OSError as error:
            raise ValueError(f"--out {options.out} cannot be written: {error.strerror}") from None
        narration = stack.enter_context(Narration(options.quiet))
        narration.stage("recommend", 0, len(users), "")
        if limit is not None:
            _check_budget(trained, users, limit)
        for positions, ranked in trained.rank_users(users, n, limit):
            write(users[positions], ranked)
            done += len(positions)
            num_items += int((ranked.rows >= 0).sum())
            narration.stage("recommend", done, len(users), "")
        seconds = time.perf_counter() - began
        told = f"{len(users):,} users, {num_items:,} items, {seconds:.1f} s"
        narration.stage("recommend", 1, 1, told)
    if options.json:
        facts = {"path": str(options.out), "users": len(users), "items": num_items}
        json.dump(facts, sys.stdout)
        print()
    else:
        print(options.out)


def _check_budget(trained: TrainedRun, users: NDArray[np.int64], budget_bytes: int) -> None:
    """Raises BudgetError before any work where the user group that needs most cannot be had."""
    import numpy as np

    groups = np.unique(trained.user_group[users]).tolist()
    trained.embedding.generate(
        max(groups, key=trained.embedding.minimum_budget_bytes), budget_bytes
    )


def _resolve_budget(trained: TrainedRun, options: argparse.Namespace) -> int | None:
    return None if options.budget is None else options.budget.resolve(trained.full_bytes)


def _recommend_on_device(options: argparse.Namespace) -> int:
    """From a .peel file, on the base install."""
    if options.history is None:
        from peel_ext.device.http_source import is_url

        if not is_url(options.source) and not os.path.exists(options.source):
            raise DataError(f"{options.source}: no such run folder")
        which = "--user" if options.users is None else "--users"
        raise DataError(
            f"{which} needs a run folder: a .peel file knows no users, give --history, and of a bundle "
            "--bundle-user"
        )
    with open_device(options) as recommender:
        history = [recommender.parse_item(text) for text in options.history]
        with warnings.catch_warnings(
            record=True, action="always", category=UnknownUserWarning
        ) as told:
            items, scores = recommender.recommend(history, n=options.n)
        for warning in told if not options.quiet else []:
            print(f"peel: {warning.message}", file=sys.stderr)
        ids = items if isinstance(items, list) else items.tolist()
        held, group = recommender.nbytes, recommender.group
        facts = answer_facts(ids, scores.tolist(), held, group=group)
        print_answer(facts, as_json=options.json, quiet=options.quiet)
    return 0


def _parse_lists_file(text: str) -> Path:
    """A path with a suffix that says what kind of file it is."""
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no suffix that is known: expected {', '.join(SUFFIXES)}"
        )
    return path
