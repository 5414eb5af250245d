"""A lookup through torch's dispatcher: what compilers, exporters and transforms see."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from peel_ext.ops._checks import is_transformed
from peel_ext.ops.lookup import plain
from peel_ext.ops.lookup.eager import gather
from peel_ext.ops.lookup.gradients import Record
from peel_ext.ops.lookup.table import Mask, Options, Pairs, Table


class Encoder(Protocol):
    """Makes the blocks of a table at run time, where they cannot be looked into before."""

    def decoded_rows(self, table: Table, pairs: Pairs) -> tuple[Tensor, Mask]:
        """Decoded rows [m, dim] without a gradient, and which values are held."""


def look_up(table: Table, pairs: Pairs, options: Options, encoder: Encoder | None) -> Tensor:
    """Rows [m, dim], with gradients.

    Raises:
        ValueError: sparse gradients under a transform.
    """
    transformed = is_transformed()
    if options.sparse and transformed:
        raise ValueError("sparse=True is not supported under torch.func and forward_ad")
    if encoder is None and not transformed:
        rows: Tensor = lookup_op(*table.flat(), *pairs, *options.flat())
        return rows
    if encoder is not None:
        decoded, mask = encoder.decoded_rows(table, pairs)
        if not (transformed or torch.is_grad_enabled()):
            return decoded
    elif table.mask is not None:
        decoded, mask = lookup_op(*_detached(table.flat()), *pairs, *options.flat()), table.mask
    else:
        decoded = None
    dense = (table.weight, table.refinement, table.refinement_slot)
    if transformed:
        rows = plain.look_up(*dense, pairs, options)
    else:
        rows = look_up(Table(*dense, num_groups=table.num_groups), pairs, options, None)
    if decoded is None:
        return rows
    return plain.straight_through(rows, decoded, mask.of_pairs(pairs, table.weight.shape[1]))


def _detached(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.detach() if isinstance(part, Tensor) else part for part in parts)


# ---- the registered op ----


def _look_up(
    weight: Tensor,
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    geometry: list[int],
    store: Tensor | None,
    scales: Tensor | None,
    item_group: Tensor | None,
    held: Tensor | None,
    levels: Tensor | None,
    rotation: Tensor | None,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    padding_idx: int,
    mean_duplicates: bool,
    sparse: bool,
) -> Tensor:
    table = Table.of_flat(
        weight, num_groups, refinement, refinement_slot, geometry, store, scales, item_group, held,
        levels, rotation,
    )  # fmt: skip
    return gather(table, Pairs(indices, groups, group).check())


lookup_op = torch.library.custom_op("peel_ext::grouped_lookup", _look_up, mutates_args=())

_NUM_TABLE = 11  # arguments of a table, before those of pairs and options


def register_shapes(op: Any, first_pair: int) -> None:
    """Says what an op (weight, ..., indices, groups, ...) -> rows [m, dim] does to shapes and vmap.

    Args:
        op: a custom op.
        first_pair: the place of ``indices``, which ``groups`` follow.
    """

    @op.register_fake  # type: ignore[untyped-decorator]
    def _(weight: Tensor, *rest: Any) -> Tensor:
        return weight.new_empty((rest[first_pair - 1].shape[0], weight.shape[1]))

    @op.register_vmap  # type: ignore[untyped-decorator]
    def _(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        places = (first_pair, first_pair + 1)
        parts = list(args)
        for at, (arg, dim) in enumerate(zip(args, in_dims, strict=True)):
            if not isinstance(arg, Tensor):
                continue
            if at in places:
                batch_first = (
                    arg.expand(info.batch_size, -1) if dim is None else arg.movedim(dim, 0)
                )
                parts[at] = batch_first.reshape(-1)
            elif dim is not None:
                raise ValueError(
                    "torch.func.vmap can map over indices and groups of encoded rows, not over the "
                    f"table itself; argument {at} is mapped over"
                )
        rows: Tensor = op(*parts)
        return rows.reshape(info.batch_size, -1, args[0].shape[1]), 0


register_shapes(lookup_op, _NUM_TABLE)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, rest = Table.of_flat(*inputs[:_NUM_TABLE]), inputs[_NUM_TABLE:]
    Record.of(table, Pairs(*rest[:3]), Options.of_flat(*rest[3:])).save(ctx)


def _backward(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    grad_weight, grad_refinement = Record.load(ctx).gradients(grad_rows, needed)
    return (grad_weight, None, grad_refinement, *([None] * 14))


lookup_op.register_autograd(_backward, setup_context=_setup)
