"""update_rows, by the optimisers over it, beside torch's sparse ones."""

from __future__ import annotations

import pytest
import torch
from inputs import mean_distinct, random_indices, random_table, random_vectors
from measurement import LIMIT, OURS, Case
from optimizers import BETAS, EPS, LEARNING_RATE, Steps, torch_adagrad, torch_sparse_adam
from torch import Tensor, nn

from peel_ext import optim

ROWS, DIM, COUNT, BATCHES = 1_000_000, 64, 16_384, 8
PAIRS = [
    *(("rowwise Adagrad", contender) for contender in (OURS, "torch Adagrad", LIMIT)),
    *(("Adam", contender) for contender in (OURS, "torch SparseAdam", LIMIT)),
]


def optimizer_of(contender: str, rule: str, weight: nn.Parameter) -> torch.optim.Optimizer:
    if contender == "torch Adagrad":
        return torch_adagrad([weight])
    if contender == "torch SparseAdam":
        return torch_sparse_adam([weight])
    if rule == "Adam":
        return optim.SparseAdam([weight], lr=LEARNING_RATE, betas=BETAS, eps=EPS)
    return optim.RowwiseAdagrad([weight], lr=LEARNING_RATE, eps=EPS)


@pytest.mark.parametrize(("rule", "contender"), PAIRS)
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def bench_step(measure, rule: str, contender: str, distribution: str, sized) -> None:
    rows, count = sized(ROWS), sized(COUNT)
    indices = random_indices(distribution, rows, count, BATCHES)
    state = 4 if rule == "rowwise Adagrad" else 2 * 4 * DIM
    touched = mean_distinct(indices) * (8 + 2 * 4 * DIM + state)  # id, gradient and row, state
    name = f"{rule}, {distribution}"
    case = Case("update_rows", name, (rows, DIM, count), "float32", touched, BATCHES * touched)
    if contender == LIMIT:
        measure.limit(case)
        return
    batches = [
        torch.sparse_coo_tensor(ids[None], grad, (rows, DIM), check_invariants=True).coalesce()
        for ids, grad in zip(indices, random_vectors(count, DIM, BATCHES), strict=True)
    ]
    weight = nn.Parameter(random_table(rows, DIM).clone())
    optimizer = optimizer_of(contender, rule, weight)

    def run(grad: Tensor) -> Tensor:
        weight.grad = grad
        optimizer.step()
        return weight.detach()

    steps = Steps(weight.detach(), "Adagrad" if contender == "torch Adagrad" else rule)

    def check(grad: Tensor, updated: Tensor) -> None:
        steps.step(grad.indices()[0], grad.values())
        assert torch.allclose(updated, steps.weight, rtol=1e-5, atol=1e-5)

    measure(case, contender, run, batches, check)
