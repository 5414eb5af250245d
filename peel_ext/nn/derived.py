"""What was computed from tensors, kept until torch sees one of them change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor


class Derived:
    """A value beside the tensors it was computed from; whoever owns it decides how long it lives.

    It keeps the memory of its tensors, so that no other tensor can be mistaken for one of them.
    """

    __slots__ = ("__weakref__", "sources", "stamp", "value")

    def __init__(self, sources: tuple[Tensor | None, ...], stamp: object, value: Any) -> None:
        self.sources = tuple(None if source is None else source.detach() for source in sources)
        self.stamp = stamp
        self.value = value


_LIVING: WeakValueDictionary[Hashable, Derived] = WeakValueDictionary()


def stamp(*tensors: Tensor | None) -> object:
    """Equal for two calls as long as torch counted no change of the tensors between them.

    An in-place operation counts, and so does other memory, but not what is written through
    ``.data``, ``.numpy()``, a data pointer or by another process. Inference tensors have no
    counter: their stamps are never equal.
    """
    try:
        return tuple(
            None if tensor is None else (tensor.data_ptr(), tensor._version) for tensor in tensors
        )
    except RuntimeError:
        return object()


def derive(
    kind: Hashable,
    sources: tuple[Tensor | None, ...],
    compute: Callable[[], Any],
    owner: dict[Any, Derived] | None = None,
) -> Any:
    """``compute()``, or what it gave the last time if the sources are the same and unchanged.

    Without an owner a value is found, and brought up to date, where an owner has one of the same
    memory; otherwise it is not kept, for the memory may be a compiler's to use again unseen.

    Args:
        kind: what is computed, and with which options.
        sources: all tensors that ``compute`` reads.
        compute: without arguments.
        owner: keeps the value, one for each kind.
    """
    now = stamp(*sources)
    where = tuple(
        None if source is None else (source.data_ptr(), source.shape, source.stride())
        for source in sources
    )
    kept = _LIVING.get((kind, where))
    if kept is not None and kept.stamp == now:
        if owner is not None:
            owner[kind] = kept
        return kept.value
    value = compute()
    if owner is not None:
        owner[kind] = _LIVING[kind, where] = Derived(sources, now, value)
    elif kept is not None:
        kept.stamp, kept.value = now, value
    return value
