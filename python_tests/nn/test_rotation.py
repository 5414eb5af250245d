"""The rotation: even variances for every width, at a cost that does not explode with it."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from peel_ext.nn import rotation as rotations
from peel_ext.nn.rotation import fit_rotation, rotate_run


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


@pytest.mark.parametrize("dim", [1, 8, 9, 11, 33, 64, 300])
def test_runs_of_rows_are_rounded_as_the_whole(
    dim: int, generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotations, "_ROWS_AT_ONCE", 128)
    # Other libraries than MKL may round by more than the place in a run.
    within = 0.0 if torch.backends.mkl.is_available() else 1e-6
    for rows in (0, 1, 3, 7, 65, 129, 401):
        weight = torch.randn(rows, dim, generator=generator)
        rotation = fit_rotation(weight)
        cuts = torch.randint(0, rows + 1, (8,), generator=generator).tolist()
        edges = sorted([0, rows, max(0, rows - 1), *cuts])
        runs = [
            rotate_run(weight[first:end], rotation, first, rows)
            for first, end in itertools.pairwise(edges)
        ]
        torch.testing.assert_close(torch.cat(runs), weight @ rotation, rtol=0, atol=within)


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
