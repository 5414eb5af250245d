"""Evaluation that ranks on a device other than the CPU, which another process pretends to have."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import device_runs
import pytest

from peel_ext.cli.main import main
from peel_ext.evaluation import Evaluation, evaluate_run
from peel_ext.ops import lookup
from peel_ext.train.pipeline import TrainedRun

BUDGETS = [4_000, 12_000]


@pytest.mark.parametrize("protocol", ["known", "offline"])
def test_the_figures_are_those_of_the_cpu(
    protocol: str, run: TrainedRun, device_process: ProcessPoolExecutor
) -> None:
    folder = run.folder.path
    found: Evaluation
    found, elsewhere = device_process.submit(
        device_runs.evaluate, folder, protocol, BUDGETS
    ).result()
    want = evaluate_run(run, protocol, BUDGETS, with_blends=protocol != "known", with_rivals=True)
    assert found.to_frame().equals(want.to_frame())
    # Lists that were shipped, and blends, are made on the CPU, of lists made there.
    assert elsewhere == {"known": 0, "offline": 2}[protocol]


@pytest.mark.parametrize("kernels", [True, False])
def test_a_device_without_kernels_is_refused(
    kernels: bool,
    run: TrainedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: not kernels)
    monkeypatch.setattr(lookup, "DEVICES", {"cpu", "cuda"} if kernels else {"cpu"})
    assert main(["evaluate", str(run.folder.path), "--device", "cuda", "--quiet"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("peel: device must be")
    assert told[0].endswith("got 'cuda'")
