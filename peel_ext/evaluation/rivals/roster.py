"""All rivals of a model, each with the cheap options that may help it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.errors import DataError, DependencyError
from peel_ext.evaluation.rivals.columns import ColumnBlocks
from peel_ext.evaluation.rivals.dimensions import PrincipalDimensions
from peel_ext.evaluation.rivals.encodings import Encoding
from peel_ext.evaluation.rivals.popularity import PopularRows, order_items
from peel_ext.evaluation.rivals.product_quantisation import ProductCodes, ProductQuantisers
from peel_ext.evaluation.rivals.pruning import LargestValues
from peel_ext.evaluation.rivals.rival import Rival
from peel_ext.nn.rotation import fit_rotation

_ENCODINGS = (
    Encoding(32), Encoding(8), Encoding(8, rotated=True), Encoding(4), Encoding(4, rotated=True),
)  # fmt: skip

#: Shares of the budget that go to int8 where int8 and int4 are mixed.
_MIXTURES = (0.25, 0.5)

#: Runs of items of the paper's layout, and a finer cut that suits small budgets.
_ITEM_GROUPS = (20, 320)


def build_rivals(
    items: NDArray[np.float32],
    group_popularity: NDArray[np.float64],
    exposure: NDArray[np.float64],
) -> tuple[list[Rival], list[str]]:
    """Every variant of every rival that needs no training.

    Args:
        items: float32 [num_items, dim].
        group_popularity: training interactions of each user group with each item,
            [num_groups, num_items].
        exposure: worth of each row to each user group, [num_groups, num_items].

    Returns:
        The rivals, and what had to be left out, each with its reason.
    """
    popularity = group_popularity.sum(axis=0)
    # What the group does not tell apart, everybody does.
    by_group = group_popularity + popularity / (1.0 + popularity.sum())
    rotation = fit_rotation(torch.from_numpy(items)).numpy()
    decoded = {encoding: encoding.decoded(items, rotation) for encoding in _ENCODINGS}
    rivals: list[Rival] = [
        rival for worth in (popularity, by_group) for rival in _popular_rows(worth, decoded)
    ]
    rivals += [PrincipalDimensions(items, bits) for bits in (32, 8, 4)]
    rivals += [
        LargestValues(items, bits, principal) for bits in (32, 8, 4) for principal in (False, True)
    ]
    for values, weighted_by in ((exposure, "exposure"), (by_group, "popularity")):
        rivals += [
            ColumnBlocks(items, popularity, values, weighted_by, count, bits)
            for count in _ITEM_GROUPS
            for bits in (32, 8)
        ]
    left_out = []
    try:
        quantisers = ProductQuantisers(items)
        rivals += [ProductCodes(quantisers, rotated) for rotated in (False, True)]
    except (DependencyError, DataError) as error:
        left_out.append(str(error))
    return rivals, left_out


def _popular_rows(
    popularity: NDArray[np.float64], decoded: dict[Encoding, NDArray[np.float32]]
) -> list[PopularRows]:
    order = order_items(popularity)
    single = [PopularRows(order, [pair]) for pair in decoded.items()]
    mixed = [
        (each, decoded[each]) for each in (Encoding(8, rotated=True), Encoding(4, rotated=True))
    ]
    return [*single, *(PopularRows(order, mixed, share) for share in _MIXTURES)]
