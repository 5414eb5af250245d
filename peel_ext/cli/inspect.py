"""``peel inspect``: what a ``.peel`` file holds under every budget, after a check of all its bytes; of a
bundle, how many users it has, after a check of its index, or what the file of one of them holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, BinaryIO

import numpy as np

from peel_ext.cli.arguments import Budget, parse_budgets, parse_path
from peel_ext.cli.devices import add_user_option
from peel_ext.device import DeviceRecommender
from peel_ext.device.http_source import is_url, shown_url
from peel_ext.device.sources import FileObjectSource
from peel_ext.device.user_source import UserSource
from peel_ext.errors import FormatError, SourceError
from peel_ext.format import Header, read_blocks, read_header
from peel_ext.format.appendix import NAMES, read_sections
from peel_ext.format.bundle import BundleIndex, user_text
from peel_ext.format.header import BUNDLE_MAGIC
from peel_ext.format.layout import HEADER_BYTES
from peel_ext.format.reader import FileBlock


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("inspect", help="check and describe a file", description=__doc__)
    parser.add_argument(
        "file", type=parse_path, help="a .peel file, or the first bytes of one; or a bundle"
    )
    add_user_option(parser)
    parser.add_argument(
        "--budgets",
        type=parse_budgets,
        default=parse_budgets("100%,10%,5%,2.5%,1%,0.5%,0.25%"),
        help="comma-separated, in bytes (65536, 64KiB) or shares of the float32 table (1%%); "
        "default: from 100%% to 0.25%%",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    if is_url(options.file):
        raise SourceError(
            f"{shown_url(options.file)}: inspect reads all bytes, and so a file on this machine alone"
        )
    try:
        with open(options.file, "rb") as file:
            facts = _read_facts(file, options)
    except FormatError as error:
        raise FormatError(f"{options.file}: {error}") from None
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{options.file}: cannot be read: {error.strerror}") from None
    if options.json:
        json.dump({"file": options.file, **facts}, sys.stdout, indent=2)
        print()
        return 0
    budgets = facts.pop("budgets", None)
    for name, value in facts.items():
        print(f"{name:15} {value if not isinstance(value, list) else ', '.join(value) or 'none'}")
    if budgets is None:
        return 0
    print(f"{'budget':>10} {'bytes held':>12} {'blocks':>8} {'rows':>10} {'bits a value':>13}")
    for row in budgets:
        if row["bytes"] is None:
            print(f"{row['budget']:>10} {'too small: needs ' + format(row['minimum'], ','):>12}")
        else:
            print(
                f"{row['budget']:>10} {row['bytes']:>12,} {row['blocks']:>8,} {row['rows']:>10,} "
                f"{row['bits']:>13.2f}"
            )
    return 0


def _read_facts(file: BinaryIO, options: argparse.Namespace) -> dict[str, Any]:
    if options.bundle_user is not None:
        source = UserSource(FileObjectSource(file), user_text(options.bundle_user), ahead=0)
        return _describe(source.read(0, source.size), options.budgets)
    start = file.read(HEADER_BYTES)
    if not start.startswith(BUNDLE_MAGIC):
        return _describe(start + file.read(), options.budgets)
    index = BundleIndex(file)
    sizes = index.entries["size"]
    return {
        "layout": "bundle",
        "users": len(sizes),
        "index": f"{index.num_pages:,} pages of up to {index.page_entries} users, all sound",
        "bytes": index.size,
        "smallest file": int(sizes.min()),
        "largest file": int(sizes.max()),
    }


def _describe(data: bytes, budgets: list[Budget]) -> dict[str, Any]:
    header = read_header(data)
    with DeviceRecommender.open(data, item_ids=False) as recommender:  # checks every block
        held = recommender.num_blocks
    whole = len(data) >= header.blocks_end
    sections = read_sections(data, header, cut_short=True) if whole else []
    behind = [NAMES.get(section.kind, f"kind {section.kind}") for section in sections]
    ends = header.blocks_end + sum(section.file_bytes for section in sections)
    if whole and ends < len(data):
        behind.append("one that is not all there")
    blocks = list(read_blocks(data))[:held]
    layout = header.layout
    return {
        "layout": str(layout),
        "user group": header.group,
        "rows": header.num_embeddings,
        "dim": header.dim,
        "item groups": header.num_item_groups,
        "blocks": f"{held:,} of {header.num_blocks:,}, all sound" if not whole
        else f"{held:,}, all sound",
        "bytes": len(data),
        "behind them": behind,
        "fold-in": f"{header.fold_in.steps} steps of {header.fold_in.step_size:.3g} at temperature "
        f"{header.fold_in.temperature:.3g}"
        + (f", prior {header.fold_in.prior:.3g}" if header.fold_in.prior else ""),
        "budgets": [_under_budget(header, blocks, budget) for budget in budgets],
    }  # fmt: skip


def _under_budget(header: Header, blocks: list[FileBlock], budget: Budget) -> dict[str, Any]:
    """Bytes, blocks, rows and mean bits of a value of the rows held under a budget."""
    limit = budget.resolve(header.num_embeddings * header.dim * 4)
    held = [block for block in blocks if block.held_bytes <= limit]
    if len(held) < header.least_blocks:
        minimum = blocks[header.least_blocks - 1].held_bytes
        return {"budget": budget.text, "bytes": None, "minimum": minimum}
    layout = header.layout
    rows = {block.item_group: block.num_rows for block in held}
    value_bits = sum(
        block.num_rows * (layout.layer_bits[block.layer] * header.dim if layout.nested
                          else 8 * layout.piece_bytes(block.layer, header.dim))
        for block in held
    )  # fmt: skip
    count = int(np.sum(list(rows.values())))
    return {
        "budget": budget.text,
        "bytes": held[-1].held_bytes if held else 0,
        "blocks": len(held),
        "rows": count,
        "bits": value_bits / max(1, count * header.dim),
    }
