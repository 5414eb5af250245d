from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from peel_ext.config import (
    ClusteringConfig,
    ColumnsConfig,
    ExposureConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
    SplitConfig,
    TuningConfig,
)


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
        (SplitConfig, "test_share", (-0.1, 1, math.nan)),
        (SplitConfig, "validation_share", (0, 1.5)),
        (SplitConfig, "target", ("tests",)),
        (SplitConfig, "k_core", (1.5, None, True, "2")),
        (SplitConfig, "test_share", ("a", None)),
        (SplitConfig, "method", (3,)),
        (PretrainingConfig, "num_layers", (2.5,)),
        (PretrainingConfig, "temperature", ("x", 0)),
        (TuningConfig, "temperatures", (3, (), "12", ("a",), (0.1, -1))),
        (PipelineConfig, "split", (None, {"seed": 1})),
        (PipelineConfig, "layout", ("rows", None)),
        (PipelineConfig, "device", ("tpu", None, 0)),
        (PipelineConfig, "columns", (None, "columns")),
        (ColumnsConfig, "num_item_groups", (0, 2.5)),
        (ColumnsConfig, "block_dim", (0,)),
        (ColumnsConfig, "value_type", ("float64",)),
        (RefinementConfig, "rows_per_group", (-1,)),
    ],
)
def test_a_setting_out_of_range_is_named(config: Any, name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must .*got {re.escape(repr(value))}"):
            config(**{name: value})


def test_numbers_of_numpy_become_plain_ones() -> None:
    split = SplitConfig(seed=np.int64(3), new_user_share=np.float32(0.5))
    pretraining = PretrainingConfig(temperature=np.float32(0.25), epochs=np.int32(2))
    assert json.loads(json.dumps(asdict(split)))["seed"] == 3
    assert split == SplitConfig(seed=3, new_user_share=0.5)
    assert json.loads(json.dumps(asdict(pretraining)))["temperature"] == 0.25
