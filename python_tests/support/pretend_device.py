"""A device that is not there: its tensors have values, which the CPU computes.

Each wraps a tensor of the CPU and says that it is on ``pretend:0``. An operation computes on what is
wrapped, unless another of its tensors is elsewhere. Fake tensors have no values, and without CUDA no
gradients. A process has the device for good, so it is best one of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"

#: Operations that take tensors of several devices.
_COPIES = ("_to_copy", "copy_")

#: What a device must be waited for: values, and results whose size depends on values.
_WAITS = (
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount",
)  # fmt: skip


class PretendTensor(Tensor):
    """A tensor that says it is on the device, around the one that has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=torch.device(NAME, 0),
            dispatch_sizes_strides_policy="sizes",  # for resize_
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})


class PretendDevice(TorchDispatchMode):
    """What happens on the device.

    Attributes:
        operations: how often each was computed there.
        waits: how often it was waited for, by the operation that needs to know its values.
        elsewhere: how often each operation was computed on other devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _compute(op, args, kwargs or {})
        self._count(_name(op), args, kwargs or {})
        return result

    def _count(self, name: str, args: Any, kwargs: Any) -> None:
        if not any(isinstance(each, PretendTensor) for each in tree_leaves((args, kwargs))):
            self.elsewhere[name] += 1
            return
        self.operations[name] += 1
        leaves = name == "_to_copy" and not _is_pretended(kwargs.get("device") or NAME)
        sized = name == "repeat_interleave" and kwargs.get("output_size") is None
        masked = name == "index" and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if name in _WAITS or leaves or sized or masked:
            self.waits[name] += 1


def make_device() -> None:
    """Gives this process the device."""
    _setup_privateuseone_for_python_backend(NAME)


def _compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, PretendTensor)]
    wanted = kwargs.get("device")
    if wanted is not None and _is_pretended(wanted):
        kwargs = {**kwargs, "device": torch.device("cpu")}
    name = _name(op)
    if there and name not in _COPIES:
        # As a device does: a number, a tensor without dimensions of the CPU, goes along.
        strays = [each for each in tensors if not isinstance(each, PretendTensor) and each.ndim > 0]
        if strays:
            raise RuntimeError(f"{op}: some tensors are on {NAME}, others on {strays[0].device}")
    result = op(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not (bool(there) if wanted is None else _is_pretended(wanted)):
        return result
    if name == "copy_" and not isinstance(args[0], PretendTensor):
        return args[0]
    known = {id(each.inner): each for each in there}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else PretendTensor(value)

    return tree_map(wrap, result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


def _is_pretended(device: Any) -> bool:
    return torch.device(device).type == NAME


def _name(op: Any) -> str:
    return str(op.overloadpacket.__name__)
