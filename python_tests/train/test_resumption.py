"""Runs interrupted in any stage, with every controller, end with the bits of those that were not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from shop_runs import contents, interrupting_at, write_shop

from peel_ext.config import (
    ClusteringConfig,
    ControlConfig,
    PipelineConfig,
    PretrainingConfig,
    RefinementConfig,
)
from peel_ext.train.checkpoint import Timer
from peel_ext.train.pipeline import run_pipeline
from peel_ext.train.run_folder import RunFolder

REFINED = PipelineConfig(
    pretraining=PretrainingConfig(
        embedding_dim=16, epochs=2, steps_per_epoch=4, temperature=0.1, softmax="sampled",
        num_negatives=50,
    ),
    clustering=ClusteringConfig(num_groups=6),
    refinement=RefinementConfig(steps=3, rows_per_group=30),
)  # fmt: skip
CONFIGS = {
    name: dataclasses.replace(
        REFINED,
        control=ControlConfig(controller=controller, steps=5, batch_size=64),
        layout=layout,
    )
    for name, controller, layout in [
        ("exposure", "exposure", "planes"),
        ("regression", "regression", "planes"),
        ("bilevel", "bilevel", "planes"),
        ("columns", "bilevel", "columns"),
    ]
}
#: Steps reported by each stage that keeps a checkpoint: within an epoch or group, and at its end.
STEPS = [("pretraining", 3), ("pretraining", 4)] + [("refinement", step) for step in (1, 3, 4, 17)]
STEPS_OF_BILEVEL = [("block_weights", step) for step in (1, 2, 4)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "shop.csv")


@pytest.fixture(scope="module")
def whole(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What each configuration makes when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("whole")
    for name, config in CONFIGS.items():
        run_pipeline(shop, folder / name, config)
    return {name: contents(folder / name) for name in CONFIGS}


@pytest.mark.parametrize("stage", ["pretraining", "clustering", "refinement", "block_weights"])
@pytest.mark.parametrize("name", CONFIGS)
def test_interrupted_between_stages(
    name: str,
    stage: str,
    shop: Path,
    whole: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = RunFolder.finish

    def stop(self: RunFolder, finished: str, *args: object) -> None:
        if finished == stage:
            raise KeyboardInterrupt
        before(self, finished, *args)

    with pytest.raises(KeyboardInterrupt):  # as a stage begins
        run_pipeline(shop, tmp_path / "torn", CONFIGS[name], interrupting_at(stage, 0))
    monkeypatch.setattr(RunFolder, "finish", stop)
    with pytest.raises(KeyboardInterrupt):  # at its end, before it is saved
        run_pipeline(shop, tmp_path / "torn", CONFIGS[name])
    monkeypatch.setattr(RunFolder, "finish", before)
    run_pipeline(shop, tmp_path / "torn", CONFIGS[name])
    assert contents(tmp_path / "torn") == whole[name]


@pytest.mark.parametrize(
    ("name", "stage", "step"),
    [
        (name, *at)
        for name in CONFIGS
        for at in STEPS + STEPS_OF_BILEVEL * (CONFIGS[name].control.controller == "bilevel")
    ],
)
def test_interrupted_within_a_stage(
    name: str,
    stage: str,
    step: int,
    shop: Path,
    whole: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Timer, "is_due", lambda self: True)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(shop, tmp_path / "torn", CONFIGS[name], interrupting_at(stage, step))
    seen: list[tuple[str, int]] = []
    run_pipeline(
        shop, tmp_path / "torn", CONFIGS[name], on_loss=lambda of, at, _: seen.append((of, at))
    )
    assert seen[0] == (stage, step + 1)  # nothing was done twice
    assert contents(tmp_path / "torn") == whole[name]
