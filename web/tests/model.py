"""Writes a small random model for the tests of the demo page, as `peel export` would a trained one.

Beside it is a bundle of 300 users, all with the same file.

Usage: python web/tests/model.py MODEL.peel BUNDLE.peelb
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from peel_ext.format import EncodedRows, GroupTable, PlanesLayout, write_file
from peel_ext.format.bundle import write_bundle

GOLDEN = Path(__file__).parents[2] / "python_tests" / "format" / "golden"
NUM_ITEMS, DIM = 2000, 32


def main() -> None:
    """Writes the files."""
    rng = np.random.default_rng(0)
    layout = PlanesLayout()
    store, scales = layout.encode(rng.standard_normal((NUM_ITEMS, DIM), dtype=np.float32))
    sizes = layout.item_group_sizes(NUM_ITEMS)
    ids = np.split(rng.permutation(NUM_ITEMS), np.cumsum(sizes)[:-1])
    order = np.arange(5 * len(sizes))  # every layer of an item group before the next item group
    table = GroupTable(
        layout,
        DIM,
        EncodedRows(store, scales),
        [np.sort(part) for part in ids],
        order,
        rotated=True,
    )
    centroids = rng.standard_normal((1, DIM), dtype=np.float32)
    write_file(sys.argv[1], table, centroids=centroids, item_ids=np.arange(NUM_ITEMS) + 1000)
    write_bundle(sys.argv[2], [(user, GOLDEN / "v1-prior.peel") for user in range(300)])


if __name__ == "__main__":
    main()
