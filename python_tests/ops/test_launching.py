"""Kernels that are launched, not called: what they find wrong is told, and nobody waits for them."""

from __future__ import annotations

import pytest
import torch

from peel_ext import ops
from peel_ext.ops import _launching

pytestmark = pytest.mark.skipif(
    not _launching.AVAILABLE or not _launching._cuda.on_host,
    reason="needs a build with PEEL_CUDA_SHIM",
)

HERE = torch.device("cpu")


def note(offenders: _launching._Offenders, call: int, kind: int, position: int, value: int) -> None:
    """What a kernel does that finds a mistake."""
    offenders._array[call, kind] = position << 32 | value & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("kind", "position", "value", "error", "text"),
    [
        (0, 7, -3, IndexError, r"indices contain -3 at flat position 7, .* \[0, 20\)"),
        (0, (1 << 32) - 1, 99, IndexError, "indices contain 99 at flat position 4294967295"),
        (1, 2, 5, IndexError, r"groups contain 5, expected values in \[0, 3\)"),
        (2, 2, 5, IndexError, "refinement_slot at flat position 2"),
        (3, 2, 5, IndexError, "item_group at flat position 2"),
        (4, 45, 0, ValueError, r"weights\[2, 5\] is NaN"),
    ],
)
def test_a_mistake_is_told_once(
    kind: int, position: int, value: int, error: type[Exception], text: str
) -> None:
    offenders = _launching._Offenders(HERE)
    offenders.take(1000, 1000)
    offenders.take(20, 3)
    offenders.check()
    if position >= 1 << 31:  # the word is unsigned
        offenders._array[1, kind] = (position << 32 | value) - (1 << 64)
    else:
        note(offenders, 1, kind, position, value)
    with pytest.raises(error, match=f"{text}.*; found by a kernel on cpu"):
        offenders.check()
    offenders.check()


def test_words_are_used_again_only_after_many_calls() -> None:
    offenders = _launching._Offenders(HERE)
    first = [offenders.take(1, 1) for _ in range(_launching._RING)]
    assert len(set(first)) == _launching._RING
    assert offenders.take(1, 1) == first[0]


def test_a_later_call_tells_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launching, "is_device", lambda tensor: True)
    table = torch.arange(40.0).reshape(10, 4)
    offenders = _launching._offenders(HERE)
    assert torch.equal(ops.grouped_lookup(table, torch.tensor([3])), table[3:4])
    note(offenders, offenders._calls % _launching._RING - 1, 0, 0, 44)
    with pytest.raises(IndexError, match=r"indices contain 44 at flat position 0, .* \[0, 10\)"):
        ops.topk_blocks(table, 2)
    assert ops.topk_blocks(table, 2).shape == (10, 2)


def test_rows_of_offending_pairs_are_nan_and_the_others_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_launching, "is_device", lambda tensor: True)
    monkeypatch.setattr(_launching._Offenders, "check", lambda self: None)
    table = torch.arange(40.0).reshape(10, 4)
    rows = ops.grouped_lookup(table, torch.tensor([3, 10, -1, 4]))
    assert torch.equal(rows[[0, 3]], table[[3, 4]])
    assert rows[1:3].isnan().all()
    monkeypatch.undo()
    with pytest.raises(IndexError, match="indices contain 10 at flat position 1"):
        _launching._offenders(HERE).check()


def test_exclusions_need_no_order(monkeypatch: pytest.MonkeyPatch, generator) -> None:
    users = torch.randn(5, 4, generator=generator)
    table = torch.randn(30, 4, generator=generator)
    indptr = torch.tensor([0, 3, 3, 9, 12, 20])
    exclude = torch.randint(0, 30, (20,), generator=generator)
    want = ops.gathered_score(users, table, 6, exclude_indptr=indptr, exclude=exclude)
    from peel_ext.ops.gathered_score import _sorted_exclusions

    starts, lists = _sorted_exclusions(indptr, exclude, 30)
    assert torch.equal(starts, indptr)
    for user in range(5):
        mine = slice(int(indptr[user]), int(indptr[user + 1]))
        assert lists[mine].tolist() == sorted(exclude[mine].tolist())
    got = ops.gathered_score(users, table, 6, exclude_indptr=starts, exclude=lists)
    assert torch.equal(got[0], want[0])
    hostile = torch.tensor([-4, 7, 2, 90, 3, 1])
    starts, lists = _sorted_exclusions(hostile, exclude, 30)
    assert starts.tolist() == [0, 7, 7, 20, 20, 20]
    assert sorted(lists.tolist()) == sorted(exclude.tolist())
