"""The benchmark of a GPU, as far as it runs without one: answers are compared, rows are whole."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


class Event:
    """One of the host's clock in the place of a CUDA event."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.seconds - self.seconds) * 1000


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark on the CPU, one round of everything and no peer that has to be installed."""
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "gpu"))
    import gpu_timing

    monkeypatch.setattr(gpu_timing, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu_timing, "MIN_ROUNDS", 1)
    monkeypatch.setattr(gpu_timing, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(gpu_timing, "captured", lambda run: run)
    monkeypatch.setattr(gpu_timing, "circumstances", lambda: {"card": "none", "driver": "0"})
    import kernels

    monkeypatch.setattr(kernels, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(kernels, "fbgemm", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    return kernels


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch's own Adagrad
def test_every_case_has_a_row(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["kernels.py", "--small", "--append", str(tmp_path / "rows")])
    kernels.main()
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert {row["kernel"] for row in rows} == {
        "gathered_score", "grouped_lookup", "topk_blocks", "update_rows",
    }  # fmt: skip
    assert len({(row["kernel"], row["case"]) for row in rows}) == len(rows) == 7
    for row in rows:
        assert row["card"] == "none"
        assert row["us"] > 0
        assert row["graph_us"] > 0
        missing = set(row["targets"]) - set(row["ratios"])
        assert missing <= {"FBGEMM"}


def test_a_wrong_answer_is_not_timed(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.ops.topk_blocks
    monkeypatch.setattr(
        kernels.ops, "topk_blocks", lambda *args, **options: right(*args, **options).roll(1)[:-1]
    )
    with pytest.raises(AssertionError):
        next(kernels.selections(True))


def test_gowalla_is_left_out_with_a_line(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PEEL_DATA", raising=False)
    assert kernels.train_gowalla() is None
    assert capsys.readouterr().out.startswith("Gowalla is not trained: ")
