"""``peel train``: from interactions to a run folder."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from peel_ext.cli.arguments import parse_count
from peel_ext.cli.narration import Narration
from peel_ext.cli.requirements import require_train
from peel_ext.config import PipelineConfig


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("train", help="train on interactions", description=__doc__)
    parser.add_argument(
        "data",
        help="a .parquet, .csv, .tsv, .inter, .txt (LightGCN) or .dat (MovieLens) file, or a folder "
        "with one, or with train and test files; 'synthetic' makes a small data set",
    )
    parser.add_argument("--out", required=True, help="run folder")
    parser.add_argument("--groups", type=parse_count, help="user groups (default: from the users)")
    parser.add_argument("--epochs", type=parse_count, help="of pretraining")
    parser.add_argument("--layout", choices=("planes", "columns"), default="planes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--target",
        choices=("test", "validation"),
        default="test",
        help="what 'peel evaluate' will measure on; validation is carved from the training data",
    )
    parser.add_argument(
        "--split",
        choices=("random", "last", "time"),
        default="random",
        help="which interactions are the target: random ones or the last of each user, or all after "
        "one moment; a given test file is taken as it is",
    )
    parser.add_argument(
        "--new-user-share",
        type=float,
        default=0.0,
        help="share of the users to hold out of training, for 'peel evaluate --protocol offline' "
        "and 'new' (for example 0.1)",
    )
    parser.add_argument(
        "--k-core", type=int, default=0, help="leave out users and items of fewer interactions"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    require_train()
    from peel_ext.train.pipeline import run_pipeline

    base = PipelineConfig()
    pretraining = {"seed": options.seed}
    if options.epochs is not None:
        pretraining["epochs"] = options.epochs
    config = PipelineConfig(
        split=dataclasses.replace(
            base.split,
            method=options.split,
            target=options.target,
            new_user_share=options.new_user_share,
            k_core=options.k_core,
            seed=options.seed,
        ),
        pretraining=dataclasses.replace(base.pretraining, **pretraining),
        clustering=dataclasses.replace(
            base.clustering, num_groups=options.groups or 0, seed=options.seed
        ),
        layout=options.layout,
    )
    with Narration(options.quiet) as narration:
        run_pipeline(options.data, options.out, config, narration.stage)
    print(options.out)
    return 0
