"""The table of another model's vectors: ``peel export --item-embeddings``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from peel_ext.cli.requirements import require_train
from peel_ext.errors import DataError

_INTEGER = re.compile("-?(0|[1-9][0-9]{0,17})")


def add_vector_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that take the place of a run folder."""
    options = parser.add_argument_group("vectors of any model, in place of a run folder")
    options.add_argument(
        "--item-embeddings",
        metavar="FILE",
        help="a .npy file or a .safetensors file with one tensor, a row for each item, of which items.peel "
        "is made for similarity search",
    )
    options.add_argument(
        "--query-embeddings",
        metavar="FILE",
        help="some thousands of queries like those that will be asked (default: the items themselves)",
    )
    options.add_argument("--metric", choices=("ip", "cosine"), help="what ranks (default: ip)")
    options.add_argument(
        "--item-ids", metavar="FILE", help="the id of every row, one a line (default: its number)"
    )


def check_vector_options(options: argparse.Namespace) -> None:
    """Raises unless the options are those of a run folder, or of vectors.

    Raises:
        ValueError: both or neither, or options of one with the other.
    """
    given = options.item_embeddings is not None
    if given == (options.folder is not None):
        raise ValueError(
            "expected a run folder or --item-embeddings, got " + ("both" if given else "neither")
        )
    others = (
        ("group", "user", "history", "users", "shard", "budget")
        if given
        else ("query_embeddings", "metric", "item_ids")
    )
    for name in others:
        if getattr(options, name) is not None:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} is for {'a run folder' if given else '--item-embeddings'}, got it with "
                f"{'--item-embeddings' if given else 'a run folder'}"
            )


def export_vectors(options: argparse.Namespace) -> int:
    """Writes ``items.peel``."""
    require_train("torch", "safetensors")
    import torch

    from peel_ext.nn import ElasticEmbedding
    from peel_ext.train.vectors import read_vectors

    vectors = read_vectors(options.item_embeddings)
    queries = None if options.query_embeddings is None else read_vectors(options.query_embeddings)
    item_ids = None
    if options.item_ids is not None and not options.no_item_ids:
        item_ids = _read_ids(options.item_ids, len(vectors))
    table = ElasticEmbedding.from_vectors(
        torch.from_numpy(vectors),
        None if queries is None else torch.from_numpy(queries),
        metric=options.metric or "ip",
    )
    path = Path(options.out) / "items.peel"
    table.export(path, 0, item_ids=item_ids)
    facts = {"path": str(path), "bytes": path.stat().st_size, "rotated": table.rotation is not None}
    if options.json:
        json.dump([facts], sys.stdout, indent=2)
        print()
    else:
        print(path)
    return 0


def _read_ids(path: str, count: int) -> list[int] | list[str]:
    """As many ids as rows, one a line: integers if all are.

    Raises:
        DataError: not readable, not UTF-8, or another number of lines.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    if len(lines) != count:
        raise DataError(f"{path}: expected {count} ids, one for each row, found {len(lines)} lines")
    if all(_INTEGER.fullmatch(line) for line in lines):
        return [int(line) for line in lines]
    return lines
