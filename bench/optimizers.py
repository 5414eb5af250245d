"""The optimisers that a benchmark steps rows with, and what a step has to come to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEARNING_RATE, EPS = 0.01, 1e-8
BETAS = (0.9, 0.999)


def torch_adagrad(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=LEARNING_RATE, eps=EPS)


def torch_sparse_adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SparseAdam(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPS)


class Steps:
    """Steps of a copy of a table, plainly, on touched rows, with equal indices summed first.

    Args:
        weight: float32 [rows, dim].
        rule: ``Adagrad``; ``rowwise Adagrad``, of one accumulator a row, FBGEMM's
            EXACT_ROWWISE_ADAGRAD; or ``Adam``, as ``torch.optim.SparseAdam``.
    """

    def __init__(self, weight: Tensor, rule: str) -> None:
        self.weight = weight.clone()
        self.rule = rule
        width = 1 if rule == "rowwise Adagrad" else weight.shape[1]
        self.squares = torch.zeros(len(weight), width)
        self.mean = torch.zeros_like(weight) if rule == "Adam" else None
        self.count = 0

    def step(self, indices: Tensor, grad: Tensor) -> None:
        rows, place = torch.unique(indices, return_inverse=True)
        g = torch.zeros(len(rows), grad.shape[1]).index_add_(0, place, grad)
        self.count += 1
        if self.mean is None:
            square = g.square()
            narrow = self.squares.shape[1] < g.shape[1]
            self.squares[rows] += square.mean(dim=1, keepdim=True) if narrow else square
            self.weight[rows] -= LEARNING_RATE * g / (self.squares[rows].sqrt() + EPS)
            return
        self.mean[rows] = BETAS[0] * self.mean[rows] + (1 - BETAS[0]) * g
        self.squares[rows] = BETAS[1] * self.squares[rows] + (1 - BETAS[1]) * g.square()
        rate = LEARNING_RATE * (1 - BETAS[1] ** self.count) ** 0.5 / (1 - BETAS[0] ** self.count)
        self.weight[rows] -= rate * self.mean[rows] / (self.squares[rows].sqrt() + EPS)
