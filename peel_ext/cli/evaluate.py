"""``peel evaluate``: quality per byte of a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from peel_ext.cli.arguments import Budget, parse_budgets, parse_count
from peel_ext.cli.narration import Narration
from peel_ext.cli.requirements import require_train


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("evaluate", help="measure quality per byte", description=__doc__)
    parser.add_argument("folder", help="run folder of 'peel train'")
    parser.add_argument(
        "--budgets",
        type=parse_budgets,
        default=parse_budgets("10%,5%,2.5%,1%"),
        help="comma-separated, in bytes (65536, 64KiB) or shares of the float32 table (1%%)",
    )
    parser.add_argument("-n", type=parse_count, default=20, help="items recommended")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    require_train()
    from peel_ext.evaluation import evaluate_known_users
    from peel_ext.train.pipeline import TrainedRun

    trained = TrainedRun.open(options.folder)
    budgets: list[Budget] = options.budgets
    sizes = [budget.resolve(trained.full_bytes) for budget in budgets]
    with Narration(options.quiet) as narration:
        results = evaluate_known_users(
            trained,
            sizes,
            min(options.n, len(trained.items)),
            lambda done, total: narration.stage("evaluate", done, total, ""),
        )
    full = results[0].quality
    rows = [
        {
            "budget": name,
            "budget_bytes": result.budget_bytes,
            "max_bytes": result.max_bytes,
            "mean_rows": round(result.mean_rows, 1),
            "recall": result.quality.recall,
            "ndcg": result.quality.ndcg,
            "recall_share": _share(result.quality.recall, full.recall),
            "ndcg_share": _share(result.quality.ndcg, full.ndcg),
        }
        for name, result in zip(["full", *(b.text for b in budgets)], results, strict=True)
    ]
    summary = {
        "protocol": "known users, full ranking, training items excluded",
        "target": trained.folder.config["split"]["target"],
        "n": options.n,
        "users": full.num_users,
        "items": len(trained.items),
        "groups": len(trained.centroids),
        "seed": trained.folder.config["pretraining"]["seed"],
        "training_seconds": round(sum(s["seconds"] for s in trained.folder.stages.values()), 1),
        "rows": rows,
    }
    if options.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
    else:
        _print_table(summary)
    return 0


def _share(value: float, full: float) -> float | None:
    return value / full if full > 0 else None


def _print_table(summary: dict[str, Any]) -> None:
    n = summary["n"]
    print(
        f"{summary['protocol']}; {summary['users']} users, {summary['items']} items, "
        f"{summary['groups']} groups, {summary['target']} interactions"
    )
    print(f"{'budget':>8} {'bytes held':>11} {'rows':>8} {f'Recall@{n}':>10} {f'NDCG@{n}':>9} "
          f"{'of full':>8}")  # fmt: skip
    for row in summary["rows"]:
        share = f"{row['recall_share']:.1%}" if row["recall_share"] is not None else "-"
        print(
            f"{row['budget']:>8} {row['max_bytes']:>11,} {row['mean_rows']:>8,.0f} "
            f"{row['recall']:>10.4f} {row['ndcg']:>9.4f} {share:>8}"
        )
