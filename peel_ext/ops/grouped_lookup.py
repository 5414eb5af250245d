"""grouped_lookup: rows of (index, group) pairs out of per-group block-sparse tables."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.ops._checks import check_int, check_tensor
from peel_ext.ops.lookup import BlockStore, Options, Table, is_traced, look_up_dense, lookup


def grouped_lookup(
    weight: Tensor,
    indices: Tensor,
    groups: Tensor | int = 0,
    *,
    refinement: Tensor | None = None,
    refinement_slot: Tensor | None = None,
    blocks: BlockStore | None = None,
    num_groups: int = 1,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of (index, group) pairs out of the tables of all user groups.

    Row (i, g) is ``weight[i]``, plus ``refinement[refinement_slot[g, i]]`` where that slot is not
    -1. With ``blocks`` it is the decoded value of that row, of it only the layers held: columns not
    held are zero, bits not held are unknown, and a row of which nothing is held is zero. The
    gradient goes straight through the decoding to the held part of ``weight`` and ``refinement``,
    summed over duplicates in order of occurrence.

    Args:
        weight: float32 [num_embeddings, dim].
        indices: int32 or int64, any shape.
        groups: user group of each index: an int, or a tensor of integers of the shape of
            ``indices`` or of its leading dimensions.
        refinement: float32 [num_refined, dim].
        refinement_slot: int32 [num_groups, num_embeddings], rows of refinement or -1.
        blocks: encoded rows and which layers each user group holds.
        num_groups: number of user groups.
        padding_idx: this index gets no gradient; negative: from the end.
        scale_grad_by_freq: divide a row's gradient by its occurrences.
        sparse: make the gradients sparse tensors of the rows that took part, uncoalesced unless
            parts of rows are dropped or scaled.

    Returns:
        float32 [*indices.shape, dim].

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape; sparse under torch.func.
        IndexError: an index or group out of range.
    """
    has_more = refinement is not None or refinement_slot is not None or blocks is not None
    if not has_more and padding_idx is None:
        traced = is_traced(weight, indices)
        if not (traced or (torch.is_grad_enabled() and weight.requires_grad)):
            # Making a table takes a third as long as a few thousand rows of it.
            found = look_up_dense(weight, indices, groups, num_groups)
            if found is not None:
                return found
    check_tensor("weight", weight, (torch.float32,), 2, anywhere=True)
    if padding_idx is not None:
        rows = weight.shape[0]
        padding_idx = check_int("padding_idx", padding_idx, -rows, rows - 1) % rows
    table = Table(weight, refinement, refinement_slot, blocks, num_groups)
    options = Options(padding_idx, scale_grad_by_freq, sparse)
    return lookup(table, indices, groups, options)
