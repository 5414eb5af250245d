"""The optimisers against torch's own and a plain formula, inside ordinary training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from peel_ext import ElasticEmbedding
from peel_ext.optim import RowwiseAdagrad, SparseAdam


def train(embedding: nn.Module, optimizer: torch.optim.Optimizer, seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        indices = torch.randint(0, 30, (5, 8), generator=generator)
        target = torch.randn(5, 8, 6, generator=generator)
        optimizer.zero_grad()
        (embedding(indices) - target).square().sum().backward()
        optimizer.step()


def test_sparse_adam_takes_the_steps_of_torch(generator, seed: int) -> None:
    weight = torch.randn(50, 6, generator=generator)
    theirs = nn.Embedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    ours = ElasticEmbedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    train(theirs, torch.optim.SparseAdam(theirs.parameters(), lr=0.05), seed, 20)
    train(ours, SparseAdam(ours.parameters(), lr=0.05), seed, 20)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.weight[30:], weight[30:])


def test_sparse_adam_goes_on_from_the_state_of_torch(generator, seed: int) -> None:
    weight = torch.randn(50, 6, generator=generator)
    theirs = nn.Embedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    before = torch.optim.SparseAdam(theirs.parameters(), lr=0.05)
    train(theirs, before, seed, 5)
    ours = copy.deepcopy(theirs)
    after = SparseAdam(ours.parameters(), lr=0.05)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train(theirs, before, seed + 1, 5)
    train(ours, after, seed + 1, 5)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)


def test_rowwise_adagrad_follows_its_formula(generator, seed: int) -> None:
    weight = torch.randn(50, 6, generator=generator)
    ours = ElasticEmbedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    plain = nn.Embedding.from_pretrained(weight.clone(), freeze=False)
    train(ours, RowwiseAdagrad(ours.parameters(), lr=0.3, initial_accumulator_value=0.1), seed, 20)

    class Plain(torch.optim.Optimizer):
        def __init__(self, parameter: nn.Parameter) -> None:
            super().__init__([parameter], {})
            self.total = torch.full((50, 1), 0.1)

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            (parameter,) = self.param_groups[0]["params"]
            self.total += parameter.grad.square().mean(dim=1, keepdim=True)
            parameter -= 0.3 * parameter.grad / (self.total.sqrt() + 1e-8)

    train(plain, Plain(plain.weight), seed, 20)
    torch.testing.assert_close(ours.weight, plain.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [RowwiseAdagrad, SparseAdam])
def test_resumed_equals_uninterrupted(kind, generator, seed: int) -> None:
    weight = torch.randn(50, 6, generator=generator)
    whole = ElasticEmbedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    optimizer = kind(whole.parameters(), lr=0.1)
    train(whole, optimizer, seed, 6)
    half = copy.deepcopy(whole)
    saved = copy.deepcopy(optimizer.state_dict())
    train(whole, optimizer, seed + 1, 6)
    resumed = kind(half.parameters(), lr=0.1)
    resumed.load_state_dict(saved)
    train(half, resumed, seed + 1, 6)
    assert torch.equal(whole.weight, half.weight)


@pytest.mark.parametrize("kind", [RowwiseAdagrad, SparseAdam])
def test_trains_under_a_budget(kind, generator, seed: int) -> None:
    embedding = ElasticEmbedding(50, 6, sparse=True)
    optimizer = kind(embedding.parameters(), lr=0.05)
    target = torch.randn(50, 6, generator=generator)
    everything = torch.arange(50)
    losses = []
    with embedding.budget(600):
        for _ in range(30):
            optimizer.zero_grad()
            loss = (embedding(everything) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", [RowwiseAdagrad, SparseAdam])
def test_dense_gradients_are_refused(kind) -> None:
    embedding = nn.Embedding(4, 2)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"needs sparse gradients.*sparse=True"):
        kind(embedding.parameters()).step()


@pytest.mark.parametrize("kind", [RowwiseAdagrad, SparseAdam])
def test_numbers_out_of_range_are_named(kind) -> None:
    parameter = [nn.Parameter(torch.zeros(2, 2))]
    with pytest.raises(ValueError, match="lr must be above 0 and finite, got 0"):
        kind(parameter, lr=0)
    with pytest.raises(ValueError, match="eps must be at least 0 and finite, got -1"):
        kind(parameter, eps=-1)


def test_closures_and_parameters_without_gradient() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = RowwiseAdagrad([*embedding.parameters(), nn.Parameter(torch.zeros(3, 2))])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = embedding(torch.tensor([1, 1])).sum()
        loss.backward()
        return loss

    before = embedding.weight.detach().clone()
    torch.testing.assert_close(optimizer.step(closure).detach(), before[1].sum() * 2)
    assert not torch.equal(embedding.weight[1], before[1])
