"""``peel evaluate``: quality per byte of a trained run, beside the rivals."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from peel_ext.cli.arguments import Budget, parse_budgets, parse_count, parse_path, parse_shard
from peel_ext.cli.narration import Narration, suggest
from peel_ext.cli.requirements import require_train
from peel_ext.config import DEVICES
from peel_ext.errors import BudgetError, RunError

if TYPE_CHECKING:
    from peel_ext.evaluation import Evaluation
    from peel_ext.scale.collectives import Collectives
    from peel_ext.train.pipeline import TrainedRun

_PROTOCOLS = {
    "known": "known users, full ranking, training items excluded",
    "new": "new users, folded in from their history by the server, full ranking",
    "offline": "new users, half of the history after the download and on the device alone",
    "time": "known users, all that came after one moment, full ranking",
}


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("evaluate", help="measure quality per byte", description=__doc__)
    parser.add_argument("folder", type=parse_path, help="run folder of 'peel train'")
    parser.add_argument(
        "--protocol",
        choices=tuple(_PROTOCOLS),
        default="known",
        help="; ".join(f"{name}: {what}" for name, what in _PROTOCOLS.items()),
    )
    parser.add_argument(
        "--budgets",
        type=parse_budgets,
        default=parse_budgets("10%,5%,2.5%,1%"),
        help="comma-separated, in bytes (65536, 64KiB) or shares of the float32 table (1%%); "
        "default: 10%%,5%%,2.5%%,1%%",
    )
    parser.add_argument("-n", type=parse_count, default=20, help="items recommended (default: 20)")
    parser.add_argument(
        "--blends",
        action="store_true",
        help="measure tables made for each user alone too, for new users and offline",
    )
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="measure other ways of making the table small under the same bytes too",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="where to rank (default: cpu)"
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="measure the I-th of N parts of the users, into the run folder, and tell no figures",
    )
    parts.add_argument(
        "--merge",
        type=parse_count,
        metavar="N",
        help="tell the figures of N parts that --shard has measured with the same options",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    require_train()
    from peel_ext.evaluation import BLENDED_PROTOCOLS
    from peel_ext.scale import collectives

    if options.blends and options.protocol not in BLENDED_PROTOCOLS:
        raise ValueError(
            f"--blends needs --protocol {' or '.join(BLENDED_PROTOCOLS)}, got {options.protocol}"
        )
    in_parts = options.shard is not None or options.merge is not None
    if in_parts and (options.rivals or collectives.num_processes() > 1):
        what = "--rivals, which are chosen by all users" if options.rivals else "several processes"
        raise ValueError(f"--shard and --merge do not go together with {what}")
    if collectives.num_processes() == 1:
        _measure(options, None)
        return 0
    with collectives.Collectives.joined(options.device) as ranks:
        _measure(options, ranks)
    return 0


def _measure(options: argparse.Namespace, ranks: Collectives | None) -> None:
    """Measures, on all ranks together, and tells and keeps the figures on the first one."""
    from peel_ext.evaluation import evaluate_run
    from peel_ext.evaluation.shards import AllShards, OneShard
    from peel_ext.evaluation.sharing import check_same_run
    from peel_ext.train.pipeline import TrainedRun

    trained = TrainedRun.open(options.folder)
    is_first = ranks is None or ranks.is_first
    if ranks is not None:
        check_same_run(trained.folder, ranks)
    budgets, too_small = _fitting(trained, options.budgets)
    sizes = [budget.resolve(trained.full_bytes) for budget in budgets]
    settings = {
        "protocol": options.protocol, "budgets": sizes, "n": options.n, "blends": options.blends,
    }  # fmt: skip
    shard = None if options.shard is None else OneShard(options.shard.index, options.shard.count)
    merged = None if options.merge is None else AllShards(trained, settings, options.merge)
    with Narration(options.quiet or not is_first) as narration:
        evaluation = evaluate_run(
            trained,
            options.protocol,
            sizes,
            n=min(options.n, len(trained.items)),
            with_blends=options.blends,
            with_rivals=options.rivals,
            on_progress=lambda done, total: narration.stage("evaluate", done, total, ""),
            device=options.device,
            ranks=shard or merged or ranks,
        )
    if shard is not None:
        print(shard.save(trained, settings))
        return
    evaluation = dataclasses.replace(evaluation, left_out=[*too_small, *evaluation.left_out])
    if is_first:
        names = dict(zip(sizes, (budget.text for budget in budgets), strict=True))
        _tell(options, trained, evaluation, names)


def _tell(
    options: argparse.Namespace, trained: TrainedRun, evaluation: Evaluation, names: dict[int, str]
) -> None:
    """Prints the figures, and keeps them in the run folder."""
    from peel_ext.evaluation.record import keep_evaluation
    from peel_ext.evaluation.summary import summarise

    for reason in evaluation.left_out:
        print(f"peel: left out: {reason}", file=sys.stderr)
    summary = summarise(trained, evaluation, names)
    if options.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
    else:
        _print_tables(trained, evaluation, names)
    try:
        keep_evaluation(trained, summary)
    except RunError as error:
        print(f"peel: note: not kept for 'peel report': {error}", file=sys.stderr)
    else:
        suggest(f"peel report {shlex.quote(options.folder)} --out report.html", options.quiet)


def _fitting(trained: TrainedRun, budgets: list[Budget]) -> tuple[list[Budget], list[str]]:
    """The budgets that have room for a block of every group, and what is wrong with the others.

    Raises:
        BudgetError: there is no room under any of them.
    """
    fitting, too_small = [], []
    for budget in budgets:
        try:
            with trained.embedding.budget(budget.resolve(trained.full_bytes)):
                fitting.append(budget)
        except BudgetError as error:
            too_small.append(f"budget {budget.text}: {error}")
            smallest = error.minimum_bytes
    if not fitting:
        raise BudgetError("; ".join(too_small), smallest)
    return fitting, too_small


def _print_tables(trained: TrainedRun, evaluation: Evaluation, names: dict[int, str]) -> None:
    target = trained.folder.config["split"]["target"]
    print(
        f"{_PROTOCOLS[evaluation.protocol]}; {len(evaluation.ceiling.users.users)} users, "
        f"{len(trained.items)} items, {len(trained.centroids)} groups, {target} interactions"
    )
    _print_curve(evaluation, names)
    if evaluation.rivals:
        print()
        _print_rivals(evaluation, names)


def _print_curve(evaluation: Evaluation, names: dict[int, str]) -> None:
    from peel_ext.evaluation.summary import describe

    n = evaluation.n
    gap = "" if evaluation.floor is None else f" {'of the gap':>11}"
    print(f"{'budget':>8} {'bytes held':>11} {'rows':>8} {f'Recall@{n}':>10} {f'NDCG@{n}':>9} "
          f"{'of full':>8}{gap}")  # fmt: skip
    rows = [evaluation.ceiling, *evaluation.curve, *evaluation.others]
    if evaluation.floor is not None:
        rows.insert(1, evaluation.floor)
    method = "PEE"
    for measurement in rows:
        if measurement in evaluation.others and measurement.method != method:
            method = measurement.method
            print(f"{method}:")
        line = describe(evaluation, measurement, names)
        share = "-" if line["recall_share"] is None else f"{line['recall_share']:.1%}"
        name = "shipped" if measurement is evaluation.floor else line["budget"]
        text = (
            f"{name:>8} {line['max_bytes']:>11,} {line['mean_rows']:>8,.0f} "
            f"{line['recall']:>10.4f} {line['ndcg']:>9.4f} {share:>8}"
        )
        if line.get("gap_recovered") is not None:
            text += f" {line['gap_recovered']:>11.1%}"
        print(text)


def _print_rivals(evaluation: Evaluation, names: dict[int, str]) -> None:
    """Recall under each budget, one line a method; of a rival the variant measured."""
    from peel_ext.evaluation import lead

    budgets = [each.budget_bytes for each in evaluation.curve if each.budget_bytes is not None]
    ours = dict(zip(budgets, evaluation.curve, strict=True))
    best = {budget: evaluation.best_rivals(budget) for budget in budgets}
    families = list(dict.fromkeys(rival.method for rival in evaluation.rivals))
    width = max(map(len, families))
    head = " ".join(f"{names[budget]:>8}" for budget in budgets)
    print(f"{f'Recall@{evaluation.n} at the same bytes':<{width}} {head}")
    print(f"{'PEE':<{width}} " + _cells([ours[budget].users.recall.mean() for budget in budgets]))
    for family in families:
        found = [[each for each in best[budget] if each.method == family] for budget in budgets]
        values = [each[0].users.recall.mean() if each else None for each in found]
        print(f"{family:<{width}} " + _cells(values))
    print(f"Of each rival the better one, for all users, of the two variants best for "
          f"{evaluation.num_choosers} of them, drawn with a fixed seed.")  # fmt: skip
    print("PEE minus the best rival with one table for all, 95% interval:")
    for budget in budgets:
        shared = [each for each in best[budget] if not each.per_group]
        if shared:
            rival = max(shared, key=lambda each: float(each.users.recall.mean()))
            found_lead = lead(ours[budget], rival)
            print(
                f"{names[budget]:>8} {found_lead.mean:+.4f} ({found_lead.low:+.4f} to "
                f"{found_lead.high:+.4f}) over {rival.method}, {rival.variant}"
            )


def _cells(values: list[Any]) -> str:
    return " ".join(f"{'-':>8}" if value is None else f"{value:>8.4f}" for value in values)
