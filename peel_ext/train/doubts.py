"""Doubts about the result of a training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import PretrainingConfig

#: The loss of the start, an SVD, first rises: shorter trainings may well end above it.
_EPOCHS_TO_FALL = 5

#: Nats by which it may end above the start: with a handful of items there is next to nothing to fall.
_LOSS_SLACK = 0.1


def doubt_losses(losses: NDArray[np.float64], config: PretrainingConfig) -> str | None:
    """A remark on a training whose loss has not fallen, or None.

    The mean of the last epoch is held against the first step, which no update has touched; a tenth
    of a nat above it is passed over, and so are trainings of fewer than five epochs.

    Args:
        losses: [num_steps], in nats.
        config: settings of the training.
    """
    if config.epochs < _EPOCHS_TO_FALL or len(losses) == 0:
        return None
    last = float(losses[-(len(losses) // config.epochs) :].mean())
    if last <= losses[0] + _LOSS_SLACK:
        return None
    return (
        f"the loss of pretraining did not fall: {losses[0]:.4f} in the first step, {last:.4f} on "
        f"average in the last epoch; try a lower learning rate than {config.learning_rate:g}"
    )
