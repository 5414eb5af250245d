"""replace_embeddings: models go on as they were, and become elastic."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import peel_ext
from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout, replace_embeddings
from peel_ext.errors import BudgetError, ReplacementWarning

#: The model of most tests has tied weights, which is told of each time.
pytestmark = pytest.mark.filterwarnings("ignore::peel_ext.errors.ReplacementWarning")


class Tied(nn.Module):
    """Item embeddings looked up, read whole by the output layer, and used through F.embedding."""

    def __init__(self, rows: int = 40, dim: int = 8) -> None:
        super().__init__()
        self.items = nn.Embedding(rows, dim, padding_idx=0)
        self.same_items = self.items
        self.users = nn.ModuleList([nn.Embedding(rows, dim, sparse=True)])
        self.output = nn.Linear(dim, rows, bias=False)
        self.output.weight = self.items.weight

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        x = self.users[0](users) + self.items(items) + self.same_items(items)
        x = x + F.embedding(items, self.items.weight)
        return self.output(x) + x @ self.items.weight.T


USERS, ITEMS = torch.tensor([1, 5, 5]), torch.tensor([0, 7, 39])


@pytest.fixture
def model(seed: int) -> Tied:
    torch.manual_seed(seed)
    return Tied()


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(USERS, ITEMS), torch.tensor([3, 1, 7]))
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_says_what_it_replaced(model: Tied) -> None:
    replaced = replace_embeddings(model, num_groups=4, layout="columns")
    assert list(replaced) == ["items", "same_items", "users.0"]
    assert replaced["items"] is model.items is replaced["same_items"]
    assert all(type(module) is ElasticEmbedding for module in replaced.values())
    assert model.users[0].num_groups == 4
    assert model.users[0].layout == ColumnsLayout()
    assert replace_embeddings(model) == {}
    assert peel_ext.replace_embeddings is replace_embeddings


def test_the_model_computes_and_trains_as_before(model: Tied) -> None:
    untouched = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (untouched, model)]
    step(untouched, optimizers[0])
    step(model, optimizers[1])
    keys = list(model.state_dict())
    replace_embeddings(model, num_groups=3)
    assert model.output.weight is model.items.weight
    assert torch.equal(model(USERS, ITEMS), untouched(USERS, ITEMS))
    for _ in range(3):
        assert step(model, optimizers[1]) == step(untouched, optimizers[0])
    assert list(model.state_dict()) == keys
    for name, value in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert model.users[0].weight.grad.is_sparse
    assert model.items.weight.grad[0].abs().sum() > 0  # the padding row still gets the tied part


def test_keeps_what_belongs_to_the_module() -> None:
    embedding = nn.Embedding(12, 4, max_norm=1.0, norm_type=1.0, scale_grad_by_freq=True,
                             dtype=torch.float64)  # fmt: skip
    embedding.weight.requires_grad_(False)
    embedding.eval()
    embedding.tag = "mine"
    calls: list[int] = []
    embedding.register_forward_hook(lambda *_: calls.append(1))
    weight = embedding.weight
    (elastic,) = replace_embeddings(embedding).values()
    assert elastic is embedding
    assert elastic.weight is weight
    assert not elastic.weight.requires_grad
    assert not elastic.training
    assert elastic.tag == "mine"
    assert (elastic.max_norm, elastic.norm_type, elastic.scale_grad_by_freq) == (1.0, 1.0, True)
    elastic(torch.tensor([1]))
    assert calls == [1]
    assert repr(elastic).startswith("ElasticEmbedding(12, 4, max_norm=1.0")


def test_a_model_without_values_gets_them_later() -> None:
    with torch.device("meta"):
        model = Tied()
        fresh = ElasticEmbedding(40, 8)
    replace_embeddings(model)
    real = Tied()
    for module in (model, fresh):
        module.to_empty(device="cpu")
    model.load_state_dict(real.state_dict())
    assert torch.equal(model(USERS, ITEMS), real(USERS, ITEMS))
    for elastic in (model.items, fresh):
        want = ElasticEmbedding(40, 8)
        assert torch.equal(elastic.block_weights, want.block_weights)
        assert torch.equal(elastic.item_group, want.item_group)


def test_only_named_embeddings(model: Tied) -> None:
    replaced = replace_embeddings(model, ["users.0"])
    assert list(replaced) == ["users.0"]
    assert type(model.items) is nn.Embedding
    assert list(replace_embeddings(model, "items")) == ["items"]
    assert type(model.same_items) is ElasticEmbedding


class Scaled(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def test_subclasses_keep_their_own_ways() -> None:
    model = nn.Sequential(Scaled(5, 4))
    assert replace_embeddings(model) == {}
    assert replace_embeddings(nn.Linear(3, 3)) == {}
    with pytest.raises(TypeError, match=r"'0' must be exactly a torch.nn.Embedding.*is a Scaled"):
        replace_embeddings(model, ["0"])
    with pytest.raises(TypeError, match=r"must be exactly a torch.nn.Embedding, got Scaled"):
        ElasticEmbedding.adopt(model[0])


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (dict(names=["items", "item"]), ValueError, "names contain 'item', but the embeddings"),
        (dict(names="output"), TypeError, "'output' must be exactly a torch.nn.Embedding"),
        (dict(layout=ColumnsLayout(9)), ValueError, "'items' cannot be replaced: block_dim must"),
        (dict(num_groups=0), ValueError, "num_groups must be an integer of at least 1, got 0"),
        (dict(layout="rows"), ValueError, "layout must be 'planes' or 'columns'"),
    ],
)
def test_replaces_all_or_none(
    arguments: dict, error: type[Exception], named: str, model: Tied
) -> None:
    with pytest.raises(error, match=named):
        replace_embeddings(model, **arguments)
    assert type(model.items) is nn.Embedding


# ---- what a budget will not reach is told ----


class Tower(nn.Module):
    """An encoder with an embedding module of its own over the Parameter of the model's."""

    def __init__(self, embedding: type[nn.Embedding] = nn.Embedding) -> None:
        super().__init__()
        self.shared = nn.Embedding(20, 8)
        self.encoder = nn.ModuleDict({"embed_tokens": embedding(20, 8)})
        self.encoder["embed_tokens"].weight = self.shared.weight


class OwnWeight(nn.Module):
    """Tied weights as a Parameter of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(20, 8)
        self.output_weight = self.items.weight


def told(model: nn.Module, names: str | None = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replace_embeddings(model, names)
    assert all(issubclass(each.category, ReplacementWarning) for each in caught)
    assert all(each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("make", "names", "parts"),
    [
        (Tied, None, ["'output.weight' (Linear) is the Parameter of 'items', and no budget"]),
        (Tied, "users.0", []),
        (OwnWeight, None, ["'output_weight' (OwnWeight) is the Parameter of 'items'"]),
        (Tower, None, ["'shared', 'encoder.embed_tokens' have the same Parameter but a budget each"]),
        (Tower, "shared", ["'encoder.embed_tokens.weight' (Embedding) is the Parameter of 'shared'"]),
        (
            lambda: Tower(Scaled), None,
            [
                "not replaced, because they do more than look rows up: 'encoder.embed_tokens' (Scaled)",
                "'encoder.embed_tokens.weight' (Scaled) is the Parameter of 'shared'",
            ],
        ),
        (
            lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Embedding(9, 4), Scaled(9, 4)), None,
            [
                "the rows of a bag never leave it one by one: '0' (EmbeddingBag, mean of each bag)",
                "not replaced, because they do more than look rows up: '2' (Scaled)",
            ],
        ),
        (lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Embedding(9, 4)), "1", []),
        (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9), ElasticEmbedding(9, 4)), None, []),
    ],
)  # fmt: skip
def test_tells_what_a_budget_will_not_reach(
    make: Callable[[], nn.Module], names: str | None, parts: list[str]
) -> None:
    remarks = told(make(), names)
    assert len(remarks) == len(parts)
    for remark, part in zip(remarks, parts, strict=True):
        assert part in remark


def test_replaces_none_where_a_warning_is_an_error() -> None:
    model = Tower()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ReplacementWarning):
            replace_embeddings(model)
    assert type(model.shared) is type(model.encoder["embed_tokens"]) is nn.Embedding


def test_what_the_warning_advises_sees_the_budget() -> None:
    model = OwnWeight()
    items = replace_embeddings(model)["items"]
    x = torch.ones(1, 8)
    with items.budget(600):
        seen = x @ model.items.weight.T
        assert torch.equal(seen, x @ items(torch.arange(20)).T)
        assert not torch.equal(seen, x @ model.output_weight.T)


def test_what_the_warning_of_a_bag_advises_computes_the_same(generator) -> None:
    bag = nn.EmbeddingBag(20, 8, mode="sum")
    embedding = ElasticEmbedding.adopt(nn.Embedding.from_pretrained(bag.weight))
    ids = torch.randint(0, 20, (5, 4), generator=generator)
    torch.testing.assert_close(embedding(ids).sum(dim=-2), bag(ids))


# ---- under a budget, without a word of it in the model ----


def test_runs_under_a_budget(model: Tied, generator) -> None:
    layout = PlanesLayout(rows_per_block=4)
    items = replace_embeddings(model, "items", num_groups=3, layout=layout)["items"]
    worth = torch.rand(3, 40, generator=generator)
    worth[0, 7], worth[1, 7] = 2.0, 0.0  # one group holds this row, another does not
    items.set_row_values(worth)
    budget = 400
    full = model(USERS, ITEMS)
    seen = []
    for group in range(3):
        pee = items.generate(group, budget)
        rows = torch.from_numpy(pee.lookup(torch.arange(40).numpy()))
        plain = copy.deepcopy(model)
        with torch.no_grad():
            plain.items.weight.copy_(rows)
        with items.budget(budget), items.use_groups(group):
            assert torch.equal(items.weight, rows)
            seen.append(model.users[0](USERS) + 2 * items(ITEMS))
            got = model.users[0](USERS) + 2 * items(ITEMS) + F.embedding(ITEMS, items.weight)
            want = plain.users[0](USERS) + 2 * plain.items(ITEMS) + plain.items(ITEMS)
            assert torch.equal(got, want)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(model(USERS, ITEMS), full)


def test_trains_under_a_budget_through_every_use(model: Tied, generator) -> None:
    layout = PlanesLayout(rows_per_block=4)
    items = replace_embeddings(model, "items", num_groups=2, layout=layout)["items"]
    master = dict(items.named_parameters())["weight"]
    optimizer = torch.optim.SGD([master], lr=0.01)
    with items.budget(400), items.use_groups(1):
        held = items.weight.detach().abs().sum(dim=1) > 0
        losses = [step(model, optimizer) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert 0 < held.sum() < 40
    # A layer that shares the Parameter holds it itself: no budget of the embedding is its own.
    assert (master.grad[~held].abs().sum(dim=1) > 0).all()


def test_groups_in_force(generator) -> None:
    module = ElasticEmbedding(30, 8, num_groups=3)
    module.refine_rows(1, torch.tensor([4]))
    nn.init.ones_(module.refinement)
    input, owners = torch.tensor([[4, 5], [4, 4]]), torch.tensor([0, 1])
    with module.use_groups(owners):
        assert torch.equal(module(input), module(input, owners))
        assert torch.equal(module(input, 1), module(input, torch.tensor([1, 1])))
        with module.use_groups(1):
            assert torch.equal(module(input), module(input, 1))
        assert torch.equal(module(input), module(input, owners))
        with pytest.raises(ValueError, match="the whole table is that of one user group"):
            module.table()
        with pytest.raises(ValueError, match="the whole table is that of one user group"):
            _ = module.weight
        with pytest.raises(ValueError, match="groups must have the shape of indices"):
            module(torch.arange(3))
    assert torch.equal(module(input), module.weight[input])
    assert torch.equal(module.table(1)[4], module.weight[4] + 1)
    with module.use_groups(1):
        assert torch.equal(module.weight, module.table(1))
    with module.budget(1000):
        with pytest.raises(ValueError, match="there are 3: name one with use_groups"):
            _ = module.weight
        assert isinstance(dict(module.named_parameters())["weight"], nn.Parameter)
        assert "weight" in module.state_dict()
    for groups, error in ((3, IndexError), (True, TypeError), (torch.tensor([3]), IndexError),
                          (torch.tensor([0.5]), TypeError)):  # fmt: skip
        with pytest.raises(error), module.use_groups(groups):
            pass
    with pytest.raises(BudgetError), module.budget(10):
        pass
    assert module.budget_bytes is None
