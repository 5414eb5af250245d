"""Kernels that are launched, not called: what they find wrong is told, and nobody waits for them."""

from __future__ import annotations

import pytest
import torch
from launch_recorder import HERE, LaunchRecorder

from peel_ext import ops
from peel_ext.ops import _launching

over_shim = pytest.mark.skipif(
    not _launching.AVAILABLE or not _launching._cuda.on_host,
    reason="needs a build with PEEL_CUDA_SHIM",
)


def test_without_a_device_nothing_has_gone_wrong_on_one() -> None:
    assert ops.check_device() is None


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> LaunchRecorder:
    return LaunchRecorder(monkeypatch)


def test_a_launch_is_for_the_device_of_its_tensors_and_waits_for_nothing(recorder) -> None:
    recorder.launch()
    assert recorder.done == ["ask", "start"]


def test_a_launch_that_blocks_is_waited_for(recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    recorder.launch()
    assert recorder.done == ["ask", "start", "wait"]


def test_words_are_cleared_when_no_kernel_writes_them_any_more(recorder) -> None:
    recorder.launch()
    note(_launching._of_device[HERE], 0, 0, 4, 44)
    with pytest.raises(IndexError, match="44 at flat position 4"):
        recorder.launch()
    assert recorder.done == ["ask", "start", "wait"]
    recorder.launch()


def test_a_capture_tells_nothing_waits_for_nothing_and_has_words_of_its_own(
    recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.launch()
    words = _launching._of_device[HERE]
    note(words, 0, 0, 4, 44)
    recorder.capturing = True
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    for _ in range(3):
        recorder.launch()
    assert "wait" not in recorder.done
    assert [limits == (20, 3) for limits in words._limits].count(True) == 4
    assert words._limits[_launching._RING : _launching._RING + 3] == [(20, 3)] * 3
    recorder.capturing = False
    with pytest.raises(IndexError, match="44 at flat position 4"):
        recorder.launch()


def test_the_first_call_cannot_be_captured(recorder) -> None:
    recorder.capturing = True
    with pytest.raises(RuntimeError, match="the first call on cpu cannot be captured"):
        recorder.launch()
    assert recorder.done == []


def test_threads_that_come_first_at_once_share_words(recorder) -> None:
    words = _launching._Offenders(HERE)
    made = _launching._Offenders

    def interrupted(device: torch.device) -> _launching._Offenders:
        _launching._of_device[device] = words  # of another thread
        return made(device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_launching, "_Offenders", interrupted)
        assert _launching._offenders(HERE) is words


def note(offenders: _launching._Offenders, call: int, kind: int, position: int, value: int) -> None:
    """What a kernel does that finds a mistake."""
    offenders._array[call, kind] = position << 32 | value & 0xFFFFFFFF


@over_shim
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


@over_shim
def test_words_are_used_again_only_after_many_calls() -> None:
    offenders = _launching._Offenders(HERE)
    first = [offenders.take(1, 1) for _ in range(_launching._RING)]
    assert len(set(first)) == _launching._RING
    assert offenders.take(1, 1) == first[0]


@over_shim
def test_a_later_call_tells_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launching, "is_device", lambda tensor: True)
    table = torch.arange(40.0).reshape(10, 4)
    offenders = _launching._offenders(HERE)
    assert torch.equal(ops.grouped_lookup(table, torch.tensor([3])), table[3:4])
    note(offenders, offenders._limits.index((10, 1)), 0, 0, 44)
    with pytest.raises(IndexError, match=r"indices contain 44 at flat position 0, .* \[0, 10\)"):
        ops.topk_blocks(table, 2)
    assert ops.topk_blocks(table, 2).shape == (10, 2)


@over_shim
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
