"""The rowwise optimisers' update of touched rows beside torch's sparse ones."""

from __future__ import annotations

import pytest
import torch
from inputs import mean_distinct, random_indices, random_table, random_vectors
from measurement import LIMIT, OURS, Case, Run
from optimizers import EPS, LEARNING_RATE, RowwiseAdagradReference, torch_adagrad, torch_sparse_adam
from torch import Tensor, nn

ROWS, DIM, COUNT, BATCHES = 1_000_000, 64, 16_384, 8


def updates_of(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> Run:
    def run(grad: Tensor) -> Tensor:
        weight.grad = grad
        optimizer.step()
        return weight.detach()

    return run


@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
@pytest.mark.parametrize("contender", [OURS, "torch Adagrad", "torch SparseAdam", LIMIT])
def bench_rowwise_adagrad(measure, contender: str, distribution: str, sized) -> None:
    rows = sized(ROWS)
    indices = random_indices(distribution, rows, COUNT, BATCHES)
    values = random_vectors(COUNT, DIM, BATCHES)
    batches = [
        torch.sparse_coo_tensor(ids[None], grad, (rows, DIM)).coalesce()
        for ids, grad in zip(indices, values, strict=True)
    ]
    touched = mean_distinct(indices) * (8 + 4 * DIM * 2 + 4)  # id, gradient, row, state
    name = f"rowwise Adagrad, {distribution}"
    case = Case("update_rows", name, (rows, DIM, COUNT), "float32", touched, BATCHES * touched)
    if contender == LIMIT:
        measure.limit(case)
        return
    weight = nn.Parameter(random_table(rows, DIM).clone())
    if contender == OURS:
        optim = pytest.importorskip("peel_ext.optim", reason="peel_ext has no optimisers yet")
        optimizer = optim.RowwiseAdagrad([weight], lr=LEARNING_RATE, eps=EPS)
    elif contender == "torch Adagrad":
        optimizer = torch_adagrad([weight])
    else:
        optimizer = torch_sparse_adam([weight])
    reference = RowwiseAdagradReference(weight.detach())

    def check(grad: Tensor, updated: Tensor) -> None:
        if contender == OURS:
            reference.update(grad.indices()[0], grad.values())
            assert torch.allclose(updated, reference.weight, rtol=1e-5, atol=1e-6)
        else:  # other formulas, held by torch's tests: here only which rows they touch
            moved = (updated != reference.weight).any(dim=1).nonzero()[:, 0]
            assert torch.equal(moved, grad.indices()[0])
            reference.weight = updated.clone()

    measure(case, contender, updates_of(optimizer, weight), batches, check)
