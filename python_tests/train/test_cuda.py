"""Training on a GPU against training on the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for name in ("pyarrow", "safetensors", "sklearn"):
    pytest.importorskip(name)

from shop_runs import write_shop  # noqa: E402

from peel_ext.config import (  # noqa: E402
    ClusteringConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
)
from peel_ext.train.pipeline import TrainedRun, run_pipeline  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:lists of items are ranked on the CPU"),
]


@pytest.mark.parametrize("controller", ["regression", "bilevel", "mixture"])
@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_a_run_learns_what_one_on_the_cpu_does(
    softmax: str, controller: str, tmp_path: Path
) -> None:
    config = PipelineConfig(
        pretraining=PretrainingConfig(embedding_dim=16, epochs=5, softmax=softmax),
        clustering=ClusteringConfig(num_groups=3),
        refinement=RefinementConfig(steps=3, rows_per_group=30),
        control=ControlConfig(controller=controller, steps=5),
    )
    shop = write_shop(tmp_path / "shop.csv")

    def train(device: str) -> TrainedRun:
        return run_pipeline(shop, tmp_path / device, dataclasses.replace(config, device=device))

    cpu, cuda = train("cpu"), train("cuda")

    scores = [run.user_vectors @ run.item_vectors.T for run in (cpu, cuda)]
    assert np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1] > 0.99
    weights = [run.embedding.block_weights.sum(dim=(1, 2)) for run in (cpu, cuda)]
    assert all(bool((each > 0).all()) for each in weights)
    cuda.recommend(["u3"], budget_bytes=8_000)
