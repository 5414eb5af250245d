"""The state of an elastic embedding beside its weight: made, checked, saved and loaded.

Functions over the module, whose methods of ``nn.Module`` call them.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch._subclasses.functional_tensor import FunctionalTensor

try:
    from torch.distributed.tensor import DTensor
except ImportError:  # a torch without torch.distributed has none
    DTensor = ()  # type: ignore[assignment, misc]

from peel_ext.format import Layout
from peel_ext.nn.selection import even_block_weights

#: State that appears in a state_dict only where it differs from a fresh module's, and its dtype:
#: None for that of ``weight``.
OPTIONAL_STATE = {
    "block_weights": torch.float32,
    "item_group": torch.int32,
    "rotation": torch.float32,
    "row_mean": torch.float32,
    "refinement": None,
    "refinement_slot": torch.int32,
}

BUFFERS = ("block_weights", "item_group", "rotation", "row_mean", "refinement_slot")


@lru_cache(maxsize=32)
def _even_weights(layout: Layout, num_embeddings: int, dim: int) -> NDArray[np.float32]:
    # Values are looked at on the way, of which fake tensors have none.
    with unset_fake_temporarily():
        return even_block_weights(layout, num_embeddings, dim).numpy()


def even_blocks(
    layout: Layout, num_groups: int, num_embeddings: int, dim: int
) -> dict[str, Tensor]:
    """Item groups and weights of a table whose rows are all worth the same."""
    sizes = layout.item_group_sizes(num_embeddings)
    weights = torch.zeros(len(sizes), 0, dtype=torch.float32, device="cpu")
    if dim > 0:
        weights = torch.from_numpy(_even_weights(layout, num_embeddings, dim))
    item_group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return {
        "block_weights": weights.repeat(num_groups, 1, 1),
        # Not [None]: a stride of 0 is refused by DistributedDataParallel.
        "item_group": torch.from_numpy(item_group).view(1, num_embeddings),
    }


def give_even_blocks(module: Any, names: Collection[str] = ("block_weights", "item_group")) -> None:
    """Gives a module blocks as if nothing had been set, beside its weight.

    They have values even where the weight is on the meta device and has none.

    Args:
        module: whose blocks are made anew.
        names: which of ``block_weights`` and ``item_group`` are.
    """
    weight = module._parameter("weight")
    device = torch.device("cpu") if weight.is_meta else weight.device
    blocks = even_blocks(module.layout, module.num_groups, *weight.shape)
    for name, value in blocks.items():
        if name not in names:
            continue
        if name in module._buffers:
            module._buffers[name] = value.to(device)
        else:
            module.register_buffer(name, value.to(device))


def _set_blocks(module: Any) -> list[str]:
    """Which of block weights and item groups are not those of a fresh module."""
    rows = module.item_group.shape[1]
    fresh = even_blocks(module.layout, module.num_groups, rows, module.embedding_dim)
    return [name for name, value in fresh.items() if not _equal(getattr(module, name), value)]


def set_names(module: Any) -> list[str]:
    """Which optional state of a module is not that of a fresh one."""
    blocks = ("block_weights", "item_group")
    others = [name for name in OPTIONAL_STATE if name not in blocks]
    return _set_blocks(module) + [name for name in others if getattr(module, name) is not None]


def _equal(own: Tensor, fresh: Tensor) -> bool:
    """Whether both are the same, as far as can be told; what is on the meta device was never set."""
    if own.is_meta or own.shape != fresh.shape or isinstance(own, FakeTensor):
        return own.is_meta or own.shape == fresh.shape
    whole: Tensor = own.full_tensor() if isinstance(own, DTensor) else own
    return torch.equal(whole, fresh.to(whole.device))


#: What to do with a weight that is not one plain tensor.
_OF_QUANTISED = "make a module of ElasticEmbedding.from_pretrained(weight.dequantize())"
_OF_SHARDS = (
    "call ElasticEmbedding.from_sharded(weight) on all ranks, or make a module of "
    "ElasticEmbedding.from_pretrained(weight.full_tensor())"
)


def is_plain(weight: Tensor) -> bool:
    """Tells whether it is one plain tensor, which blocks can be cut from."""
    # Wrappers of other tensors take operations over; those of compilers are asked nothing.
    takes_over = type(weight).__torch_dispatch__ is not Tensor.__torch_dispatch__
    return not takes_over or isinstance(weight, FakeTensor | FunctionalTensor)


def check_plain(weight: Tensor) -> None:
    """Raises TypeError unless the weight is one plain tensor, which blocks can be cut from."""
    if not is_plain(weight):
        is_sharded = hasattr(weight, "full_tensor")
        raise TypeError(
            f"weight must be one plain tensor to be cut into blocks, got a {type(weight).__name__}:"
            f" {_OF_SHARDS if is_sharded else _OF_QUANTISED} for it"
        )


def check_whole(module: Any) -> None:
    """Raises TypeError where FSDP shards the weight: it refills memory without torch counting that."""
    if "_is_fsdp_managed_module" in module.__dict__:
        raise TypeError(
            f"weight is sharded by FSDP, and blocks cannot be cut from it: {_OF_SHARDS} for a budget"
        )


def check_weight(weight: Tensor, shape: tuple[int, int]) -> None:
    """Raises unless blocks can be cut from the weight.

    Raises:
        TypeError: not one plain tensor.
        ValueError: another shape than the module's.
    """
    check_plain(weight)
    if shape[1] == 0:
        raise ValueError("embedding_dim is 0: there is nothing to be cut into blocks")
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but num_embeddings and embedding_dim are "
            f"{shape[0]} and {shape[1]}"
        )


def check_blocks(module: Any) -> None:
    """Raises unless there are blocks for the rows there are, and cuts them where none were set."""
    weight = module._parameter("weight")
    if not weight.is_meta:
        module._settle()
    check_whole(module)
    check_weight(weight, (module.num_embeddings, module.embedding_dim))
    bring_blocks_along(module, weight)


def bring_blocks_along(module: Any, weight: Tensor) -> None:
    """Cuts a module's blocks anew where its rows have changed in number, or the blocks have no values.

    Raises:
        ValueError: what was set for the rows of before does not fit those of now.
    """
    slots: Tensor | None = module.refinement_slot
    rows, before = weight.shape[0], module.item_group.shape[1]
    if before == rows and (slots is None or slots.shape[1] == rows):
        if module.block_weights.is_meta and not weight.is_meta:
            give_even_blocks(module)
        return
    set_before = _set_blocks(module) + ([] if slots is None else ["refinement_slot"])
    if set_before:
        raise ValueError(
            f"{', '.join(set_before)} were set for {before} rows, but weight has {rows}: make a "
            "module of the new weight and set them again"
        )
    give_even_blocks(module)


def without_defaults(module: Any, destination: dict[str, Any], prefix: str) -> None:
    """Takes out of a state_dict what a fresh module would have as well."""
    kept = _set_blocks(module)
    for name in ("block_weights", "item_group"):
        if name not in kept:
            destination.pop(prefix + name, None)


def fit_to_load(module: Any, state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Makes room for what a state_dict brings; returns it with what it lacks from the module.

    Raises:
        RuntimeError: state of another geometry, as torch does for mismatched sizes.
    """
    blocks = ("block_weights", "item_group")
    if sum(prefix + name in state_dict for name in blocks) == 1:
        # The other one was that of a fresh module, which this one need not be.
        even = even_blocks(
            module.layout, module.num_groups, module.num_embeddings, module.embedding_dim
        )
        state_dict = {**{prefix + name: even[name] for name in blocks}, **state_dict}
    for name, dtype in OPTIONAL_STATE.items():
        own, value = getattr(module, name), state_dict.get(prefix + name)
        if value is None:
            # A checkpoint of nn.Embedding, or of a module that never set this: keep ours.
            if own is not None:
                state_dict = {**state_dict, prefix + name: own.detach()}
            continue
        wanted = dtype or module._parameter("weight").dtype
        if value.dtype != wanted:
            state_dict = {**state_dict, prefix + name: value.to(wanted)}
        if own is None or own.shape != value.shape:
            check_shape(module, name, tuple(value.shape))
            fresh = torch.empty_like(value, dtype=wanted, device=module.block_weights.device)
            setattr(module, name, nn.Parameter(fresh) if name == "refinement" else fresh)
    return state_dict


def check_shape(module: Any, name: str, shape: tuple[int, ...]) -> None:
    """Raises RuntimeError unless optional state of this name and shape fits the module."""
    rows, dim = module.num_embeddings, module.embedding_dim
    expected = {
        "block_weights": tuple(module.block_weights.shape),
        "item_group": (1 if shape[:1] == (1,) else module.num_groups, rows),
        "rotation": (dim, dim),
        "row_mean": (dim,),
        "refinement": (shape[0] if shape else 0, dim),
        "refinement_slot": (module.num_groups, rows),
    }[name]
    if shape != expected:
        raise RuntimeError(f"{name} must have shape {expected}, the state_dict has {shape}")


def keep_values(module: Any, before: dict[str, Tensor | None], was_meta: bool) -> None:
    """Undoes of a conversion of a module what would change which blocks are kept.

    Args:
        module: after the conversion.
        before: its buffers before it.
        was_meta: whether its weight was on the meta device, so that memory is new and empty.
    """
    is_new = was_meta and not module._parameter("weight").is_meta
    for name, exact in before.items():
        now = module._buffers[name]
        if exact is None or now is None or exact.is_meta:
            continue
        # The dtype of a model is that of its parameters; these decide what is kept.
        if is_new or now.dtype != exact.dtype:
            module._buffers[name] = exact.to(now.device)
    block_weights = before["block_weights"]
    if is_new and block_weights is not None and block_weights.is_meta:
        give_even_blocks(module)
