"""The command line as torchrun starts it, with something that goes wrong on one rank, once.

The first argument says what: ``killed`` while it pretrains, or ``no-space`` where it saves; the rest are
those of ``peel``.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

from peel_ext.cli.main import main
from peel_ext.train.checkpoint import Timer
from peel_ext.train.sharded import pretraining


def fail(what: str) -> None:
    """Makes rank 1 fail in the first attempt."""
    step = pretraining._Training.step

    def fail_at(training: Any, done: int) -> float:
        if what == "killed" and training.num_steps == 48 and done == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(training, done)

    pretraining._Training.step = fail_at  # type: ignore[method-assign]
    if what == "no-space":
        import torch.distributed.checkpoint.filesystem as filesystem

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        filesystem._write_item = refuse  # type: ignore[assignment]


if __name__ == "__main__":
    Timer.is_due = lambda timer: True  # type: ignore[method-assign]
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        fail(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
