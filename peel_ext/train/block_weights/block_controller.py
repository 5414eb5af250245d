"""The controller of the bi-level loop: a perceptron that weighs the blocks of a user group."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peel_ext.train.placement import FLOAT32_ON_CPU


class BlockController(nn.Module):
    """Weights of the blocks of a user group, from their features.

    Args:
        num_layers: layers of a row; which one a block belongs to is a feature too.
        hidden_dim: width of the two hidden layers.
    """

    def __init__(self, num_layers: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.scores = nn.Sequential(
            nn.Linear(2 + num_layers, hidden_dim, **FLOAT32_ON_CPU),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, **FLOAT32_ON_CPU),
            nn.ReLU(),
            nn.Linear(hidden_dim, 1, **FLOAT32_ON_CPU),
        )

    def forward(self, popularity: Tensor, loss: Tensor) -> Tensor:
        """Weights of mean 1, [num_item_groups, num_layers].

        Args:
            popularity: [num_item_groups], the logarithm of the interactions with a block's rows.
            loss: [num_item_groups], the loss of those interactions.
        """
        seen = torch.stack([_standardised(popularity), _standardised(loss)], dim=1)
        layers = torch.eye(self.num_layers, dtype=seen.dtype, device=seen.device)
        features = torch.cat(
            [
                seen[:, None, :].expand(-1, self.num_layers, -1),
                layers[None].expand(len(seen), -1, -1),
            ],
            dim=2,
        )
        scores = self.scores(features)[..., 0]
        weights: Tensor = torch.softmax(scores.flatten(), dim=0).view_as(scores)
        return weights * scores.numel()


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-6)
