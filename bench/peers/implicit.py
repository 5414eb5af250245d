"""implicit: the top rows of its recommenders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from implicit.cpu.topk import topk
from torch import Tensor


def best_rows(table: Tensor, n: int, threads: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Indices and scores [num_users, n] of users [num_users, dim]."""
    rows = table.numpy()

    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        indices, scores = topk(rows, users.numpy(), n, num_threads=threads)
        return torch.from_numpy(indices.astype(np.int64)), torch.from_numpy(scores)

    return run
