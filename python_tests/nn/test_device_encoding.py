"""Rows encoded where they are agree with rows encoded on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext import ColumnsLayout, PlanesLayout
from peel_ext.errors import EncodingWarning
from peel_ext.format import Layout
from peel_ext.nn.device_encoding import encode_on_device
from peel_ext.nn.encoding import encode

LAYOUTS = [
    PlanesLayout(),
    PlanesLayout((1, 2)),
    ColumnsLayout(4, "float32"),
    ColumnsLayout(4, "float16"),
    ColumnsLayout(5, "int8"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "dim"), [(0, 8), (1, 5), (300, 16), (300, 13), (40, 64)])
def test_agrees_with_the_encoding_of_the_cpu(
    layout: Layout, rows: int, dim: int, generator
) -> None:
    values = (
        torch.randn(rows, dim, generator=generator)
        * torch.logspace(-3, 3, max(rows, 1))[:rows, None]
    )
    values[1:2] = 0
    store, scales = encode_on_device(values, layout)
    want_store, want_scales = (torch.from_numpy(part) for part in layout.encode(values.numpy()))
    assert store.shape == want_store.shape
    assert scales.shape == want_scales.shape
    assert store.dtype == torch.uint8
    assert scales.dtype == torch.float16
    # A sum in another order may round to the neighbouring scale.
    torch.testing.assert_close(scales, want_scales, rtol=2**-10, atol=0)
    same = (scales == want_scales).all(dim=1)
    assert same.float().mean() > 0.98 or rows < 10
    assert torch.equal(store[same], want_store[same])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 3, 200, 100_000])
def test_rows_on_the_cpu_begin_with_a_cache_line(layout: Layout, rows: int) -> None:
    values = torch.ones(rows, 8)
    store, _ = encode(values, layout)
    assert store.data_ptr() % 64 == 0 or rows == 0
    assert torch.equal(store, torch.from_numpy(layout.encode(values.numpy())[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_refuses_what_is_not_finite(layout: Layout, wrong: float) -> None:
    values = torch.ones(5, 8)
    values[3, 2] = wrong
    with pytest.raises(ValueError, match="row 3 cannot be"):
        layout.encode(values.numpy())
    with pytest.raises(ValueError, match="row 3 cannot be encoded"):
        encode_on_device(values, layout)


@pytest.mark.parametrize("layout", [PlanesLayout(), ColumnsLayout(4, "int8")])
def test_tells_of_rows_that_are_too_small(layout: Layout) -> None:
    values = torch.ones(4, 8)
    values[2] = 1e-9
    with pytest.warns(EncodingWarning, match="row 2 is too small"):
        encode_on_device(values, layout)
