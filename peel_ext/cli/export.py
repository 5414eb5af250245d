"""``peel export``: one ``.peel`` file a user group, every budget in each."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from peel_ext.cli.narration import Narration
from peel_ext.cli.requirements import require_train


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("export", help="write files for devices", description=__doc__)
    parser.add_argument("folder", help="run folder of 'peel train'")
    parser.add_argument("--out", required=True, help="folder of the files, made if need be")
    parser.add_argument(
        "--group", type=_parse_groups, default=None, help="a user group, or 'all' (default)"
    )
    parser.add_argument(
        "--no-item-ids", action="store_true", help="let devices tell items by row, to save bytes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    require_train()
    import torch

    from peel_ext.format import FoldInSettings
    from peel_ext.train.pipeline import TrainedRun

    trained = TrainedRun.open(options.folder)
    num_groups = len(trained.centroids)
    groups = range(num_groups) if options.group is None else [options.group]
    if options.group is not None and options.group >= num_groups:
        raise IndexError(f"--group must be in [0, {num_groups}), got {options.group}")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    centroids = trained.embedding.rotate(torch.from_numpy(trained.centroids)).numpy()
    names = None if options.no_item_ids else trained.items.to_ids(range(len(trained.items)))
    files = []
    with Narration(options.quiet) as narration:
        for done, group in enumerate(groups):
            narration.stage("export", done, len(groups), "")
            path = out / f"group-{group}.peel"
            trained.embedding.export(
                path,
                group,
                fold_in=FoldInSettings(temperature=trained.temperature),
                centroids=centroids,
                item_ids=names,
            )
            files.append({"group": group, "path": str(path), "bytes": path.stat().st_size})
        narration.stage("export", 1, 1, f"{len(files)} files")
    if options.json:
        json.dump(files, sys.stdout, indent=2)
        print()
    else:
        for file in files:
            print(file["path"])
    return 0


def _parse_groups(text: str) -> int | None:
    """Reads a user group, or None from ``all``."""
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no user group and not 'all'")
    return int(text)
