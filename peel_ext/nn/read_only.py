"""A tensor that cannot be edited in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        in_place = in_place or kwargs.get("inplace") is True
        written = (args[:1] or tuple(kwargs.values())) if in_place else (kwargs.get("out"),)
        if any(isinstance(tensor, cls) for tensor in _flattened(written)):
            raise RuntimeError(
                f"{name} would edit the weight of an ElasticEmbedding inside budget() or "
                "use_groups(), where it is a table computed from the Parameter: leave the context, "
                'or edit get_parameter("weight")'
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            source = args[0] if args else None
            if not isinstance(source, cls) or torch.compiler.is_compiling():
                return result
            if isinstance(result, Tensor):
                return _protected(source, result)
            if type(result) in (tuple, list):
                return type(result)(_protected(source, each) for each in result)
            return result

    def __iter__(self) -> Iterator[Tensor]:
        """The rows, read-only as well."""
        return iter(self.unbind())


def _flattened(values: tuple[Any, ...]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, tuple | list) else (value,)


def _protected(source: Tensor, result: Any) -> Any:
    """What came of a table: read-only if it is in the same memory."""
    if not isinstance(result, Tensor) or isinstance(result, ReadOnlyTensor):
        return result
    try:
        is_view = source.untyped_storage()._cdata == result.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # wrappers of transforms, and other layouts
        return result
    return result.as_subclass(ReadOnlyTensor) if is_view else result
