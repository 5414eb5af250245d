"""Kernels that are launched where there is no CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from peel_ext.ops import _launching

HERE = torch.device("cpu")


class LaunchRecorder:
    """torch.cuda and the native module as far as a launch asks them; notes what is done in order."""

    on_host = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.capturing = False
        self.current = 0
        monkeypatch.setattr(_launching, "_cuda", self)
        monkeypatch.setattr(_launching, "_of_device", {})
        monkeypatch.setattr(torch.cuda, "device", self.guard)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        for module, waits in ((torch.cuda, "synchronize"), (_launching, "check_device")):
            monkeypatch.setattr(module, waits, lambda device: self.done.append("wait"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
        made = _launching._Offenders.__init__

        def make(offenders: _launching._Offenders, device: torch.device) -> None:
            monkeypatch.setattr(self, "on_host", True)  # no memory is pinned where CUDA is not
            made(offenders, device)
            monkeypatch.setattr(self, "on_host", False)

        monkeypatch.setattr(_launching._Offenders, "__init__", make)

    @contextmanager
    def guard(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, 1
        yield
        self.current = before

    def kernel_workspace(self, *args: int) -> int:
        assert self.current == 1
        self.done.append("ask")
        return 512

    def kernel(self, *args: int) -> None:
        assert self.current == 1
        stream, memory, num_bytes, _ = args[-4:]
        assert (stream, num_bytes) == (77, 512)
        assert memory != 0
        self.done.append("start")

    def launch(self) -> None:
        _launching.launch("kernel", HERE, (5,), 20, 3)
