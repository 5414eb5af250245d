"""The optimisers that a benchmark trains with, and what an update has to come to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEARNING_RATE, EPS = 0.01, 1e-8


def torch_adagrad(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=LEARNING_RATE, eps=EPS)


def torch_sparse_adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SparseAdam(parameters, lr=LEARNING_RATE)


class RowwiseAdagradReference:
    """Adagrad with one accumulator a row, plainly: FBGEMM's EXACT_ROWWISE_ADAGRAD.

    ``state += mean(grad^2)``, then ``row -= lr * grad / (sqrt(state) + eps)``, with the gradients of
    equal indices summed first.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.clone()
        self.state = torch.zeros(len(weight))

    def update(self, indices: Tensor, grad: Tensor) -> None:
        rows, place = torch.unique(indices, return_inverse=True)
        total = torch.zeros(len(rows), grad.shape[1]).index_add_(0, place, grad)
        self.state[rows] += total.square().mean(dim=1)
        self.weight[rows] -= LEARNING_RATE * total / (self.state[rows, None].sqrt() + EPS)
