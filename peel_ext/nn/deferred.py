"""Places for what a checkpoint may bring to a module that was made on the meta device.

Who loads a checkpoint piece by piece, as transformers and accelerate do, asks such a module for its
``state_dict``, sets what the checkpoint has under those keys, and gives what it lacks memory without
values. What a fresh module has no key for would never be loaded. So a module on the meta device
offers a placeholder for each, and whatever is still one when loading ends is as in a fresh module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peel_ext.nn import state


class _AnyShape:
    """A shape that is not known before the checkpoint is read; it is checked afterwards."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


_KEEP = (
    Tensor.detach,
    Tensor.__deepcopy__,
    torch.empty_like,
    torch.zeros_like,
)


class Placeholder(Tensor):
    """A tensor on the meta device that stands for state there is none of.

    What is detached from it, or made like it, is one as well: memory without values stands for
    nothing either.
    """

    #: What transformers calls a tensor that it need not give values of its own.
    _is_hf_initialized = True

    def __new__(cls, data: Tensor, requires_grad: bool = True) -> Any:
        """What is made of values by its class, as accelerate does, is an ordinary Parameter."""
        return nn.Parameter(data, requires_grad)

    @staticmethod
    def of(dtype: torch.dtype, shape: tuple[int, ...] | None) -> Placeholder:
        """A placeholder of that shape, or of one that fits every other."""
        empty = torch.empty((0,) if shape is None else shape, dtype=dtype, device="meta")
        made: Placeholder = empty.as_subclass(Placeholder)
        if shape is None:
            made.__dict__["shape"] = _AnyShape()
        return made

    def __getattribute__(self, name: str) -> Any:
        if name == "shape" and "shape" in self.__dict__:
            return self.__dict__["shape"]
        return super().__getattribute__(name)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Keeps a placeholder what it is; everything else sees a tensor on the meta device."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in _KEEP:
                made = args[0].detach().as_subclass(cls)
                made.__dict__.update(args[0].__dict__)
                return made
            return func(*args, **(kwargs or {}))


def offer(module: Any) -> None:
    """Puts placeholders where a checkpoint may bring what the module has none of."""
    settle(module)  # it may have been asked before
    given = state.set_names(module)
    groups, rows, dim = module.num_groups, module.num_embeddings, module.embedding_dim
    shapes = {
        "block_weights": tuple(module._buffers["block_weights"].shape),
        "rotation": (dim, dim),
        "row_mean": (dim,),
        "refinement_slot": (groups, rows),
    }
    for name, dtype in state.OPTIONAL_STATE.items():
        if name in given:
            own = module._parameters.get(name, module._buffers.get(name))
            own._is_hf_initialized = True
            continue
        made: Tensor = Placeholder.of(dtype or module._parameter("weight").dtype, shapes.get(name))
        if name == "refinement":
            module._parameters[name] = nn.Parameter(made)
        else:
            module._buffers[name] = made


def settle(module: Any) -> None:
    """Makes what is still a placeholder what it is in a fresh module.

    Raises:
        RuntimeError: state of another geometry was set in place of one.
    """
    held = {
        name: module._parameters if name == "refinement" else module._buffers
        for name in state.OPTIONAL_STATE
    }
    placeholders = [name for name, own in held.items() if isinstance(own[name], Placeholder)]
    for name in placeholders:
        held[name][name] = None
    state.give_even_blocks(module, placeholders)
    for name, own in held.items():
        if own[name] is not None:
            state.check_shape(module, name, tuple(own[name].shape))
