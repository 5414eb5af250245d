"""Starting kernels on CUDA devices: streams, workspaces, and what the kernels found wrong.

Kernels note mistakes inside the data (an index out of range, a NaN weight) in words that the host
sees, and nobody waits for them: a mistake is an error of the next call on that device, of
:func:`check_device`, or with ``CUDA_LAUNCH_BLOCKING=1`` of the call itself.
"""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any, NamedTuple, NoReturn
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from peel_ext import _core

_cuda: Any
try:
    from peel_ext import _cuda  # type: ignore[no-redef]
except ImportError:  # built without PEEL_CUDA
    _cuda = None

#: Whether there are kernels for CUDA devices.
AVAILABLE = _cuda is not None

_NUM_WORDS = 5
_NONE = -1  # UINT64_MAX, read as signed
#: Calls that may be on their way before their words are used again, and calls captured in graphs,
#: whose words never are.
_RING, _CAPTURED = 1024, 256

_INDICES = "indices contain {value} at flat position {position}, expected values in [0, {rows})"
_TEXTS = (
    _INDICES,
    "groups contain {value}, expected values in [0, {groups})",
    "refinement_slot at flat position {position} leads beyond the rows there are",
    "blocks.item_group at flat position {position} leads beyond the rows there are",
    "weights[{row}, {column}] is NaN, expected a number",
)


def is_device(tensor: Tensor) -> bool:
    """True if a tensor is where kernels are launched, rather than called."""
    return tensor.is_cuda


def is_capturing(tensor: Tensor) -> bool:
    """True if kernels that are launched for a tensor now become part of a CUDA graph."""
    if not is_device(tensor) or _cuda.on_host:
        return False
    with torch.cuda.device(tensor.device):
        return torch.cuda.is_current_stream_capturing()


#: Tables that kernels in a CUDA graph read: its replays read the same memory.
_in_graphs: WeakSet[_core.StoreTable] = WeakSet()


def is_in_graph(table: _core.StoreTable) -> bool:
    """True if a kernel that reads this table was captured in a CUDA graph."""
    return table in _in_graphs


class _Offenders:
    """The words of one device, and which call each belongs to."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._words = torch.full(
            (_RING + _CAPTURED, _NUM_WORDS), _NONE, dtype=torch.int64, device="cpu",
            pin_memory=not _cuda.on_host,
        )  # fmt: skip
        self._array = self._words.numpy()
        self._limits: list[tuple[int, int]] = [(0, 0)] * len(self._words)
        # Threads count together: a backward runs in another one than its forward.
        self._calls, self._captured = itertools.count(), itertools.count()
        self._telling = threading.Lock()

    def take(self, rows: int, groups: int, captured: bool = False) -> int:
        """The address of the words for the next call, in which values are below these."""
        last = _CAPTURED - 1
        slot = _RING + min(next(self._captured), last) if captured else next(self._calls) % _RING
        self._limits[slot] = rows, groups
        return self._words.data_ptr() + slot * _NUM_WORDS * 8

    def check(self) -> None:
        """Raises what was noted since the last time; IndexError or ValueError."""
        # At every call: this is the quickest way to see that all bits are set.
        if np.bitwise_and.reduce(self._array, axis=None) == _NONE:
            return
        with self._telling:
            # A kernel on its way would note its mistake again in words that were cleared under it.
            if not _cuda.on_host:
                torch.cuda.synchronize(self._device)
            noted = self._array != _NONE
            if noted.any():  # else another thread has told
                self._raise(noted)

    def _raise(self, noted: np.ndarray) -> NoReturn:
        slot, kind = noted.nonzero()
        word, what = int(self._array[slot[0], kind[0]]), int(kind[0])
        rows, groups = self._limits[int(slot[0])]
        self._array[noted] = _NONE  # no others: kernels of other threads may have noted more
        position, low = word >> 32 & 0xFFFFFFFF, word & 0xFFFFFFFF
        value = low - (1 << 32) if low >> 31 else low
        row, column = divmod(position, max(1, rows))
        text = _TEXTS[what].format(
            value=value, position=position, rows=rows, groups=groups, row=row, column=column
        )
        error = ValueError if what == len(_TEXTS) - 1 else IndexError
        raise error(f"{text}; found by a kernel on {self._device}")


_of_device: dict[torch.device, _Offenders] = {}


def _offenders(device: torch.device) -> _Offenders:
    made = _of_device.get(device)
    # Of two threads that make words at once both use the same: kernels write to them later.
    return made or _of_device.setdefault(device, _Offenders(device))


def launch(
    kernel: str, device: torch.device, args: tuple[Any, ...], rows: int = 0, groups: int = 0
) -> None:
    """Starts a kernel on the current stream of a device.

    While a CUDA graph is captured nothing is told, because that could not wait for the device.

    Args:
        kernel: name in the native module.
        device: the device of all addresses in args.
        args: the arguments of the kernel.
        rows: indices are below it; of weights, how many there are in a row.
        groups: groups are below it.

    Raises:
        IndexError: an earlier call had an index or group out of range.
        ValueError: an earlier call had NaN weights.
        RuntimeError: the first call on this device is captured in a CUDA graph.
    """
    needed, start = getattr(_cuda, f"{kernel}_workspace"), getattr(_cuda, kernel)
    if _cuda.on_host:
        offenders = _offenders(device)
        offenders.check()
        num_bytes = needed(*args)
        memory = torch.empty(num_bytes + 256, dtype=torch.uint8, device="cpu")
        begin = (memory.data_ptr() + 255) // 256 * 256
        start(*args, 0, begin, num_bytes, offenders.take(rows, groups))
        offenders.check()
        return
    # First of all: in a forked process this is torch's error, where the words cannot be read; and
    # how much workspace a kernel needs depends on the current device.
    with torch.cuda.device(device):
        captured = torch.cuda.is_current_stream_capturing()
        if captured and device not in _of_device:
            # Words of a capture's own memory would be given to others with its graph.
            raise RuntimeError(
                f"the first call on {device} cannot be captured in a CUDA graph: make one before"
            )
        offenders = _offenders(device)
        if not captured:
            offenders.check()
        elif isinstance(args[0], _core.StoreTable):
            _in_graphs.add(args[0])
        num_bytes = needed(*args)
        # Its memory goes, when it is freed below, to later work of this stream or graph alone, and so
        # does that of temporaries of the caller: nothing has to be kept until the kernel has run.
        memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream().cuda_stream
        start(*args, stream, memory.data_ptr(), num_bytes, offenders.take(rows, groups, captured))
    if not captured and os.environ.get("CUDA_LAUNCH_BLOCKING") == "1":
        check_device(device)


def check_device(device: torch.device | str | None = None) -> None:
    """Waits for a CUDA device and raises what kernels found wrong on it; without one does nothing.

    Args:
        device: None for the current one.

    Raises:
        IndexError: an index or group was out of range.
        ValueError: weights were NaN.
    """
    where = torch.device("cuda" if device is None else device)
    if where.type != "cuda" or not torch.cuda.is_initialized():
        return  # nothing was started
    if where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.synchronize(where)
    if where in _of_device:
        _of_device[where].check()


class PackedTable(NamedTuple):
    """A copy of a Personalized Elastic Embedding on a device, and the memory it is in."""

    native: Any
    memory: tuple[Tensor, ...]

    def use(self) -> Any:
        """The address that kernels of the current stream take; the memory stays until they have run."""
        if self.memory[0].is_cuda:  # made on whichever stream was the first to need it
            for part in self.memory:
                part.record_stream(torch.cuda.current_stream(part.device))
        return self.native


def packed_table(pee: _core.Pee, device: torch.device) -> PackedTable:
    """Copies what is held now; every stream may read the copy, because copying it is waited for."""
    geometry, sizes, *parts = pee.parts()
    levels = torch.tensor(_core.levels(), dtype=torch.float32, device="cpu")
    memory = (*(_copied(part, device) for part in parts), levels.to(device))
    addresses = [part.data_ptr() for part in memory]
    return PackedTable(_cuda.PackedTable(*geometry, *sizes, *addresses), memory)


def _copied(part: bytes, device: torch.device) -> Tensor:
    # Blocks are read where they are aligned, so that an empty part has an address, too.
    words = torch.empty(len(part) // 8 + 8, dtype=torch.int64, device="cpu")
    view = words.view(torch.uint8)
    if part:
        view[: len(part)] = torch.frombuffer(bytearray(part), dtype=torch.uint8)
    return view.to(device)
