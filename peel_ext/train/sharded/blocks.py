"""The blocks of the own user groups: what each is worth, and which rows belong to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.format import ColumnsLayout, Layout
from peel_ext.nn import ElasticEmbedding
from peel_ext.nn.worth import add_worth, weights_of_worth
from peel_ext.train.sharded.population import ShardedPopulation


@dataclass(frozen=True, eq=False)
class OwnBlocks:
    """Blocks of the own user groups, as an :class:`peel_ext.nn.ElasticEmbedding` has those of all.

    Attributes:
        block_weights: float32 [num_own_groups, num_item_groups, num_layers].
        item_group: int32 [num_own_groups, num_items]; in the columns layout, whose item groups are
            shared, [1, num_items].
    """

    block_weights: Tensor
    item_group: Tensor


def cut_blocks(
    population: ShardedPopulation, values: NDArray[np.float64], layout: Layout
) -> OwnBlocks:
    """Cuts the blocks as :meth:`peel_ext.nn.ElasticEmbedding.set_row_values` does.

    Args:
        population: with the own rows.
        values: row values [num_own_groups, num_items].
        layout: layout of the blocks.
    """
    num_groups, dim = len(values), population.item_vectors.shape[1]
    worth_of_rows = torch.from_numpy(values)
    # No value of a row is looked at: one zero stands for all.
    rows = torch.zeros(1, 1, dtype=torch.float32, device="cpu").expand(population.num_items, dim)
    # A module has a user group at least, a rank maybe none.
    module = ElasticEmbedding.from_pretrained(rows, num_groups=max(1, num_groups), layout=layout)
    if isinstance(layout, ColumnsLayout):
        energy = np.square(population.item_vectors, dtype=np.float64).sum(axis=0)
        energy = population.ranks.sum(torch.from_numpy(energy)).numpy()
        worth = worth_of_rows.new_zeros(num_groups, module.block_weights.shape[1])
        add_worth(worth, worth_of_rows, module.item_group)
        return OwnBlocks(weights_of_worth(worth, layout.gains_of_energy(energy)), module.item_group)
    if num_groups > 0:
        module.set_row_values(worth_of_rows)
    return OwnBlocks(module.block_weights[:num_groups], module.item_group[:num_groups])
