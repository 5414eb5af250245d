"""The optimisers against torch's own and a plain formula, inside ordinary training."""

from __future__ import annotations

import copy
import pickle

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


# ---- options and state that come from elsewhere ----

STEPPED = (RowwiseAdagrad, SparseAdam)


def step_once(kind: type, **options: object) -> torch.Tensor:
    """A parameter of zeros after one step on a gradient of row 1."""
    parameter = nn.Parameter(torch.zeros(3, 2))
    parameter.grad = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).to_sparse(1)
    kind([parameter], **options).step()
    return parameter.detach()


@pytest.mark.parametrize("kind", STEPPED)
def test_maximize_steps_the_other_way(kind: type) -> None:
    assert step_once(kind, maximize=True)[1, 0] > 0
    assert torch.equal(step_once(kind, maximize=True), -step_once(kind))


@pytest.mark.parametrize("kind", STEPPED)
def test_a_learning_rate_may_be_a_tensor_and_fall_to_zero(kind: type) -> None:
    assert torch.equal(step_once(kind, lr=torch.tensor(0.25)), step_once(kind, lr=0.25))
    with pytest.raises(ValueError, match=r"lr must be one number, got shape \(2,\)"):
        step_once(kind, lr=torch.ones(2))
    parameter = nn.Parameter(torch.zeros(3, 2))
    optimizer = kind([parameter], lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step)
    again = kind([parameter], lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 0


@pytest.mark.parametrize(
    "theirs",
    [
        lambda p: torch.optim.SparseAdam(p, lr=0.1, maximize=True),
        lambda p: torch.optim.SparseAdam(p, lr=0.1, betas=(0.5, 0.7), eps=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, maximize=True),
    ],
)
@pytest.mark.parametrize("stepped", [False, True])
def test_sparse_adam_takes_the_options_of_a_loaded_state(theirs, stepped: bool) -> None:
    parameters = [nn.Parameter(torch.zeros(3, 2)) for _ in range(2)]
    before, after = theirs(parameters[:1]), SparseAdam(parameters[1:], lr=0.5)
    sparse = isinstance(before, torch.optim.SparseAdam)

    def step(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        grad = torch.tensor([[2.0, -1.0], [1.0, 1.0], [0.5, 3.0]])  # Adam steps all rows alike
        mine = sparse or isinstance(optimizer, SparseAdam)
        parameter.grad = grad.to_sparse(1) if mine else grad
        optimizer.step()

    if stepped:
        step(parameters[0], before)
        parameters[1].data.copy_(parameters[0].data)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    step(parameters[0], before)
    step(parameters[1], after)
    torch.testing.assert_close(parameters[1], parameters[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "theirs", "named"),
    [
        (SparseAdam, lambda p: torch.optim.AdamW(p), "has no weight_decay, but param_groups.0."),
        (SparseAdam, lambda p: torch.optim.Adam(p, amsgrad=True), "has no amsgrad"),
        (SparseAdam, lambda p: torch.optim.NAdam(p), "has no momentum_decay"),
        (SparseAdam, lambda p: torch.optim.SGD(p, lr=0.1), "must have 'eps' for SparseAdam"),
        (SparseAdam, lambda p: torch.optim.Adamax(p), "that of parameter 0 is .'exp_avg', 'exp_i"),
        (RowwiseAdagrad, lambda p: torch.optim.Adagrad(p, lr_decay=0.1), "has no lr_decay"),
        (RowwiseAdagrad, lambda p: torch.optim.Adagrad(p), r"\['sum'\], that of parameter 0 is"),
        (RowwiseAdagrad, lambda p: SparseAdam(p), "must have 'initial_accumulator_value'"),
    ],
)
def test_a_loaded_state_of_another_rule_is_refused(kind, theirs, named: str) -> None:
    elsewhere = nn.Parameter(torch.zeros(3, 2))
    other = theirs([elsewhere])
    elsewhere.grad = torch.ones(3, 2)
    if isinstance(other, SparseAdam):
        elsewhere.grad = elsewhere.grad.to_sparse(1)
    other.step()
    optimizer = kind([nn.Parameter(torch.zeros(3, 2))], lr=0.25)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=named):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("kind", STEPPED)
def test_state_of_another_shape_dtype_or_order_in_memory(kind, generator) -> None:
    embedding = nn.Embedding(30, 8, sparse=True)
    optimizer = kind(embedding.parameters(), lr=0.1)
    train_once = torch.arange(30)
    embedding(train_once).sum().backward()
    optimizer.step()
    narrow = kind([nn.Parameter(torch.zeros(20, 8))], lr=0.1)
    with pytest.raises(ValueError, match=r"in the state of parameter 0 must have shape \(20"):
        narrow.load_state_dict(optimizer.state_dict())

    saved = copy.deepcopy(optimizer.state_dict())
    for name, value in saved["state"][0].items():
        if isinstance(value, torch.Tensor):
            saved["state"][0][name] = value.double().t().contiguous().t()
    again = nn.Embedding.from_pretrained(embedding.weight.detach().clone(), False, sparse=True)
    resumed = kind(again.parameters(), lr=0.1)
    resumed.load_state_dict(saved)
    for module, stepping in ((embedding, optimizer), (again, resumed)):
        stepping.zero_grad()
        module(train_once).sum().backward()
        stepping.step()
    assert torch.equal(again.weight, embedding.weight)


@pytest.mark.parametrize("kind", STEPPED)
def test_parameter_groups_are_checked(kind: type) -> None:
    def group(**options: object) -> dict[str, object]:
        return {"params": [nn.Parameter(torch.zeros(2, 2))], **options}

    with pytest.raises(ValueError, match=r"has no weight_decay, but param_groups\[1\] sets it to"):
        kind([group(), group(weight_decay=0.1)])
    optimizer = kind([group(weight_decay=0, name="items", foreach=None)])
    with pytest.raises(ValueError, match="eps must be at least 0 and finite, got -1"):
        optimizer.add_param_group(group(eps=-1))
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group(group(maximize=True, lr=0.5))
    assert [group["maximize"] for group in optimizer.param_groups] == [False, True]


@pytest.mark.parametrize("kind", STEPPED)
def test_copies_and_pickles_go_on_alike(kind: type, seed: int) -> None:
    embedding = nn.Embedding(30, 6, sparse=True)
    optimizer = kind(embedding.parameters(), lr=0.1, maximize=True)
    train(embedding, optimizer, seed, 2)
    pairs = [
        copy.deepcopy((embedding, optimizer)),
        pickle.loads(pickle.dumps((embedding, optimizer))),
    ]
    old = copy.deepcopy((embedding, optimizer))
    del old[1].param_groups[0]["maximize"]  # as pickled before there was such an option
    restored = pickle.loads(pickle.dumps(old))[1]
    assert restored.param_groups[0]["maximize"] is False
    train(embedding, optimizer, seed + 1, 2)
    for module, stepping in pairs:
        train(module, stepping, seed + 1, 2)
        assert torch.equal(module.weight, embedding.weight)
