"""The command line as torchrun starts it, whose signs of life come often and whose steps may take long."""

from __future__ import annotations

import os
import sys
import time

from peel_ext.cli.main import main
from peel_ext.scale import heartbeat
from peel_ext.train.checkpoint import Timer
from peel_ext.train.sharded import pretraining


def step_slowly(training: pretraining._Training, done: int) -> float:
    """A step of training, after a tenth of a second."""
    time.sleep(0.1)
    return step(training, done)


if __name__ == "__main__":
    heartbeat.INTERVAL, heartbeat.PATIENCE = 0.5, 5.0
    step = pretraining._Training.step
    if "SLOW_STEPS" in os.environ:  # and are saved, each of them
        Timer.is_due = lambda timer: True  # type: ignore[method-assign]
        pretraining._Training.step = step_slowly  # type: ignore[method-assign]
    sys.exit(main())
