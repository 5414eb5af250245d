"""Checks shared by the ops: each names the argument, its value and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from peel_ext.ops import _launching

#: Where there are kernels; on meta there are shapes alone.
DEVICES = {"cpu", "meta"} | ({"cuda"} if _launching.AVAILABLE else set())

#: The largest integer that native code takes.
MOST = (1 << 63) - 1


def check_tensor(
    name: str, value: object, dtypes: tuple[torch.dtype, ...], ndim: int, anywhere: bool = False
) -> Tensor:
    """The value as a tensor of one of the dtypes with that many dimensions.

    Args:
        name: name of the argument.
        value: value of the argument.
        dtypes: those it may have.
        ndim: its number of dimensions.
        anywhere: whether it may be on a device that has no kernels.

    Raises:
        TypeError: not a tensor, a sparse one, or another dtype.
        ValueError: another number of dimensions or another device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    check_dense(name, value)
    if value.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must be {expected}, got {str(value.dtype).removeprefix('torch.')}")
    if value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(value.shape)}")
    if not anywhere and value.device.type not in DEVICES:
        raise ValueError(f"{name} must be on {' or '.join(sorted(DEVICES))}, got {value.device}")
    return value


def check_dense(name: str, value: Tensor) -> None:
    """Raises TypeError for a sparse tensor, and others that have no strides."""
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of {value.layout}")


def check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the tensor has this shape; -1 matches any size."""
    if value.shape == shape:
        return
    if len(shape) != value.ndim or any(
        want not in (-1, got) for want, got in zip(shape, value.shape, strict=True)
    ):
        wanted = tuple("any" if size == -1 else size for size in shape)
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")


def check_int(name: str, value: object, low: int, high: int = MOST) -> int:
    """The value, a Python or NumPy integer, as an int within bounds.

    Raises:
        TypeError: not an integer.
        ValueError: out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        bounds = f"at least {low}" if value < low and high == MOST else f"between {low} and {high}"
        raise ValueError(f"{name} must be {bounds}, got {value}")
    return int(value)


def rows_with_unit_stride(value: Tensor) -> Tensor:
    """The matrix itself when its columns are adjacent in memory, else a contiguous copy.

    Of the imaginary part of a conjugate, whose values torch keeps with the other sign, it is a copy.

    Raises:
        ValueError: a meta tensor, which has no memory, among others that have.
    """
    if value.is_meta:
        raise ValueError(
            "expected all tensors on one device, got one on meta and others on the CPU"
        )
    value = value.resolve_neg()
    return value if value.stride(-1) == 1 or value.shape[-1] <= 1 else value.contiguous()


# Looked up once, for they are asked at every call. The others are not public, hence the way out:
# without them, transforms are not recognised. Compilers wrap what the second returns, None included,
# so that only its type tells.
_is_compiling = torch.compiler.is_compiling
_innermost_transform = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)
_num_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_script_tracer = getattr(torch._C, "_get_tracing_state", lambda: None)
_is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: False)
_Transform: Any = getattr(torch._C._functorch, "CInterpreter", ())


def is_traced(tensor: Tensor, other: Tensor | None = None, *more: Tensor | None) -> bool:
    """True if a call must go through the dispatcher instead of straight to the native core.

    So it is for compilers and exporters, torch.jit.trace, function transforms, forward-mode
    differentiation, dispatch modes (fake tensors, make_fx, counters of operations) and tensors that
    are more than plain memory.
    """
    if (
        _is_compiling()
        or _innermost_transform() is not None
        or forward_ad._current_level >= 0
        or _num_dispatch_modes()
        or _script_tracer() is not None
    ):
        return True
    # A meta tensor has a shape and no memory, which only the registered fake kernels can bear.
    kind = type(tensor)
    if (kind is not Parameter and kind is not Tensor) or tensor.is_meta:
        return True
    if other is not None:
        kind = type(other)
        if (kind is not Tensor and kind is not Parameter) or other.is_meta:
            return True
    return any(is_traced(each) for each in more if each is not None) if more else False


def is_traced_gradient(gradient: Tensor) -> bool:
    """The same of a gradient, which may also be a batch of gradients (``is_grads_batched``)."""
    return is_traced(gradient) or _is_batched(gradient)


def is_transformed() -> bool:
    """True if a torch.func transform (grad, vmap, jvp, ...) or forward-mode level is active."""
    return isinstance(_innermost_transform(), _Transform) or forward_ad._current_level >= 0
