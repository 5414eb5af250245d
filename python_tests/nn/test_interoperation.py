"""Recommenders of other libraries, made elastic without a change to them.

A test skips where the library is absent; the extra ``interop`` brings torch-geometric, and the
Makefile says how RecTools is had.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout, replace_embeddings

pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of is their matter

LAYOUTS = [PlanesLayout(rows_per_block=16), ColumnsLayout(8, "float16", 10)]
BUDGET = 2000


def same_state(model: nn.Module, other: nn.Module) -> bool:
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def held_rows(embedding: ElasticEmbedding, group: int) -> Tensor:
    """What a device decodes [num_embeddings, dim]."""
    pee = embedding.generate(group, BUDGET)
    assert pee.nbytes <= BUDGET < embedding.weight.numel() * 4
    return torch.from_numpy(pee.lookup(np.arange(embedding.num_embeddings)))


# ---- LightGCN of torch-geometric, which reads the weight itself ----

USERS, ITEMS, DIM = 40, 120, 16


@pytest.fixture
def graph(generator) -> Tensor:
    """Edges [2, 2 * 400] between users and, after them, items."""
    users = torch.randint(0, USERS, (400,), generator=generator)
    items = torch.randint(USERS, USERS + ITEMS, (400,), generator=generator)
    return torch.stack([torch.cat([users, items]), torch.cat([items, users])])


@pytest.fixture
def lightgcn(seed: int) -> nn.Module:
    geometric = pytest.importorskip("torch_geometric.nn", reason="torch-geometric is absent")
    torch.manual_seed(seed)
    return geometric.LightGCN(USERS + ITEMS, DIM, num_layers=2)


def lightgcn_steps(model: Any, graph: Tensor, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Losses and gradients of a few steps on the same random triples: each lowers their loss."""
    trace = []
    generator = torch.Generator().manual_seed(0)
    edges = graph[:, torch.randint(0, 400, (64,), generator=generator)]
    wrong = torch.randint(USERS, USERS + ITEMS, (64,), generator=generator)
    for _ in range(4):
        optimizer.zero_grad()
        rank = model(graph, torch.cat([edges, torch.stack([edges[0], wrong])], dim=1))
        loss = model.recommendation_loss(*rank.chunk(2), node_id=edges.unique())
        loss.backward()
        optimizer.step()
        trace += [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
    return trace


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lightgcn_is_the_same_after_the_swap(layout: Any, lightgcn: Any, graph: Tensor) -> None:
    untouched = copy.deepcopy(lightgcn)
    optimizers = [torch.optim.Adam(one.parameters(), lr=0.01) for one in (untouched, lightgcn)]
    assert list(replace_embeddings(lightgcn, num_groups=4, layout=layout)) == ["embedding"]
    assert torch.equal(lightgcn(graph), untouched(graph))
    want = lightgcn_steps(untouched, graph, optimizers[0])
    got = lightgcn_steps(lightgcn, graph, optimizers[1])
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert want[-2] < want[0]
    assert same_state(lightgcn, untouched)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lightgcn_runs_and_trains_under_a_budget(
    layout: Any, lightgcn: Any, graph: Tensor, generator
) -> None:
    embedding = replace_embeddings(lightgcn, num_groups=4, layout=layout)["embedding"]
    embedding.set_row_values(torch.rand(4, USERS + ITEMS, generator=generator))
    users, items = torch.arange(USERS), torch.arange(USERS, USERS + ITEMS)
    for group in (0, 3):
        plain = copy.deepcopy(lightgcn)
        with torch.no_grad():
            plain.embedding.weight.copy_(held_rows(embedding, group))
        with embedding.budget(BUDGET), embedding.use_groups(group):
            assert torch.equal(lightgcn(graph), plain(graph))
            lists = lightgcn.recommend(graph, src_index=users, dst_index=items, k=5)
        assert torch.equal(lists, plain.recommend(graph, src_index=users, dst_index=items, k=5))
    optimizer = torch.optim.Adam(lightgcn.parameters(), lr=0.01)
    with embedding.budget(BUDGET), embedding.use_groups(3):
        held = embedding.weight.detach() != 0
        trace = lightgcn_steps(lightgcn, graph, optimizer)
    assert trace[-2] < trace[0]
    if not layout.nested:  # columns not held get no gradient; the planes drop whole rows
        assert (trace[-1][~held] == 0).all()
    assert (trace[-1][held.any(dim=1)] != 0).any()


# ---- SASRec of RecTools, which embeds all its items in every step ----


@pytest.fixture
def sasrec(seed: int) -> Any:
    """A function that fits one; equal calls give equal models."""
    models = pytest.importorskip("rectools.models", reason="RecTools is absent")
    data = pytest.importorskip("rectools.dataset")
    lightning = pytest.importorskip("pytorch_lightning")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    interactions = pandas.DataFrame(
        {
            "user_id": np.repeat(np.arange(30), 12),
            "item_id": rng.integers(0, 100, 360),
            "weight": 1.0,
            "datetime": pandas.Timestamp("2026-01-01")
            + pandas.to_timedelta(np.tile(np.arange(12), 30), unit="h"),
        }
    )
    dataset = data.Dataset.construct(interactions)

    def trainer() -> Any:
        return lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, deterministic=True,
        )  # fmt: skip

    def fit() -> tuple[Any, Any]:
        lightning.seed_everything(seed, verbose=False)
        model = models.SASRecModel(
            n_factors=16, n_blocks=1, n_heads=2, session_max_len=10, batch_size=8,
            get_trainer_func=trainer,
        )  # fmt: skip
        return model.fit(dataset), dataset

    return fit


ITEM_EMBEDDING = "item_model.item_net_blocks.0.ids_emb"
POSITIONS = "pos_encoding_layer.pos_emb"


def sasrec_steps(network: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    trace = []
    for step in range(4):
        sessions = torch.randint(0, 90, (8, 10), generator=generator)
        targets = torch.randint(1, 90, (8, 10), generator=generator)
        torch.manual_seed(step)  # dropout
        optimizer.zero_grad()
        loss = F.cross_entropy(network({"x": sessions}).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        trace += [loss.detach(), *(parameter.grad.clone() for parameter in network.parameters())]
    return trace


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sasrec_is_the_same_after_the_swap(layout: Any, sasrec: Any) -> None:
    model, _ = sasrec()
    network, untouched = model.torch_model, copy.deepcopy(model.torch_model)
    replaced = replace_embeddings(network, num_groups=4, layout=layout)
    assert sorted(replaced) == [ITEM_EMBEDDING, POSITIONS]
    sessions = {"x": torch.arange(20).view(2, 10)}
    network.eval()
    untouched.eval()
    assert torch.equal(network(sessions), untouched(sessions))
    got, want = sasrec_steps(network), sasrec_steps(untouched)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert same_state(network, untouched)


def test_sasrec_goes_on_under_its_own_trainer(sasrec: Any) -> None:
    swapped, dataset = sasrec()
    untouched, _ = sasrec()
    before = copy.deepcopy(swapped.torch_model.state_dict())
    replace_embeddings(swapped.torch_model, ITEM_EMBEDDING, num_groups=4)
    for model in (swapped, untouched):
        torch.manual_seed(0)
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
    assert same_state(swapped.torch_model, untouched.torch_model)
    assert not torch.equal(before[f"{ITEM_EMBEDDING}.weight"],
                           swapped.torch_model.state_dict()[f"{ITEM_EMBEDDING}.weight"])  # fmt: skip
    users = np.arange(10)
    lists = [
        model.recommend(users, dataset, k=5, filter_viewed=True) for model in (swapped, untouched)
    ]
    assert lists[0].equals(lists[1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sasrec_runs_and_trains_under_a_budget(layout: Any, sasrec: Any, generator) -> None:
    model, dataset = sasrec()
    network = model.torch_model
    embedding = replace_embeddings(network, ITEM_EMBEDDING, num_groups=2, layout=layout)[
        ITEM_EMBEDDING
    ]
    embedding.set_row_values(torch.rand(2, embedding.num_embeddings, generator=generator))
    plain, _ = sasrec()
    with torch.no_grad():
        plain.torch_model.get_parameter(f"{ITEM_EMBEDDING}.weight").copy_(held_rows(embedding, 1))
    users = np.arange(10)
    full = model.recommend(users, dataset, k=5, filter_viewed=True)
    with embedding.budget(BUDGET), embedding.use_groups(1):
        lists = model.recommend(users, dataset, k=5, filter_viewed=True)
        trace = sasrec_steps(network)
    assert lists.equals(plain.recommend(users, dataset, k=5, filter_viewed=True))
    assert not lists.equals(full)
    assert all(bool(value.isfinite().all()) for value in trace)
    moved = embedding.weight.grad.abs().sum(dim=1) > 0
    assert 0 < int(moved.sum()) < embedding.num_embeddings if layout.nested else moved.any()
