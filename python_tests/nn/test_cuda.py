"""ElasticEmbedding on a GPU: what works there without kernels of its own, and what says it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from peel_ext import ElasticEmbedding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROWS, DIM, GROUPS = 150, 16, 3


def make(generator: torch.Generator, refined: bool = True, **options) -> ElasticEmbedding:
    weight = torch.randn(ROWS, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(weight, freeze=False, num_groups=GROUPS, **options)
    if refined:
        module.refine_rows(1, torch.tensor([3, 9, 140]))
        with torch.no_grad():
            module.refinement.copy_(torch.randn(3, DIM, generator=generator))
    module.set_row_values(torch.rand(GROUPS, ROWS, generator=generator))
    return module


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7, 5_000])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_and_gradients_equal_the_cpu(refined: bool, count: int, dtype, generator) -> None:
    here = make(generator, refined)
    there = copy.deepcopy(here).to("cuda")
    indices = torch.randint(0, ROWS, (count,), generator=generator, dtype=dtype)
    groups = torch.randint(0, GROUPS, (count,), generator=generator)
    upstream = torch.randn(count, DIM, generator=generator)
    for where in (None, 1, groups):
        here.zero_grad()
        there.zero_grad()
        want = here(indices, where)
        got = there(indices.cuda(), where.cuda() if isinstance(where, torch.Tensor) else where)
        assert got.is_cuda
        assert torch.equal(got.cpu(), want)
        want.backward(upstream)
        got.backward(upstream.cuda())
        for name, parameter in here.named_parameters():
            grad = there.get_parameter(name).grad
            assert (grad is None) == (parameter.grad is None), name
            if grad is not None:
                torch.testing.assert_close(grad.cpu(), parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [dict(padding_idx=3), dict(sparse=True), dict(max_norm=1.0)])
def test_options_of_nn_embedding(options: dict, generator) -> None:
    weight = torch.randn(ROWS, DIM, generator=generator, device="cpu")
    ours = ElasticEmbedding.from_pretrained(weight.clone(), freeze=False, **options).cuda()
    theirs = nn.Embedding.from_pretrained(weight.clone(), freeze=False, **options).cuda()
    indices = torch.randint(0, ROWS, (200,), generator=generator).cuda()
    got, want = ours(indices), theirs(indices)
    assert torch.equal(got, want)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())


def test_compiled_and_autocast_rows_equal_eager_ones(generator) -> None:
    module = make(generator).cuda()
    indices = torch.randint(0, ROWS, (64,), generator=generator).cuda()
    want = module(indices)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.equal(module(indices), want)
    assert torch.equal(torch.compile(module, fullgraph=True)(indices), want)


def test_trained_on_the_gpu_and_elastic_on_the_cpu(generator) -> None:
    module = make(generator).cuda()
    before = module.weight.detach().clone()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    indices = torch.arange(ROWS, device="cuda")
    for group in range(GROUPS):
        optimizer.zero_grad()
        (module(indices, group) - 1).square().mean().backward()
        optimizer.step()
    assert not torch.equal(module.weight, before)
    trained = module.weight.detach().cpu()
    module.cpu()
    assert torch.equal(module.weight, trained)
    pee = module.generate(0, 2_000)
    assert 0 < pee.nbytes <= 2_000
    with module.budget(10**6):
        rows = module(torch.arange(ROWS), 0)
    assert rows.shape == (ROWS, DIM)


def test_a_budget_on_the_gpu_names_the_cpu(generator) -> None:
    module = make(generator).cuda()
    elsewhere = pytest.raises(ValueError, match="must be on the CPU to be encoded, got cuda")
    with elsewhere, module.budget(10**6):
        module(torch.arange(4, device="cuda"), 0)


def test_indices_elsewhere_than_the_weight_are_an_error(generator) -> None:
    module = make(generator).cuda()
    with pytest.raises((RuntimeError, ValueError), match=r"device|CPU|cuda"):
        module(torch.arange(5_000) % ROWS)
