"""The choice of a controller: what every row is worth to the own user groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.format import Layout, PlanesLayout
from peel_ext.train.sharded.expected_hits import regress_row_values
from peel_ext.train.sharded.exposure import measure_exposure
from peel_ext.train.sharded.mixture import choose_mixture
from peel_ext.train.sharded.population import ShardedPopulation


def value_rows(
    population: ShardedPopulation, layout: Layout, config: PipelineConfig
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Values rows as :func:`peel_ext.train.block_weights.row_values.value_rows` does.

    Returns:
        Row values [num_own_groups, num_items], and what the controller chose, by name.
    """
    control, exposure = config.control, config.exposure
    if control.controller == "regression":
        return regress_row_values(population, exposure, control), {}
    if control.controller == "mixture":
        yardstick = layout if isinstance(layout, PlanesLayout) else PlanesLayout()
        values, mixture = choose_mixture(population, exposure, control, yardstick)
        return values, {
            "neighbours": mixture.share, "neighbour_temperature": mixture.temperature,
        }  # fmt: skip
    return measure_exposure(population, exposure), {}
