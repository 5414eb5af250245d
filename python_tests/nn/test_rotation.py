"""The rotation: even variances for every width, at a cost that does not explode with it."""

from __future__ import annotations

import time

import pytest
import torch

from peel_ext.nn.rotation import fit_rotation


@pytest.mark.parametrize("dim", [2, 5, 24, 100, 384])
def test_is_orthogonal_even_and_repeatable(dim: int, generator) -> None:
    weight = torch.randn(700, dim, generator=generator) * torch.logspace(0, -2, dim)
    rotation = fit_rotation(weight)
    identity = torch.eye(dim, dtype=torch.float64)
    torch.testing.assert_close(rotation.double().T @ rotation.double(), identity, atol=2e-6, rtol=0)
    variances = (weight.double() @ rotation.double()).square().mean(dim=0)
    torch.testing.assert_close(
        variances, variances.mean().expand(dim), rtol=2e-6, atol=0
    )  # fmt: skip
    assert torch.equal(fit_rotation(weight), rotation)


def test_what_is_even_already_stays_as_it_is() -> None:
    assert torch.equal(fit_rotation(torch.zeros(5, 6)), fit_rotation(torch.zeros(0, 6)))


def test_other_widths_cost_about_what_powers_of_two_do(generator) -> None:
    def seconds(dim: int) -> float:
        weight = torch.randn(50, dim, generator=generator)
        spent = []
        for _ in range(2):
            began = time.process_time()
            fit_rotation(weight)
            spent.append(time.process_time() - began)
        return min(spent)

    assert seconds(384) < 8 * seconds(512)
