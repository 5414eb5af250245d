"""A small run with new users, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from peel_ext.config import ClusteringConfig, PipelineConfig, PretrainingConfig, SplitConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train.pipeline import TrainedRun, run_pipeline


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 users and 500 items, with timestamps."""
    made = make_interactions(SyntheticConfig(400, 500, 20, num_tastes=10))
    assert made.timestamps is not None
    rows = zip(made.user_rows, made.item_rows, made.timestamps, strict=True)
    path = tmp_path_factory.mktemp("shop") / "shop.csv"
    lines = [f"{user},{item},{time}\n" for user, item, time in rows]
    path.write_text("user,item,time\n" + "".join(lines))
    return path


@pytest.fixture(scope="session")
def small_config() -> PipelineConfig:
    return PipelineConfig(
        split=SplitConfig(new_user_share=0.2),
        pretraining=PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4),
        clustering=ClusteringConfig(num_groups=5),
    )


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, small_config: PipelineConfig, shop: Path
) -> TrainedRun:
    return run_pipeline(shop, tmp_path_factory.mktemp("run"), small_config)
