"""The kernels on every instruction set of this machine, each in a process that begins with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from lookup_tables import LAYOUTS, make_table

from peel_ext import _core, ops, reference


def check_lookup() -> None:
    """Every bit is that of the reference."""
    generator = torch.Generator().manual_seed(5)
    indices = torch.randint(0, 23, (300,), generator=generator)
    groups = torch.randint(0, 3, (300,), generator=generator)
    for layout in LAYOUTS.values():
        for dim in (9, 64):
            weight, table = make_table(layout, generator, dim, rotated=layout is not None)
            got = ops.grouped_lookup(weight, indices, groups, **table)
            assert torch.equal(got, reference.grouped_lookup(weight, indices, groups, **table))


def check_score() -> None:
    """Scores are those of the reference within rounding."""
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(50, 64, generator=generator)
    table = torch.randn(999, 64, generator=generator)
    got, want = ops.gathered_score(users, table, 20), reference.gathered_score(users, table, 20)
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-5)
    assert (got[0] == want[0]).float().mean() > 0.99


@pytest.mark.parametrize("isa", _core.isas())
def test_every_instruction_set_agrees_with_the_references(isa: str) -> None:
    paths = [entry for entry in sys.path if entry.endswith("support")]
    code = (
        f"import sys; sys.path[:0] = {[os.path.dirname(__file__), *paths]!r}; "
        "import test_instruction_sets as checks; "
        f"assert checks._core.isa() == {isa!r}; checks.check_lookup(); checks.check_score()"
    )
    environment = {**os.environ, "PEEL_ISA": isa}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=environment)
