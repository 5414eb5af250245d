from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from peel_ext.errors import DataError
from peel_ext.train.vectors import VectorPair, check_vectors, read_vectors

ROWS = np.arange(6, dtype=np.float64).reshape(3, 2)


def test_both_file_types_give_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(ROWS))
    save_file({"any name": ROWS}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.safetensors"):
        found = read_vectors(tmp_path / name)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert np.array_equal(found, ROWS)


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: not readable"):
        read_vectors(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("contents", [b"", b"\x93NUMPY", b"{}", b"\xff" * 40])
def test_hostile_files(tmp_path: Path, suffix: str, contents: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(contents)
    with pytest.raises(DataError, match="not readable"):
        read_vectors(path)


def test_other_contents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.npy: not readable"):
        read_vectors(tmp_path / "missing.npy")
    with pytest.raises(DataError, match=r"expected a \.npy or \.safetensors file"):
        read_vectors(tmp_path / "a.pt")
    save_file({"a": ROWS, "b": ROWS}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="expected one tensor, found 2: a, b"):
        read_vectors(tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match="expected a matrix of numbers"):
        read_vectors(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([["x"]]))
    with pytest.raises(DataError, match="expected a matrix of numbers"):
        read_vectors(tmp_path / "a.npy")


def test_users_come_back_with_length_one() -> None:
    users = np.array([[3, 4], [0, 0]], np.float32)
    items = np.ones((5, 2), np.float32)
    checked = check_vectors(VectorPair(users, items), 2, 5)
    assert checked.users.tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    assert checked.items is items


@pytest.mark.parametrize(
    ("users", "items", "told"),
    [
        (np.ones((3, 2)), np.ones((5, 2)), r"user_embeddings must have one row .* 2 users"),
        (np.ones((2, 2)), np.ones((4, 2)), r"item_embeddings must have one row .* 5 items"),
        (np.ones((2, 2)), np.ones((5, 3)), "same width, got 2 and 3"),
        (np.ones((2, 0)), np.ones((5, 0)), "user_embeddings must have at least one column"),
        (
            np.array([[1, 2], [np.nan, 1]]),
            np.ones((5, 2)),
            "user_embeddings must be finite .* row 1 has nan",
        ),
        (
            np.ones((2, 2)),
            np.full((5, 2), np.inf),
            "item_embeddings must be finite .* row 0 has inf",
        ),
        (
            np.full((2, 2), -1e30),
            np.ones((5, 2)),
            "user_embeddings must be .* below 1e.15, row 0 has -1e.30",
        ),
    ],
)
def test_vectors_that_do_not_fit(users: np.ndarray, items: np.ndarray, told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_vectors(VectorPair(users.astype(np.float32), items.astype(np.float32)), 2, 5)
