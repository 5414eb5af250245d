"""The command line as torchrun starts it, where rank 1 is killed in the first attempt, while it trains."""

from __future__ import annotations

import os
import signal
import sys

from peel_ext.cli.main import main
from peel_ext.train.checkpoint import Timer
from peel_ext.train.sharded import pretraining


def kill_at(training: pretraining._Training, done: int) -> float:
    """A step of training, but the 21st, in the second epoch."""
    if done == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(training, done)


if __name__ == "__main__":
    Timer.is_due = lambda timer: True  # type: ignore[method-assign]
    step = pretraining._Training.step
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        pretraining._Training.step = kill_at  # type: ignore[method-assign]
    sys.exit(main())
