"""Interactions of users with items: reading, id maps, splits, and a synthetic source.

NumPy alone, but for reading, which needs pyarrow.
"""

from peel_ext.data.interactions import IdMap, Interactions
from peel_ext.data.item_lists import ItemLists
from peel_ext.data.readers import GivenParts, read_interactions, read_split
from peel_ext.data.splits import (
    Split,
    core_rows,
    split_interactions,
    split_last,
    split_random,
    split_time,
    split_users,
)
from peel_ext.data.synthetic import SyntheticConfig, make_interactions

__all__ = [
    "GivenParts",
    "IdMap",
    "Interactions",
    "ItemLists",
    "Split",
    "SyntheticConfig",
    "core_rows",
    "make_interactions",
    "read_interactions",
    "read_split",
    "split_interactions",
    "split_last",
    "split_random",
    "split_time",
    "split_users",
]
