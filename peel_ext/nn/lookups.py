"""Lookups in an elastic embedding: by which way, and in which table.

Functions over the module, whose methods call them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peel_ext.nn import state
from peel_ext.nn.arguments import check_budget
from peel_ext.nn.encoding import BudgetedBlocks, Rows, refuse_onnx
from peel_ext.nn.tables import Kept, Sources
from peel_ext.nn.views import NOTHING, View, is_in_function, refuse_reentrant_checkpoint
from peel_ext.ops.lookup import (
    Options,
    Table,
    check_groups,
    has_kernels,
    is_capturing,
    is_traced,
    look_up_at_once,
    look_up_dense,
    lookup,
)

#: Indices from which on a lookup in the full table goes to our kernel: as fast as torch's forward
#: from here on, and faster backward.
_KERNEL_INDICES = 16_384

_NO_OPTIONS = Options()  # they only matter to gradients

_NO_INDICES = torch.empty(0, dtype=torch.int64, device="cpu")

_is_grad_enabled = torch.is_grad_enabled
_is_compiling = torch.compiler.is_compiling


def look_up(
    module: Any, input: Tensor, groups: Tensor | int | None, max_norm: float | None
) -> Tensor:
    """Rows of the indices, as :meth:`peel_ext.nn.ElasticEmbedding.forward` gives them.

    Args:
        module: the embedding.
        input: as ``forward``'s.
        groups: as ``forward``'s.
        max_norm: the norm that is kept: of what is looked up, not of what is read.
    """
    weight = _weight(module)
    if module._is_deferred and not weight.is_meta:
        module._settle()
    traced = is_traced(weight, input)
    view = module._views.get() if traced else module._views.of_context.get()
    budget_bytes, in_force, is_of_function = view
    if groups is None:
        groups = in_force
    if view is not NOTHING and not (traced or is_of_function) and is_in_function():
        refuse_reentrant_checkpoint()
    refined = groups is not None and module._parameters["refinement"] is not None
    if max_norm is not None and (budget_bytes is not None or refined) and isinstance(input, Tensor):
        with torch.no_grad():
            torch.embedding_renorm_(weight, input.reshape(-1), max_norm, module.norm_type)
    if budget_bytes is not None:
        return _look_up_under_budget(module, weight, input, groups, budget_bytes, traced)
    if refined:
        if not traced:
            return _look_up_in(current_table(module, weight), module, input, groups)
        refinement, slots = module._parameters["refinement"], module._buffers["refinement_slot"]
        table = Table(weight, refinement, slots, num_groups=module.num_groups)
        return lookup(table, input, groups, _options(module), traced=True)
    if groups is not None:
        with_gradient = weight.requires_grad and _is_grad_enabled()
        if not (traced or with_gradient or max_norm is not None):
            rows = look_up_dense(weight, input, groups, module.num_groups)
            if rows is not None:
                return rows
        # All have the same rows, but a mistake is a mistake.
        check_groups(groups, input, module.num_groups, traced)
    # A graph must not depend on the number of indices.
    if (
        not traced
        and input.numel() >= _KERNEL_INDICES
        and input.dtype in (torch.int64, torch.int32)
        and max_norm is None
        and has_kernels(weight)
        and weight.stride(1) == 1  # columns apart would be copied, and edits not seen
    ):
        return _look_up_in(current_table(module, weight), module, input, 0)
    return F.embedding(
        input, weight, module.padding_idx, max_norm, module.norm_type, module.scale_grad_by_freq,
        module.sparse,
    )  # fmt: skip


def _weight(module: Any) -> Tensor:
    own: Tensor | None = module._parameters.get("weight")
    return module._parameter("weight") if own is None else own


def _look_up_in(table: Table, module: Any, input: Tensor, groups: Tensor | int) -> Tensor:
    """Rows of a table that is current."""
    rows = look_up_at_once(table, input, groups)
    if rows is None:
        options = _options(module) if _is_grad_enabled() else _NO_OPTIONS
        rows = lookup(table, input, groups, options, traced=False)
    return rows


def _look_up_under_budget(
    module: Any, weight: Tensor, input: Tensor, groups: Tensor | int | None, budget_bytes: int,
    traced: bool,
) -> Tensor:  # fmt: skip
    if groups is None:
        if module.num_groups > 1:
            raise ValueError(
                f"groups must be given under a budget when there are {module.num_groups}, got None"
            )
        groups = 0
    if not traced:
        return _look_up_in(current_table(module, weight, budget_bytes), module, input, groups)
    if not torch.compiler.is_compiling():
        state.check_plain(weight)
        refuse_onnx(budget_bytes)
    table = Table(weight, module.refinement, module.refinement_slot, num_groups=module.num_groups)
    blocks = _blocks(module, budget_bytes)
    return lookup(table, input, groups, _options(module), blocks, traced=True)


def table(module: Any, group: int | None) -> Tensor:
    """See :meth:`peel_ext.nn.ElasticEmbedding.table`."""
    budget_bytes, in_force, _ = module._views.get()
    groups = in_force if group is None else group
    several = isinstance(groups, Tensor) and groups.dim() > 0
    if several or (groups is None and budget_bytes is not None and module.num_groups > 1):
        raise ValueError(
            f"the whole table is that of one user group and there are {module.num_groups}: name "
            f"one with use_groups(group), got {groups}"
        )
    weight = module._parameter("weight")
    # Not through forward, which hooks may have replaced by what reads the weight.
    rows = torch.arange(weight.shape[0], device=weight.device)
    return look_up(module, rows, groups, max_norm=None)


@lru_cache(maxsize=64)
def _of_budget(budget_bytes: int) -> View:
    """The view of a budget and no groups, which takes longer to make than to find."""
    return View(budget_bytes)


def under_budget(module: Any, view: View, budget_bytes: int) -> View:
    """The view with a budget, of which what cannot be had fails here, not at a lookup.

    Where calls are traced, that is what can be told.
    """
    limit = check_budget(budget_bytes)
    weight = _weight(module)
    if _is_compiling():
        state.check_whole(module)
        return View(limit, view.groups)
    kept = module._tables.kept.get(limit)
    if kept is None or not kept.is_of(module, weight):
        state.check_whole(module)
        if is_traced(weight):
            state.check_plain(weight)
        else:
            _make_table(module, weight, limit)
    return _of_budget(limit) if view.groups is None else View(limit, view.groups)


def for_groups(module: Any, view: View, groups: Tensor | int) -> View:
    """The view with user groups, which are checked."""
    check_groups(groups, groups if isinstance(groups, Tensor) else _NO_INDICES, module.num_groups)
    return View(view.budget_bytes, groups)


def current_table(module: Any, weight: Tensor, budget_bytes: int | None = None) -> Table:
    """The table of an eager lookup, made anew when anything it was made of has changed."""
    kept = module._tables.kept.get(budget_bytes)
    if kept is not None and kept.is_of(module, weight):
        table: Table = kept.table
        return table
    return _make_table(module, weight, budget_bytes)


@torch.inference_mode(False)
def _make_table(module: Any, weight: Tensor, budget_bytes: int | None) -> Table:
    blocks = None
    if budget_bytes is not None:
        state.check_blocks(module)
        blocks = _blocks(module, budget_bytes).store(module._cache)
    dense = (weight, module.refinement, module.refinement_slot)
    table = Table(*dense, blocks, module.num_groups)
    sources = Sources(*dense)
    if blocks is not None:
        sources = Sources(*dense, module.rotation, module.block_weights, module.item_group)
    if is_capturing(weight):
        module._tables.pin(table)  # what it copied has values in replays alone
    elif any(source is not None and source.is_inference() for source in sources):
        module._tables.forget()  # torch counts no changes of such
    else:
        module._tables.keep(budget_bytes, Kept(table, sources), module)
    return table


def all_rows(module: Any) -> Rows:
    """The rows of a module that there are to encode."""
    weight = module._parameter("weight")
    return Rows(weight, module.refinement, module.refinement_slot, module.rotation)


def _blocks(module: Any, budget_bytes: int) -> BudgetedBlocks:
    rows, parts = all_rows(module), (module.block_weights, module.item_group)
    if rows.weight.is_meta:  # where shapes are all there is
        parts = (parts[0].to("meta"), parts[1].to("meta"))
    return BudgetedBlocks(rows, *parts, module.layout, module._layout_text, budget_bytes)


def _options(module: Any) -> Options:
    padding_idx: int | None = module.padding_idx
    if padding_idx is not None and padding_idx < 0:  # set later, as F.embedding takes it
        padding_idx += module.num_embeddings
    return Options(padding_idx, module.scale_grad_by_freq, module.sparse)
