"""NumPy: what needs nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Run = Callable[[Tensor], tuple[Tensor, Tensor]]

_CHUNK = 1 << 14  # rows decoded at a time, to stay in cache


def argpartition(k: int) -> Callable[[Tensor], Tensor]:
    """Indices [num_groups, k] of weights [num_groups, n], in no order."""

    def run(weights: Tensor) -> Tensor:
        n = weights.shape[1]
        return torch.from_numpy(np.argpartition(weights.numpy(), n - k, axis=1)[:, n - k :])

    return run


def take(weight: Tensor) -> Callable[[Tensor], Tensor]:
    table = weight.numpy()
    return lambda indices: torch.from_numpy(np.take(table, indices.numpy(), axis=0))


def _best(scores: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    chosen = np.argpartition(scores, scores.shape[1] - n, axis=1)[:, -n:]
    values = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    indices = np.take_along_axis(chosen, order, axis=1)
    return torch.from_numpy(indices), torch.from_numpy(np.take_along_axis(values, order, axis=1))


def best_rows(table: Tensor, n: int) -> Run:
    """Indices and scores [num_users, n] of users [num_users, dim], by matmul and argpartition."""
    rows = table.numpy()
    return lambda users: _best(users.numpy() @ rows.T, n)


def _best_decoded_rows(codes: np.ndarray, scales: np.ndarray | None, n: int) -> Run:
    """Of codes [rows, dim] that are made float32 a part at a time, times a scale a row [rows]."""

    def run(users: Tensor) -> tuple[Tensor, Tensor]:
        scores = np.empty((len(users), len(codes)), np.float32)
        for begin in range(0, len(codes), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            scores[:, part] = users.numpy() @ codes[part].astype(np.float32).T
        if scales is not None:
            scores *= scales
        return _best(scores, n)

    return run


def best_int8_rows(table: Tensor, n: int) -> tuple[Run, Tensor]:
    """The same over int8 codes with one scale a row, and the rows they stand for."""
    scales = np.abs(table.numpy()).max(axis=1) / np.float32(127)  # [rows]
    codes = np.rint(table.numpy() / scales[:, None]).astype(np.int8)  # [rows, dim]
    rows = torch.from_numpy(codes.astype(np.float32) * scales[:, None])
    return _best_decoded_rows(codes, scales, n), rows


def best_float16_rows(table: Tensor, n: int) -> tuple[Run, Tensor]:
    """The same over rows rounded to float16, and these."""
    codes = table.numpy().astype(np.float16)  # [rows, dim]
    return _best_decoded_rows(codes, None, n), torch.from_numpy(codes.astype(np.float32))
