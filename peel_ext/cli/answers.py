"""A list of items as the verbs print it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peel_ext.cli.tables import format_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peel_ext.train.trained_run import TrainedRun


def answer_facts(
    ids: Sequence[int | str],
    scores: Sequence[float],
    held: int,
    *,
    group: int | None = None,
    names: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """Items with their scores, and the bytes held, as plain values.

    Args:
        ids: the items, best first.
        scores: the score of each.
        held: bytes of the table.
        group: the user group, where it matters.
        names: the name of each item, where there are names.
    """
    keys = ("item", "score") if names is None else ("item", "name", "score")
    columns = (ids, scores) if names is None else (ids, names, scores)
    items = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
    whose = {} if group is None else {"group": group}
    return {**whose, "bytes": held, "items": items}


def run_facts(
    trained: TrainedRun,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    held: int,
    *,
    group: int | None = None,
) -> dict[str, Any]:
    """:func:`answer_facts` of rows [n] of a run's items, -1 where there are fewer."""
    found = rows[rows >= 0]
    every = trained.item_names
    names = None if every is None else [every[row] for row in found.tolist()]
    ids = trained.items.to_ids(found)
    return answer_facts(ids, scores[: len(found)].tolist(), held, group=group, names=names)


def print_answer(facts: dict[str, Any], *, as_json: bool, quiet: bool = False) -> None:
    """Prints an answer: JSON, a table where somebody looks, or tab-separated lines.

    Args:
        facts: as of :func:`answer_facts`.
        as_json: whether to print JSON.
        quiet: whether not to say on stderr how many bytes are held.
    """
    items = facts["items"]
    if as_json:
        json.dump(facts, sys.stdout)
        print()
        return
    if sys.stdout.isatty():
        _print_table(items)
    else:
        for item in items:
            print(f"{item['item']}\t{item['score']:.4f}")
    if not quiet:
        whose = f"group {facts['group']}, " if "group" in facts else ""
        print(f"{whose}{facts['bytes']:,} bytes held", file=sys.stderr)


def _print_table(items: list[dict[str, Any]]) -> None:
    head, shorten = ["rank", "item", "score"], None
    rows = [
        [str(rank), str(item["item"]), f"{item['score']:.4f}"]
        for rank, item in enumerate(items, start=1)
    ]
    if any(item.get("name") is not None for item in items):
        shorten = 2
        head.insert(shorten, "name")
        for row, item in zip(rows, items, strict=True):
            row.insert(shorten, item["name"] or "")
    for line in format_table(head, rows, right=(0, len(head) - 1), shorten=shorten):
        print(line)
