"""Makes the folder that the demo page is served from: the model, its items, the list shipped.

Usage: python web/demo/prepare.py MODEL.peel FOLDER [--titles FILE]
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

from peel_ext.device import DeviceRecommender
from peel_ext.errors import BudgetError

SHARES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
SHIPPED = 10


def main() -> None:
    """Reads the options and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--titles", type=Path, help="tab-separated, with a header: ids first, titles second"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.model, options.folder / "model.peel")
    catalogue = describe(options.model, read_titles(options.titles) if options.titles else {})
    (options.folder / "catalogue.json").write_text(json.dumps(catalogue))


def describe(model: Path, titles: dict[str, str]) -> dict[str, object]:
    """What the page knows of the model before it opens it.

    Raises:
        PeelError: of the model, as :meth:`DeviceRecommender.open` says.
    """
    with DeviceRecommender.open(model) as recommender:
        size = recommender.nbytes
        shipped, _ = recommender.recommend([], n=recommender.num_embeddings)
    ranked = [item if isinstance(item, str) else int(item) for item in shipped]
    try:
        DeviceRecommender.open(model, 0).close()
        least = 0
    except BudgetError as error:
        least = error.minimum_bytes
    return {
        "size": size,
        "budgets": [max(least, int(share * size)) for share in SHARES],
        "items": [{"id": item, "title": titles.get(str(item), f"Item {item}")} for item in ranked],
        "shipped": ranked[:SHIPPED],
    }


def read_titles(path: Path) -> dict[str, str]:
    """Titles by id."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(lines)
        return {line[0]: line[1] for line in lines}


if __name__ == "__main__":
    main()
