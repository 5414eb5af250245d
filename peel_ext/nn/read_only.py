"""A tensor that cannot be edited in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WRITERS = {
    "__set__", "__setitem__", "__delitem__", "__iadd__", "__isub__", "__imul__", "__idiv__",
    "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__", "__iand__", "__ior__", "__ixor__",
    "__ilshift__", "__irshift__",
}  # fmt: skip


class ReadOnlyTensor(Tensor):
    """A table that was computed: an edit of it would change nothing that is used afterwards.

    Operations in place are errors, here and on its views. Everything else is as ever, and gives
    ordinary tensors.
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuses what writes; makes the views that come out read-only."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        in_place = name in _WRITERS or (name.endswith("_") and not name.endswith("__"))
        written = (args[:1] or tuple(kwargs.values())) if in_place else _outputs(kwargs)
        if any(isinstance(tensor, cls) for tensor in written):
            raise RuntimeError(
                f"{name} would edit the weight of an ElasticEmbedding inside budget() or "
                "use_groups(), where it is a table computed from the Parameter: leave the context, "
                'or edit get_parameter("weight")'
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if isinstance(result, Tensor) and not isinstance(result, cls) and args:
            source = args[0]
            if isinstance(source, cls) and _same_memory(source, result):
                return result.as_subclass(cls)
        return result


def _outputs(kwargs: dict[str, Any]) -> tuple[Any, ...]:
    out = kwargs.get("out")
    return out if isinstance(out, tuple) else (out,)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    with torch._C.DisableTorchFunctionSubclass():
        if one.layout != torch.strided or other.layout != torch.strided:
            return False
        return one.untyped_storage()._cdata == other.untyped_storage()._cdata
