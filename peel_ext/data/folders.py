"""Which files of a folder are read as what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from peel_ext.config import ReadingConfig
from peel_ext.data.tables import COMPRESSIONS
from peel_ext.errors import DataError

#: By suffix, in small letters.
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "inter",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "lightgcn",
    ".dat": "movielens",
}

_ROLES = {
    "train": "train", "training": "train",
    "valid": "validation", "validation": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class DataFiles:
    """Files of interactions by what they are for; several of one are parts of one table.

    Attributes:
        train: what is trained on, or everything there is.
        validation: what settings are chosen on; may be empty.
        test: what is measured on; may be empty.
        left_out: other data files beside them.
    """

    train: list[Path]
    validation: list[Path] = field(default_factory=list)
    test: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


def format_of(file: Path, reading: ReadingConfig) -> str | None:
    """The format of a file by its suffix or as it was told, or None."""
    if reading.format is not None:
        return reading.format
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    found = FORMATS.get(suffixes[-1]) if suffixes else None
    if reading.separator is not None and found in (None, "lightgcn", "movielens"):
        return "csv"
    return found


def find_files(place: Path, reading: ReadingConfig) -> DataFiles:
    """The data files of a folder, or a single file.

    A folder has one data file, or ``train.*`` and ``test.*``, maybe with ``valid.*``, or the parts of
    one table: Parquet files, also in folders such as ``month=3``, or files of another format whose
    names differ by digits alone. Each of train, valid and test may be a folder of parts as well. Other
    folders beside files do not count.

    Raises:
        DataError: a folder without a clear choice of files.
    """
    if not place.is_dir():
        return DataFiles([place])
    entries = [each for each in sorted(place.iterdir()) if _has_data(each, reading)]
    if (place / "run.json").exists():  # a run among the data, whose documents are none
        entries = [each for each in entries if each.suffix != ".json"]
    passed: list[Path] = []
    if any(each.is_file() for each in entries):
        passed = [each for each in entries if each.is_dir() and not _is_part(each)]
        entries = [each for each in entries if each not in passed]
    by_role: dict[str | None, list[Path]] = {}
    for each in entries:
        by_role.setdefault(_role(each), []).append(each)
    roles = {
        name: _parts(by_role.get(name, []), reading) for name in ("train", "validation", "test")
    }
    if roles["train"] and (roles["test"] or roles["validation"]):
        if all(parts is not None for parts in roles.values()):
            found = {name: parts or [] for name, parts in roles.items()}
            return DataFiles(**found, left_out=[*by_role.get(None, []), *passed])
    elif not by_role.get("test") and not by_role.get("validation"):
        parts = _parts(entries, reading)
        if parts:
            return DataFiles(parts, left_out=passed)
    names = ", ".join(each.name for each in entries) or "none"
    raise DataError(
        f"{place}: expected one data file ({', '.join(FORMATS)}), the parts of one, or one train and "
        f"one test file, found {names}: name a file"
    )


def join_files(places: list[Path], found: list[DataFiles]) -> DataFiles:
    """Joins several paths: the parts of one table, or of a split where their names say so.

    Raises:
        DataError: some are parts of a split, and others are not.
    """
    roles = [None if place.is_dir() else _role(place) for place in places]
    left_out = [file for each in found for file in each.left_out]
    if not set(roles) & {"validation", "test"}:
        if any(each.test or each.validation for each in found):
            raise DataError("several paths, and one holds train and test parts: name it alone")
        return DataFiles([file for each in found for file in each.train], left_out=left_out)
    if None in roles or "train" not in roles:
        names = ", ".join(map(str, places))
        raise DataError(f"expected train and test files, or parts of one table, got {names}")
    by_role: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for role, place in zip(roles, places, strict=True):
        by_role[str(role)].append(place)
    return DataFiles(**by_role, left_out=left_out)


def partition_of(file: Path, places: list[Path]) -> dict[str, int | str | None]:
    """The columns that folders beneath one of some places name, as ``month=3`` does."""
    place = next((each for each in places if file.is_relative_to(each)), file)
    folders = file.relative_to(place).parts[:-1]
    named = [part.split("=", 1) for part in folders if "=" in part]
    return {name: _read_partition(value) for name, value in named}


def _read_partition(value: str) -> int | str | None:
    if value == "__HIVE_DEFAULT_PARTITION__":
        return None
    return int(value) if re.fullmatch("0|-?[1-9][0-9]{0,17}", value) else unquote(value)


def _is_part(folder: Path) -> bool:
    """Whether the name of a folder says that it belongs to the files beside it."""
    return _role(folder) is not None or "=" in folder.name


def _has_data(entry: Path, reading: ReadingConfig) -> bool:
    """Whether it is a data file, or a folder with one; hidden ones are not, nor ``_SUCCESS``."""
    return next(_walk(entry, reading), None) is not None


def _walk(entry: Path, reading: ReadingConfig) -> Iterator[Path]:
    """The data files at or beneath an entry, in order."""
    if entry.name.startswith((".", "_")) or (entry / "run.json").exists():  # a run is no data
        return
    if entry.is_dir():
        for each in sorted(entry.iterdir()):
            yield from _walk(each, reading)
    elif entry.is_file() and format_of(entry, reading) is not None:
        yield entry


def _role(entry: Path) -> str | None:
    """What a name such as ``train.csv``, ``ml.valid.inter`` or ``test-00000.parquet`` says."""
    for part in entry.name.lower().split("."):
        match = re.fullmatch(r"([a-z]+)(?:[-_][0-9].*)?", part)
        if match and match[1] in _ROLES:
            return _ROLES[match[1]]
    return None


def _parts(entries: list[Path], reading: ReadingConfig) -> list[Path] | None:
    """The files that together are one table, or None where these are several."""
    files = [file for entry in entries for file in _walk(entry, reading)]
    formats = {format_of(file, reading) for file in files}
    if len(files) <= 1 or formats == {"parquet"}:
        return files
    alike = {re.sub("[0-9]+", "0", file.name.lower()) for file in files}
    return files if len(alike) == 1 and len(formats) == 1 else None
