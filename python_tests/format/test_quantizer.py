"""The embedded quantiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from peel_ext.errors import EncodingWarning
from peel_ext.format import ColumnsLayout, Layout, PlanesLayout, quantizer


def test_code_is_the_formula(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(50, 33)).astype(np.float32)
    codes, scales = quantizer.encode_rows(rows)
    scale = scales.astype(np.float64)[:, None]
    exact = np.floor(256 * norm.cdf(rows / (1.5 * scale)))
    assert np.mean(codes == exact) > 0.999  # but for rounding at the edges
    assert np.abs(codes - exact).max() <= 1
    assert np.allclose(scale[:, 0], np.sqrt((rows.astype(float) ** 2).mean(axis=1)), rtol=1e-3)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_the_means_of_their_cells(bits: int) -> None:
    sample = norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    codes = np.searchsorted(quantizer.thresholds(), sample, side="right") >> (8 - bits)
    levels = quantizer.level_table()[(1 << bits) - 2 : (1 << bits + 1) - 2]
    means = np.array([sample[codes == code].mean() for code in range(1 << bits)])
    assert np.allclose(levels, means, atol=4e-3)
    error = np.mean((sample - levels[codes]) ** 2)
    assert error == pytest.approx(quantizer.distortion(bits), rel=2e-2)


def test_distortion_is_near_the_best_separate_quantiser() -> None:
    # Lloyd-Max distortions of a Gaussian (Max, 1960, table I).
    for bits, best in {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}.items():
        assert best * 0.999 < quantizer.distortion(bits) < best * 1.06
    assert quantizer.distortion(0) == 1


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 64, 65])
def test_planes_round_trip(dim: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 256, (20, dim), dtype=np.uint8)
    planes = quantizer.pack_planes(codes, (2, 1, 1, 2, 2))
    assert planes.shape == (20, 8 * ((dim + 7) // 8))
    for bits in range(9):
        got = quantizer.unpack_planes(planes, bits, dim)
        assert np.array_equal(got, codes.astype(int) >> (8 - bits))


def test_zero_rows_stay_zero_and_extremes_survive() -> None:
    rows = np.array([[0, 0], [65504, -65504], [1e-6, -1e-6]], dtype=np.float32)
    codes, scales = quantizer.encode_rows(rows)
    decoded = quantizer.decode_codes(codes, scales, 8)
    assert np.array_equal(decoded[0], np.zeros(2))
    assert np.isfinite(decoded).all()
    assert np.allclose(decoded[1], rows[1], rtol=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_refuses_rows_it_cannot_hold(bad: float) -> None:
    rows = np.ones((3, 4), dtype=np.float32)
    rows[1] = bad
    with pytest.raises(ValueError, match="row 1 cannot be quantised"):
        quantizer.encode_rows(rows)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (PlanesLayout(), 1e-8),
        (ColumnsLayout(2, "int8"), 1e-6),
        (ColumnsLayout(2, "float16"), 1e-8),
    ],
)
def test_rows_too_small_for_float16_are_told_of(layout: Layout, size: float) -> None:
    rows = np.ones((4, 4), dtype=np.float32)
    rows[0] = 0
    layout.encode(rows)  # zeros are what they are
    rows[2, 3] = 0  # and so is a part of a row
    layout.encode(rows)
    rows[[2, 3]] = size
    with pytest.warns(EncodingWarning, match="encoded as zeros: row 2 is too small for float16"):
        store, scales = layout.encode(rows)
    decoded = layout.decode(store, scales, (1 << layout.num_layers(4)) - 1, 4)
    assert np.array_equal(decoded.any(axis=1), [False, True, False, False])
    with pytest.raises(
        ValueError, match=r"no row can be encoded, row 1 is too small.*multiply all"
    ):
        layout.encode(rows * np.float32(size))


def test_float32_holds_what_is_small() -> None:
    rows = np.full((2, 4), 1e-30, dtype=np.float32)
    layout = ColumnsLayout(2)
    assert np.array_equal(layout.decode(*layout.encode(rows), 3, 4), rows)
