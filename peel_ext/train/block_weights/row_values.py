"""The choice of a controller: what every row is worth to every user group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.format import Layout, PlanesLayout
from peel_ext.train.block_weights.expected_hits import regress_row_values
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.block_weights.mixture_trial import choose_mixture
from peel_ext.train.population import Population


def value_rows(
    population: Population, layout: Layout, config: PipelineConfig
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Values rows by the controller of ``config.control``; those of a bi-level loop start as exposure.

    Args:
        population: users, interactions and vectors.
        layout: layout of the blocks.
        config: all settings.

    Returns:
        Row values [num_groups, num_items] for :meth:`peel_ext.nn.ElasticEmbedding.set_row_values`,
        and what the controller chose, by name.
    """
    control, exposure, device = config.control, config.exposure, config.device
    if control.controller == "regression":
        return regress_row_values(population, exposure, control, device), {}
    if control.controller == "mixture":
        yardstick = layout if isinstance(layout, PlanesLayout) else PlanesLayout()
        values, mixture = choose_mixture(population, exposure, control, yardstick, device)
        return values, {
            "neighbours": mixture.share, "neighbour_temperature": mixture.temperature,
        }  # fmt: skip
    return measure_exposure(population, exposure, device), {}
