"""``peel export``: one ``.peel`` file a user group, every budget in each; or one for a single user,
who gets what the nearest groups and its own list say (``user.peel``), with its vector in the space of
the file (``user.npy``); or the same for many users, a file each by its id, for ``peel bundle``, and a table
of their vectors. Of vectors of any model, one file for similarity search (``items.peel``).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peel_ext.cli.arguments import parse_budget, parse_ids, parse_path, parse_shard
from peel_ext.cli.narration import Narration, note_target_kept
from peel_ext.cli.requirements import require_train
from peel_ext.cli.users import find_user, read_users
from peel_ext.cli.vector_table import add_vector_options, check_vector_options, export_vectors
from peel_ext.config import BlendConfig, ExposureConfig
from peel_ext.format.bundle import user_file_name
from peel_ext.format.file import replace_atomically, write_atomically

if TYPE_CHECKING:
    from peel_ext.train.trained_run import TrainedRun


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("export", help="write files for devices", description=__doc__)
    parser.add_argument("folder", type=parse_path, nargs="?", help="run folder of 'peel train'")
    parser.add_argument(
        "--out", type=parse_path, required=True, help="folder of the files, made if need be"
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--group", type=_parse_groups, default=None, help="a user group, or 'all' (default)"
    )
    whose.add_argument("--user", help="for one user of the training data")
    whose.add_argument(
        "--history", type=parse_ids, help="for one user with these items, comma-separated ids"
    )
    whose.add_argument(
        "--users",
        metavar="all|FILE",
        help="for many users of the training data: a file of one id a line, or - for standard input",
    )
    parser.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="of the user groups, or of --users, the I-th of N parts, for one of N processes",
    )
    parser.add_argument(
        "--budget",
        type=parse_budget,
        help="the largest budget of a device, in bytes or as a share: leave out what it would not hold",
    )
    parser.add_argument(
        "--no-item-ids", action="store_true", help="let devices tell items by row, to save bytes"
    )
    add_vector_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    check_vector_options(options)
    out = Path(options.out)
    if options.item_embeddings is not None:
        _make_folder(out)
        return export_vectors(options)
    require_train()
    from peel_ext.train.trained_run import TrainedRun

    trained = TrainedRun.open(options.folder)
    num_groups = len(trained.centroids)
    if options.group not in (None, "all") and options.group >= num_groups:
        raise IndexError(f"--group must be in [0, {num_groups}), got {options.group}")
    _make_folder(out)
    if options.users is not None:
        return _export_for_many(trained, options, out)
    shared = _shared_parts(trained, options)
    single = options.user is not None or options.history is not None
    if options.shard is not None and (single or options.group not in (None, "all")):
        raise ValueError("--shard is for all user groups, or for --users")
    groups = range(num_groups) if options.group in (None, "all") else [options.group]
    if options.shard is not None:
        groups = groups[options.shard.of(num_groups)]
    files = []
    with Narration(options.quiet) as narration:
        if single:
            narration.stage("export", 0, 1, "")
            files.append(_export_for_user(trained, options, out, shared))
        else:
            for done, group in enumerate(groups):
                narration.stage("export", done, len(groups), "")
                path = out / f"group-{group}.peel"
                trained.embedding.export(path, group, **shared)
                files.append({"group": group, "path": str(path), "bytes": path.stat().st_size})
        narration.stage("export", 1, 1, f"{len(files)} files")
    if not options.quiet:
        note_target_kept(trained)
        _note_others(out, {Path(file["path"]).name for file in files}, num_groups)
    if options.json:
        json.dump(files, sys.stdout, indent=2)
        print()
    else:
        for file in files:
            print(file["path"])
    return 0


def _shared_parts(trained: TrainedRun, options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of an export that all files of a run have in common."""
    import torch

    items = None if options.no_item_ids else trained.items.to_ids(range(len(trained.items)))
    shared: dict[str, Any] = {
        "fold_in": trained.fold_in_settings,
        "centroids": trained.embedding.rotate(torch.from_numpy(trained.centroids)).numpy(),
        "item_ids": items,
    }
    if options.budget is not None:
        shared["budget_bytes"] = options.budget.resolve(trained.full_bytes)
    return shared


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be made: {error.strerror}") from None


def _note_others(out: Path, written: set[str], num_groups: int) -> None:
    """Names files of user groups that this run does not have: they are of another one."""
    ours = written | {f"group-{group}.peel" for group in range(num_groups)}
    others = sorted(each.name for each in out.glob("group-*.peel") if each.name not in ours)
    if others:
        print(f"peel: note: of another run, in {out}: {', '.join(others)}", file=sys.stderr)


def _export_for_user(
    trained: TrainedRun, options: argparse.Namespace, out: Path, shared: dict[str, Any]
) -> dict[str, Any]:
    """Writes the file of one user, and the vector a device continues."""
    import numpy as np
    import torch

    from peel_ext.data import ItemLists
    from peel_ext.train.blending import blend_for_users

    person = find_user(trained, options.user, options.history)
    blend = blend_for_users(
        trained.embedding, person.vector[None], ItemLists.from_lists([person.seen]),
        trained.centroids, BlendConfig(), ExposureConfig(**trained.folder.config["exposure"]),
    )  # fmt: skip
    path, beside = out / "user.peel", out / "user.npy"
    content = io.BytesIO()
    np.save(content, blend.rotate(torch.from_numpy(person.vector)).numpy())
    # Both are there before either replaces one of another user, which its other half would not fit.
    places = [Path(os.path.realpath(each)) for each in (path, beside)]
    new = [each.with_name(f".{each.name}.{os.getpid()}.new.tmp") for each in places]
    try:
        blend.export(new[0], 0, **shared)
        write_atomically(new[1], content.getvalue())
        for made, place in zip(new, places, strict=True):
            made.replace(place)
    finally:
        for made in new:
            made.unlink(missing_ok=True)
    return {
        "group": person.group, "path": str(path), "bytes": path.stat().st_size,
        "vector": str(beside), "known_count": person.known_count,
    }  # fmt: skip


def _export_for_many(trained: TrainedRun, options: argparse.Namespace, out: Path) -> int:
    """Writes the files of many users, and at the end a table of their vectors."""
    import pyarrow
    import pyarrow.parquet

    from peel_ext.train.user_files import make_user_files

    rows = read_users(trained, options.users)
    if options.shard is not None:
        rows = rows[options.shard.of(len(rows))]
    names = [user_file_name(user) for user in trained.users.to_ids(rows)]
    budget = None if options.budget is None else options.budget.resolve(trained.full_bytes)
    columns: dict[str, list[Any]] = {"group": [], "known_count": [], "vector": []}
    with Narration(options.quiet) as narration:
        made = make_user_files(trained, rows, budget, not options.no_item_ids)
        for done, (name, file) in enumerate(zip(names, made, strict=True)):
            narration.stage("export", done, len(rows), "")
            write_atomically(out / name, file.content)
            columns["group"].append(file.group)
            columns["known_count"].append(file.known_count)
            columns["vector"].append(file.vector)
        narration.stage("export", 1, 1, f"{len(rows)} files")
    if not options.quiet:
        note_target_kept(trained)
    path = out / (
        "vectors.parquet" if options.shard is None else f"vectors-{options.shard}.parquet"
    )
    table = pyarrow.table(
        {
            "user": pyarrow.array(trained.users.ids[rows]),
            "group": pyarrow.array(columns["group"], pyarrow.int64()),
            "known_count": pyarrow.array(columns["known_count"], pyarrow.int64()),
            "vector": pyarrow.array(columns["vector"], pyarrow.list_(pyarrow.float32())),
        }
    )
    with replace_atomically(path) as opened:
        pyarrow.parquet.write_table(table, opened)
    if options.json:
        json.dump({"users": len(rows), "vectors": str(path)}, sys.stdout)
        print()
    else:
        print(path)
    return 0


def _parse_groups(text: str) -> int | str:
    """Reads a user group, or ``all``."""
    if text == "all":
        return text
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no user group and not 'all'")
    return int(text)
