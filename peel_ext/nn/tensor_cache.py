"""Results computed from tensors, kept until torch sees one of them change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from peel_ext.ops.lookup import stamp_of


class _Kept:
    """A value beside the tensors it was computed from.

    It keeps the memory of its tensors, so that no other tensor can be mistaken for one of them.
    """

    __slots__ = ("__weakref__", "counters", "sources", "stamp", "value")

    def __init__(self, sources: tuple[Tensor | None, ...], stamp: object, value: Any) -> None:
        self.sources = tuple(None if source is None else source.detach() for source in sources)
        self.counters = tuple(map(_counter, sources))
        self.stamp = stamp
        self.value = value

    def is_counted_with(self, sources: tuple[Tensor | None, ...]) -> bool:
        """Whether a change of these would have been counted here, or there was none yet."""
        return all(
            source is None or _counter(source) is counter or source._version == 0
            for source, counter in zip(sources, self.counters, strict=True)
        )


#: Of tensors that have memory in common, what tells whose changes are counted together.
_COUNTERS: MutableMapping[Tensor, object] = WeakIdKeyDictionary()


def _counter(tensor: Tensor | None) -> object:
    return None if tensor is None else _COUNTERS.setdefault(tensor, object())


def count_together(one: Tensor, other: Tensor) -> None:
    """Says that the first is the second in another tensor, as ``detach`` makes one.

    Torch counts their changes together but cannot be asked.
    """
    _COUNTERS[one] = _counter(other)


_LIVING: WeakValueDictionary[Hashable, _Kept] = WeakValueDictionary()


def stamp(*tensors: Tensor | None) -> object | None:
    """Equal for two calls as long as torch counted no change of the tensors between them.

    An in-place operation counts, and so does other memory, but not what is written through
    ``.data``, ``.numpy()``, a data pointer or by another process. None where there is an inference
    tensor, which has no counter.
    """
    # Asked, for one that became the data of a Parameter says the count of this.
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        return None
    return tuple(
        None if tensor is None else (tensor.data_ptr(), tensor._version) for tensor in tensors
    )


class Marks:
    """The stamp of tensors by :func:`stamp`, to be asked again at the price of no tuples.

    It asks for attributes alone, so that whoever traces operations sees none.

    Args:
        tensors: whose changes count.
    """

    __slots__ = ("_marks", "_stamp", "_tensors")

    def __init__(self, *tensors: Tensor | None) -> None:
        self._tensors = tuple(each for each in tensors if each is not None)
        self._stamp = stamp_of(self._tensors)
        self._marks = None if self._stamp is not None else self._read()

    def are_current(self) -> bool:
        """True if torch has counted no change of the tensors since, and they are no other part of it."""
        if self._marks is None:
            return stamp_of(self._tensors) == self._stamp
        return self._read() == self._marks

    def _read(self) -> list[tuple[Any, ...]]:
        return [
            (each._version, each.data_ptr(), each.shape, each.stride()) for each in self._tensors
        ]


#: Values of one cache: masks are those of a budget, of which there may be many.
_MOST = 16


def _tell_of_fused_step(optimizer: Optimizer, *_: Any) -> None:
    """Counts the changes that torch's fused optimisers make, which torch does not count."""
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    if not fused or not _LIVING:
        return
    living = [reference() for reference in _LIVING.valuerefs()]  # at once: other threads add to it
    read = {
        source.data_ptr()
        for kept in living
        if kept is not None
        for source in kept.sources
        if source is not None
    }
    for group in fused:
        changed = [each for each in group["params"] if each.grad is not None]
        torch.autograd.graph.increment_version(
            [each for each in changed if not each.is_meta and each.data_ptr() in read]
        )


register_optimizer_step_post_hook(_tell_of_fused_step)


class TensorCache:
    """Values computed from tensors, one of each kind; they live as long as it does."""

    def __init__(self) -> None:
        self._values: dict[Hashable, _Kept] = {}

    def __len__(self) -> int:
        return len(self._values)

    def derive(
        self, kind: Hashable, sources: tuple[Tensor | None, ...], compute: Callable[[], Any]
    ) -> Any:
        """See :func:`derive`; the value is kept here, beside those asked for last."""
        value = derive(kind, sources, compute, self._values)
        if kind in self._values:
            self._values[kind] = self._values.pop(kind)
        while len(self._values) > _MOST:
            self._values.pop(next(iter(self._values)))
        return value


def derive(
    kind: Hashable,
    sources: tuple[Tensor | None, ...],
    compute: Callable[[], Any],
    keeper: dict[Hashable, _Kept] | None = None,
) -> Any:
    """``compute()``, or what it gave the last time if the sources are the same and unchanged.

    Without a keeper a value is found, and brought up to date, where a keeper has one of the same
    memory; otherwise it is not kept, for the memory may be a compiler's to use again unseen. What
    is computed from inference tensors is not kept, and nothing kept is one. What is kept of tensors
    on a CUDA device is waited for, and so is all that still reads what it takes the place of: no
    stream has to know on which other one it was made.

    Args:
        kind: what is computed, and with which options.
        sources: all tensors that ``compute`` reads.
        compute: without arguments.
        keeper: keeps the value, one for each kind.

    Raises:
        RuntimeError: something has to be computed while a CUDA graph is captured, which cannot wait.
    """
    now = stamp(*sources)
    where = tuple(
        None if source is None else (source.data_ptr(), source.shape, source.stride())
        for source in sources
    )
    kept = _LIVING.get((kind, where))
    # Counters of their own may say the same of different contents. What has no keeper was detached
    # from what has one.
    if kept is not None and keeper is not None and not kept.is_counted_with(sources):
        kept = None
    if now is not None and kept is not None and kept.stamp == now:
        if keeper is not None:
            keeper[kind] = kept
        return kept.value
    devices = {source.device for source in sources if source is not None and source.is_cuda}
    if devices and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "blocks cannot be made while a CUDA graph is captured: look up under the budget once "
            "before, and again after each change of the table"
        )
    with torch.inference_mode(False), torch.no_grad():
        value = compute()
        if now is None:
            return value
        if keeper is not None or kept is not None:
            for device in devices:
                torch.cuda.synchronize(device)
        if keeper is not None:
            keeper[kind] = _LIVING[kind, where] = _Kept(sources, now, value)
        elif kept is not None:
            kept.stamp, kept.value = now, value
    return value
