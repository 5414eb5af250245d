"""What an elastic embedding has beside its weight: made, checked, saved and loaded.

Functions over the module, whose methods of ``nn.Module`` call them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peel_ext.format import Layout

#: State that appears in a state_dict only once it differs from a fresh module's, and its dtype: None
#: for that of ``weight``.
OPTIONAL_STATE = {
    "block_weights": torch.float32,
    "item_group": torch.int32,
    "rotation": torch.float32,
    "refinement": None,
    "refinement_slot": torch.int32,
}


def even_blocks(layout: Layout, num_groups: int, weight: Tensor) -> dict[str, Tensor]:
    """Item groups and weights of a table whose rows are all worth the same, where ``weight`` is."""
    num_embeddings, dim = weight.shape
    sizes = layout.item_group_sizes(num_embeddings)
    num_layers = layout.num_layers(dim)
    gains = np.full(num_layers, 1.0 / num_layers)
    if layout.nested:
        gains = layout.layer_gains(np.zeros((0, dim), np.float32))
    rows = sizes.astype(np.float32)[None, :, None]
    weights = np.repeat(rows * gains.astype(np.float32), num_groups, axis=0)
    item_group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return {
        "block_weights": torch.from_numpy(weights).to(weight.device),
        # Not [None]: a stride of 0 is refused by DistributedDataParallel.
        "item_group": torch.from_numpy(item_group).view(1, num_embeddings).to(weight.device),
    }


def check_weight(weight: Tensor, shape: tuple[int, int]) -> None:
    """Raises unless blocks can be cut from the weight.

    Raises:
        TypeError: not one plain tensor.
        ValueError: another shape than the module's.
    """
    if torch.utils._python_dispatch.is_traceable_wrapper_subclass(weight):
        raise TypeError(
            "weight must be one plain tensor for a budget, got a "
            f"{type(weight).__name__}: gather or dequantise it first, for example with "
            "ElasticEmbedding.from_pretrained(weight.full_tensor())"
        )
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but num_embeddings and embedding_dim are "
            f"{shape[0]} and {shape[1]}"
        )


def bring_blocks_along(module: Any, weight: Tensor) -> None:
    """Cuts a module's blocks anew where its rows have changed in number or left the meta device.

    Raises:
        ValueError: what was set for the rows of before does not fit those of now.
    """
    block_weights, item_group = module.block_weights, module.item_group
    slots: Tensor | None = module.refinement_slot
    fits = item_group.shape[1] == weight.shape[0]
    fits = fits and (slots is None or slots.shape[1] == weight.shape[0])
    if fits and (weight.is_meta or not (block_weights.is_meta or item_group.is_meta)):
        return
    set_before = sorted(module._changed_state & {"block_weights", "item_group", "refinement_slot"})
    if set_before:
        raise ValueError(
            f"{', '.join(set_before)} were set for {item_group.shape[1]} rows, but weight has "
            f"{weight.shape[0]} on {weight.device}: set them again, or load them"
        )
    module._buffers.update(even_blocks(module.layout, module.num_groups, weight))


def without_defaults(module: Any, destination: dict[str, Any], prefix: str) -> None:
    """Takes out of a state_dict what a fresh module would have as well."""
    for name in OPTIONAL_STATE:
        if name not in module._changed_state:
            destination.pop(prefix + name, None)


def fit_to_load(module: Any, state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Makes room for what a state_dict brings; returns it with what it lacks from the module.

    Raises:
        RuntimeError: state of another geometry, as torch does for mismatched sizes.
    """
    for name, dtype in OPTIONAL_STATE.items():
        own, value = getattr(module, name), state_dict.get(prefix + name)
        if value is None:
            # A checkpoint of nn.Embedding, or of a module that never set this: keep ours.
            if own is not None:
                state_dict = {**state_dict, prefix + name: own.detach()}
            continue
        module._changed_state.add(name)
        wanted = dtype or module._parameter("weight").dtype
        if value.dtype != wanted:
            state_dict = {**state_dict, prefix + name: value.to(wanted)}
        if own is None or own.shape != value.shape:
            _check_shape(module, name, tuple(value.shape))
            fresh = torch.empty_like(value, dtype=wanted, device=module.block_weights.device)
            setattr(module, name, nn.Parameter(fresh) if name == "refinement" else fresh)
    return state_dict


def _check_shape(module: Any, name: str, shape: tuple[int, ...]) -> None:
    rows, dim = module.num_embeddings, module.embedding_dim
    expected = {
        "block_weights": tuple(module.block_weights.shape),
        "item_group": (1 if shape[:1] == (1,) else module.num_groups, rows),
        "rotation": (dim, dim),
        "refinement": (shape[0] if shape else 0, dim),
        "refinement_slot": (module.num_groups, rows),
    }[name]
    if shape != expected:
        raise RuntimeError(f"{name} must have shape {expected}, the state_dict has {shape}")


def convert(module: Any, before: dict[str, Tensor | None]) -> None:
    """Undoes of a conversion of a module what would change which blocks are kept.

    Args:
        module: after the conversion.
        before: ``block_weights`` and ``rotation`` before it.
    """
    for name, exact in before.items():
        now = module._buffers[name]
        if exact is not None and now is not None and now.dtype != exact.dtype:
            # The dtype of a model is that of its parameters; these decide what is kept.
            module._buffers[name] = exact.to(now.device)
    was_empty = before["block_weights"]
    if was_empty is not None and was_empty.is_meta and not module.block_weights.is_meta:
        module._buffers.update(
            even_blocks(module.layout, module.num_groups, module._parameter("weight"))
        )
