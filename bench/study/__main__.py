"""Trains and measures what each part of the method is worth, then makes tables and pictures.

    PYTHONPATH=bench python -m study [FOLDER] [--sources ml-100k/random] [--parts full,paper] [--seeds 3]

A part that has its row is skipped, and an interrupted one goes on. Without a folder of data the rows that
are there are shown. ``--docs docs`` makes the tables and pictures of the documentation anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from study.parts import PARTS, parts_of
from study.rows import add_row, read_rows
from study.runs import Task, key_of, measure
from study.sources import SOURCES
from study.tables import fill, make_model_table, make_tables

ROOT = Path(__file__).parent.parent.parent

#: Those of ``bench/models.py``, of which the page has a table, too.
MODEL_ROWS = ROOT / "bench" / "results" / "models.jsonl"


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and does what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m study")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", type=Path, nargs="?", help="folder of ml-100k, toys and gowalla")
    parser.add_argument(
        "--sources", type=_names(SOURCES), default=[name for name in SOURCES if "synth" not in name],
        help=f"some of {', '.join(SOURCES)}",
    )  # fmt: skip
    parser.add_argument("--parts", type=_names(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--protocol", choices=("known", "new", "offline"), default="known",
        help="data split by time have their own",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "build" / "study", help="of run folders"
    )
    parser.add_argument("--rows", type=Path, default=ROOT / "bench" / "results" / "study.jsonl")
    parser.add_argument("--docs", type=Path, help="folder of study.md")
    options = parser.parse_args(arguments)
    if options.data is not None:
        run_all(options)
    rows = read_rows(options.rows)
    tables = make_tables(rows)
    for name, table in tables.items():
        print(f"{name}\n\n{table}\n")
    if options.docs is not None:
        from study import pictures  # whose packages are the extra ``report``

        page = options.docs / "study.md"
        tables["models"] = make_model_table(read_rows(MODEL_ROWS))
        page.write_text(fill(page.read_text(), tables))
        pictures.draw(rows, options.docs / "pictures")


def run_all(options: argparse.Namespace) -> None:
    """Measures every part that has no row yet; folders of bases stay, for the parts to come."""
    done = {key_of(row) for row in read_rows(options.rows)}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for source in options.sources:
            tasks = list(tasks_of(source, seed, options))
            for task in tasks:
                if task.key in done:
                    continue
                print(" ".join(map(str, task.key)), file=sys.stderr, flush=True)
                add_row(options.rows, measure(task, options.data, options.runs))
                if task.base() is not None:
                    shutil.rmtree(task.folder(options.runs), ignore_errors=True)


def tasks_of(source: str, seed: int, options: argparse.Namespace) -> Iterator[Task]:
    """The tasks of one seed, bases first."""
    protocols = SOURCES[source].protocols
    protocol = options.protocol if options.protocol in protocols else protocols[0]
    for part in parts_of(protocol):
        if options.parts is None or part in options.parts:
            yield Task(source, protocol, seed, part)


def _names(known: dict[str, object]) -> object:
    """Reads names apart by commas, all of them known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"must be some of {', '.join(known)}, got {name!r}"
                )
        return names

    return read


if __name__ == "__main__":
    main()
