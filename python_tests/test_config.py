from __future__ import annotations

import math
from typing import Any

import pytest

from peel_ext.config import ClusteringConfig, ExposureConfig, PretrainingConfig, SplitConfig


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (PretrainingConfig, "seed", (-1, 1 << 32)),
        (ClusteringConfig, "seed", (-1, 1 << 32)),
        (SplitConfig, "seed", (-1, 1 << 32)),
        (ClusteringConfig, "num_groups", (-1, 513)),
        (ClusteringConfig, "users_per_group", (0,)),
        (ClusteringConfig, "max_groups", (0,)),
        (ClusteringConfig, "max_iterations", (0,)),
        (ExposureConfig, "depth", (0,)),
        (ExposureConfig, "slope", (0, -1, math.inf, math.nan)),
        (ExposureConfig, "cutoff", (-1, math.nan)),
        (ExposureConfig, "popularity_weight", (-1e-9, math.inf)),
        (SplitConfig, "test_share", (0, 1, math.nan)),
        (SplitConfig, "validation_share", (0, 1.5)),
        (SplitConfig, "target", ("tests",)),
    ],
)
def test_a_setting_out_of_range_is_named(config: Any, name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must .*got {value!r}"):
            config(**{name: value})
