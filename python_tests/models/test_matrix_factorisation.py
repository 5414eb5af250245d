from __future__ import annotations

import pytest
import torch
from torch import nn

from peel_ext.models import MatrixFactorisation
from peel_ext.nn import ElasticEmbedding


def test_the_vectors_are_the_tables_and_get_their_gradients() -> None:
    users, items = nn.Embedding(3, 4), ElasticEmbedding(5, 4, num_groups=2)
    model = MatrixFactorisation(users, items)
    found = model()
    assert found[0] is users.weight
    assert found[1] is items.weight
    (found[0] @ found[1].T).sum().backward()
    torch.testing.assert_close(users.weight.grad, items.weight.detach().sum(0).expand(3, 4))
    assert items.weight.grad is not None


def test_embeddings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="same width"):
        MatrixFactorisation(nn.Embedding(3, 4), nn.Embedding(5, 3))
    with pytest.raises(ValueError, match="ReLU has none"):
        MatrixFactorisation(nn.Embedding(3, 4), nn.ReLU())
