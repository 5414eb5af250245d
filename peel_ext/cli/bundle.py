"""``peel bundle``: many users' ``.peel`` files as one, in which devices find a user's file by its id.

The id of a user is the name of its file without ``.peel``. What names of files cannot hold is escaped in
it as in URLs: ``a%2Fb.peel`` is the file of ``a/b``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from peel_ext.cli.arguments import parse_path
from peel_ext.errors import DataError, SourceError
from peel_ext.format.bundle import user_of_file, write_bundle


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("bundle", help="make one file of many users'", description=__doc__)
    parser.add_argument("out", type=parse_path, help="the bundle to write")
    parser.add_argument(
        "files",
        type=parse_path,
        nargs="+",
        metavar="FILES_OR_FOLDER",
        help=".peel files, or folders of such files",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    files = [file for source in options.files for file in _files_of(source)]
    size = write_bundle(options.out, files)
    if options.json:
        json.dump({"path": options.out, "users": len(files), "bytes": size}, sys.stdout)
        print()
    else:
        print(options.out)
    return 0


def _files_of(source: str) -> list[tuple[str, str]]:
    """Ids and paths: of a file, or of all ``.peel`` files in a folder by their names."""
    if not os.path.isdir(source):
        if not os.path.exists(source):
            raise SourceError(f"{source}: no such file or folder")
        return [_user_and_path(Path(source).name, source)]
    names = sorted(name for name in os.listdir(source) if _is_users(name))
    if not names:
        raise DataError(f"{source}: no .peel files in this folder")
    return [_user_and_path(name, os.path.join(source, name)) for name in names]


def _is_users(name: str) -> bool:
    """Not the file that a writer has not finished, which is hidden."""
    return name.endswith(".peel") and not name.startswith(".")


def _user_and_path(name: str, path: str) -> tuple[str, str]:
    try:
        return user_of_file(name), path
    except DataError as error:
        raise DataError(f"{path}: the name {error}") from None
