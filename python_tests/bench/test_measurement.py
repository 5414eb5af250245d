"""Ratios of contenders that take turns."""

from __future__ import annotations

import measurement
import pytest


def test_a_ratio_is_the_median_over_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine is eight times slower at the second turn: the ratio of medians would be 8 / 3.
    theirs, ours = iter([2.0, 8.0, 9.0]), iter([1.0, 8.0, 3.0])
    monkeypatch.setattr(measurement, "time_of_turn", lambda call: call())
    monkeypatch.setattr(measurement, "MAX_SECONDS", 0.0)
    ratio = measurement.ratio_of_times(lambda: next(theirs), lambda: next(ours))
    assert ratio == 2.0
    assert next(theirs, None) is None  # so much time for no more than the fewest turns


def test_a_turn_is_the_median_of_its_calls_once_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 1.0 if now < measurement.WARM_SECONDS else 0.009

    monkeypatch.setattr(measurement, "wait_for_quiet", lambda: None)
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: now)
    assert measurement.time_of_turn(call) == pytest.approx(0.009)
