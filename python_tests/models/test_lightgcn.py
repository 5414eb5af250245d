from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peel_ext.models import LightGCN, normalised_adjacency

SEED = 11

# Four users and five items: user 2 has no interactions, nor has item 4.
INDPTR = torch.tensor([0, 2, 5, 5, 6])
ITEM_ROWS = torch.tensor([0, 1, 0, 2, 3, 1])


def make_embedding(rows: int, dim: int = 3, dtype: torch.dtype = torch.float64) -> nn.Embedding:
    print(f"seed {SEED}")
    generator = torch.Generator().manual_seed(SEED + rows)
    embedding = nn.Embedding(rows, dim, dtype=dtype)
    nn.init.normal_(embedding.weight, generator=generator)
    return embedding


def dense_propagation(users: Tensor, items: Tensor, num_layers: int) -> tuple[Tensor, Tensor]:
    links = torch.zeros(len(users), len(items), dtype=users.dtype)
    for user in range(len(users)):
        links[user, ITEM_ROWS[INDPTR[user] : INDPTR[user + 1]]] = 1
    scale = (links.sum(1, keepdim=True) * links.sum(0)).clamp(min=1).sqrt()
    links = links / scale
    user_layers, item_layers = [users], [items]
    for _ in range(num_layers):
        user_layers.append(links @ item_layers[-1])
        item_layers.append(links.T @ user_layers[-2])
    return torch.stack(user_layers).mean(0), torch.stack(item_layers).mean(0)


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
def test_propagation_and_gradients_equal_the_dense_formula(num_layers: int) -> None:
    model = LightGCN(make_embedding(4), make_embedding(5), INDPTR, ITEM_ROWS, num_layers)
    parameters = list(model.parameters())
    assert [len(parameter) for parameter in parameters] == [4, 5]
    targets = make_embedding(4).weight.detach() + 1, make_embedding(5).weight.detach() - 1

    vectors = model()
    expected = dense_propagation(parameters[0], parameters[1], num_layers)
    gradients, expected_gradients = (
        torch.autograd.grad(
            sum(((a - b) ** 2).sum() for a, b in zip(result, targets, strict=True)), parameters
        )
        for result in (vectors, expected)
    )

    torch.testing.assert_close(vectors, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_gradients_pass_the_finite_difference_check() -> None:
    users, items = make_embedding(4), make_embedding(5)
    model = LightGCN(users, items, INDPTR, ITEM_ROWS, 2)

    def propagate(user_weight: Tensor, item_weight: Tensor) -> tuple[Tensor, Tensor]:
        weights = {"user_embedding.weight": user_weight, "item_embedding.weight": item_weight}
        result = torch.func.functional_call(model, weights, ())
        return result[0], result[1]

    assert torch.autograd.gradcheck(propagate, (users.weight, items.weight))


def test_unsorted_and_repeated_interactions_are_summed() -> None:
    matrix, transposed = normalised_adjacency(
        torch.tensor([0, 3]), torch.tensor([1, 0, 1]), 3, torch.float64
    )

    eye = torch.eye(3, dtype=torch.float64)
    expected = torch.tensor([[1 / 3**0.5, 2 / 6**0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(matrix @ eye, expected)
    torch.testing.assert_close(transposed @ eye[:1, :1], expected.T)


def test_any_module_with_a_weight_will_do() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 3, dtype=torch.float64))

    users, items = LightGCN(make_embedding(4), Table(), INDPTR, ITEM_ROWS)()

    assert users.shape == (4, 3)
    assert items.shape == (5, 3)


def test_the_state_holds_the_embeddings_alone() -> None:
    model = LightGCN(make_embedding(4), make_embedding(5), INDPTR, ITEM_ROWS)

    assert sorted(model.state_dict()) == ["item_embedding.weight", "user_embedding.weight"]


def test_arguments_that_do_not_fit_are_refused() -> None:
    users, items = make_embedding(4), make_embedding(5)
    with pytest.raises(ValueError, match="num_layers"):
        LightGCN(users, items, INDPTR, ITEM_ROWS, -1)
    with pytest.raises(ValueError, match="same width"):
        LightGCN(users, make_embedding(5, dim=2), INDPTR, ITEM_ROWS)
    with pytest.raises(ValueError, match="same width and dtype"):
        LightGCN(users, make_embedding(5, dtype=torch.float32), INDPTR, ITEM_ROWS)
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        LightGCN(users, items, INDPTR[:-1], ITEM_ROWS)
    with pytest.raises(ValueError, match="rise from 0"):
        LightGCN(users, items, INDPTR, ITEM_ROWS[:-1])
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        LightGCN(users, items, INDPTR, ITEM_ROWS + 2)
    with pytest.raises(ValueError, match="ReLU has none"):
        LightGCN(nn.ReLU(), items, INDPTR, ITEM_ROWS)
