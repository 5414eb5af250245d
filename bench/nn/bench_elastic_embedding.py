"""ElasticEmbedding beside nn.Embedding and FBGEMM: a training step, and the overhead of a call."""

from __future__ import annotations

from collections.abc import Callable

import peers
import pytest
import torch
from inputs import mean_distinct, random_indices, random_table, random_vectors
from measurement import LIMIT, OURS, Case, Run
from optimizers import EPS, LEARNING_RATE, Steps, torch_adagrad, torch_sparse_adam
from torch import Tensor, nn
from torch.nn import functional as F

from peel_ext import ColumnsLayout, ElasticEmbedding, optim

ROWS, DIM, COUNT, BATCHES = 1_000_000, 64, 16_384, 8
RULES = {
    OURS: "rowwise Adagrad",
    "FBGEMM": "rowwise Adagrad",
    "torch Adagrad": "Adagrad",
    "torch SparseAdam": "Adam",
}
SMALL_ROWS, SMALL_DIM, SMALL_COUNT = 1_000, 32, 4


def training_step(contender: str, weight: Tensor, count: int) -> tuple[Run, Tensor]:
    """Forward, backward and update of ``count`` rows, and the weight that it changes."""
    torch_peer = peers.load("torch")
    if contender == "FBGEMM":
        return peers.load("fbgemm").training_step(weight, count, LEARNING_RATE, EPS)
    if contender == "torch Adagrad":
        return torch_peer.training_step(weight, torch_adagrad)
    if contender == "torch SparseAdam":
        return torch_peer.training_step(weight, torch_sparse_adam)
    module = ElasticEmbedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    optimizer = optim.RowwiseAdagrad([module.weight], lr=LEARNING_RATE, eps=EPS)
    return torch_peer.step_of(module, optimizer), module.weight.detach()


@pytest.mark.parametrize("contender", [*RULES, LIMIT])
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def bench_training_step(measure, contender: str, distribution: str, sized) -> None:
    rows, count = sized(ROWS), sized(COUNT)
    indices = random_indices(distribution, rows, count, BATCHES)
    # Ids, the rows returned and their gradient; rows and accumulators once for all equal ids.
    touched = count * (8 + 2 * 4 * DIM) + mean_distinct(indices) * (4 * DIM + 4)
    name = f"forward, backward, rowwise Adagrad, {distribution}"
    shape = (rows, DIM, count)
    case = Case("elastic_embedding", name, shape, "float32", touched, BATCHES * touched)
    if contender == LIMIT:
        measure.limit(case)
        return
    run, weight = training_step(contender, random_table(rows, DIM), count)
    steps = Steps(weight, RULES[contender])

    def check(batch: tuple[Tensor, Tensor], answer: Tensor) -> None:
        ids, grad = batch
        assert torch.allclose(answer, steps.weight[ids], rtol=1e-5, atol=1e-5)
        steps.step(ids, grad)
        assert torch.allclose(weight, steps.weight, rtol=1e-5, atol=1e-5)

    batches = list(zip(indices, random_vectors(count, DIM, BATCHES), strict=True))
    measure(case, contender, run, batches, check)


def small_call(contender: str, variant: str, weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
    """Rows of a few indices, by one way of asking for them."""
    if contender == "F.embedding":
        return lambda indices: F.embedding(indices, weight)
    if contender == "nn.Embedding":
        plain = nn.Embedding(*weight.shape)
        plain.weight = weight
        return plain
    module = ElasticEmbedding(*weight.shape, num_groups=4, layout=ColumnsLayout())
    module.weight = weight
    groups = torch.arange(SMALL_COUNT) % 4

    def under_budget(indices: Tensor) -> Tensor:
        with module.budget(1 << 30):
            return module(indices, groups)

    if variant == "inside a budget":
        module.budget(1 << 30).__enter__()
    return {
        "plain": module,
        "groups": lambda indices: module(indices, groups),
        "inside a budget": lambda indices: module(indices, groups),
        "budget": under_budget,
    }[variant]


@pytest.mark.parametrize("contender", [OURS, "F.embedding", "nn.Embedding"])
@pytest.mark.parametrize("variant", ["plain", "groups", "inside a budget", "budget"])
@pytest.mark.parametrize("phase", ["no grad", "grad", "forward and backward"])
@pytest.mark.parametrize("threads", [1], indirect=True)
def bench_call_overhead(measure, contender: str, phase: str, variant: str) -> None:
    weight = nn.Parameter(random_table(SMALL_ROWS, SMALL_DIM).clone())
    call = small_call(contender, variant, weight)
    name = f"call of {SMALL_COUNT} indices, {variant}, {phase}"
    num_bytes = SMALL_COUNT * (8 + 2 * 4 * SMALL_DIM)
    shape = (SMALL_ROWS, SMALL_DIM, SMALL_COUNT)
    case = Case("elastic_embedding", name, shape, "float32", num_bytes, num_bytes * BATCHES)
    grad = torch.ones(SMALL_COUNT, SMALL_DIM)

    def forward_and_backward(indices: Tensor) -> Tensor:
        weight.grad = None
        rows = call(indices)
        rows.backward(grad)
        return rows

    def check(indices: Tensor, rows: Tensor) -> None:
        assert torch.equal(rows, weight[indices])
        assert rows.requires_grad == (phase != "no grad")
        if phase == "forward and backward":
            expected = torch.zeros_like(weight).index_add_(0, indices, grad)
            assert torch.equal(weight.grad, expected)

    with torch.set_grad_enabled(phase != "no grad"):
        run = forward_and_backward if phase == "forward and backward" else call
        batches = random_indices("uniform", SMALL_ROWS, SMALL_COUNT, BATCHES)
        measure(case, contender, run, batches, check)
