"""Gradients of a lookup, straight through the decoding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from peel_ext.ops import _bridge
from peel_ext.ops._checks import check_int, check_shape, check_tensor, is_traced_gradient
from peel_ext.ops.lookup.table import Mask, Options, Pairs, Table


def save(ctx: Any, parts: tuple[Any, ...]) -> None:
    """Keeps tensors and other values in an autograd context, in their order."""
    ctx.save_for_backward(*(part if isinstance(part, Tensor) else None for part in parts))
    ctx.others = tuple(None if isinstance(part, Tensor) else part for part in parts)


def saved(ctx: Any) -> tuple[Any, ...]:
    """Returns what :func:`save` was given."""
    both = zip(ctx.saved_tensors, ctx.others, strict=True)
    return tuple(other if tensor is None else tensor for tensor, other in both)


def _flat_mask(mask: Mask | None) -> tuple[list[int], Tensor | None, Tensor | None]:
    return ([0, 0, 0], None, None) if mask is None else mask


def _of_flat_mask(
    geometry: list[int], item_group: Tensor | None, held: Tensor | None
) -> Mask | None:
    return None if item_group is None or held is None else Mask(geometry, item_group, held)


class Scatter(NamedTuple):
    """The targets of the rows of a gradient [m, dim], and what of each takes part.

    The result [num_targets, dim] is the sum of the parts by target, or with ``mean_duplicates``
    their mean, in ascending m.
    """

    pairs: Pairs
    targets: Tensor  # int64 [m], rows of the result, -1 for none
    num_targets: int
    mean_duplicates: bool
    num_embeddings: int
    num_groups: int
    mask: Mask | None

    def flat(self) -> tuple[Any, ...]:
        """As a schema has it."""
        pairs, *rest, mask = self
        return (*pairs, *rest, *_flat_mask(mask))

    @staticmethod
    def of_flat(*parts: Any) -> Scatter:
        """Makes again what :meth:`flat` gave."""
        pairs, plain, mask = parts[:3], parts[3:-3], parts[-3:]
        return Scatter._make((Pairs(*pairs), *plain, _of_flat_mask(*mask)))

    def parts(self, rows: Tensor) -> Tensor:
        """The part of each of rows [m, dim] that counts."""
        there = self.targets >= 0
        # Chosen, not multiplied: what takes no part may be infinite or NaN.
        parts = torch.where(there[:, None], rows, 0.0)
        if self.mean_duplicates:
            at = self.targets.clamp(min=0)
            counts = rows.new_zeros(self.num_targets).index_add(0, at, there.to(rows.dtype))
            parts = parts / counts[at].clamp(min=1)[:, None]
        if self.mask is not None:
            parts = torch.where(self.mask.of_pairs(self.pairs, rows.shape[1]), parts, 0.0)
        return parts

    def check(self, grad_rows: Tensor) -> Scatter:
        """The same as a kernel takes it, whatever a registered op was called with.

        Raises:
            TypeError: another dtype.
            ValueError: shapes that do not go together.
            IndexError: a target out of range; on a CUDA device, for which this would wait, it takes
                no part instead.
        """
        check_tensor("targets", self.targets, (torch.int64,), 1)
        check_shape("targets", self.targets, tuple(self.pairs.indices.shape))
        check_int("num_targets", self.num_targets, 0)
        targets = self.targets.contiguous()
        looked_at = targets.is_cpu and len(targets) > 0
        least, most = (int(end) for end in targets.aminmax()) if looked_at else (-1, -1)
        if least < -1 or most >= self.num_targets:
            bad = least if least < -1 else most
            raise IndexError(f"targets contain {bad}, expected values in [-1, {self.num_targets})")
        mask = self.mask and self.mask.check(self.num_embeddings, self.num_groups)
        return self._replace(pairs=self.pairs.check(grad_rows), targets=targets, mask=mask)


class Record(NamedTuple):
    """A lookup as a backward has to know it."""

    pairs: Pairs
    options: Options
    refinement_slot: Tensor | None
    num_embeddings: int
    num_refined: int | None
    num_groups: int
    mask: Mask | None

    @staticmethod
    def of(table: Table, pairs: Pairs, options: Options) -> Record:
        """The record of a lookup."""
        num_refined = None if table.refinement is None else table.refinement.shape[0]
        return Record(
            pairs, options, table.refinement_slot, table.weight.shape[0], num_refined,
            table.num_groups, table.mask,
        )  # fmt: skip

    def save(self, ctx: Any) -> None:
        """Keeps the record in an autograd context."""
        pairs, options, *rest, mask = self
        save(ctx, (*pairs, *options, *rest, *_flat_mask(mask)))

    @staticmethod
    def load(ctx: Any) -> Record:
        """Reads what :meth:`save` kept."""
        parts = saved(ctx)
        pairs, options, rest, mask = parts[:3], parts[3:6], parts[6:-3], parts[-3:]
        return Record._make((Pairs(*pairs), Options(*options), *rest, _of_flat_mask(*mask)))

    def scatter(self, targets: Tensor, num_targets: int) -> Scatter:
        """The way of a gradient of the rows looked up, by target [m], -1 for none."""
        if self.options.padding_idx is not None:
            targets = torch.where(self.pairs.indices == self.options.padding_idx, -1, targets)
        mean = self.options.scale_grad_by_freq
        return Scatter(
            self.pairs, targets, num_targets, mean, self.num_embeddings, self.num_groups, self.mask
        )  # fmt: skip

    def gradients(
        self, grad_rows: Tensor, needed: tuple[bool, bool], table: Table | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of weight and refinement, straight through the decoding.

        Args:
            grad_rows: float32 [m, dim], of the rows looked up.
            needed: which of the two are asked for.
            table: what was looked up in, where its memory can be read.
        """
        grad_rows = grad_rows.resolve_neg().contiguous()
        grad_weight = grad_refinement = None
        if needed[0]:
            scatter = self.scatter(self.pairs.indices.long(), self.num_embeddings)
            grad_weight = self._sum(grad_rows, scatter, table)
        if needed[1] and self.num_refined is not None and self.refinement_slot is not None:
            pairs = self.pairs.clamped(self.num_embeddings, self.num_groups)
            slots = self.refinement_slot[pairs.each_group(), pairs.indices].long()
            grad_refinement = self._sum(grad_rows, self.scatter(slots, self.num_refined), table)
        return grad_weight, grad_refinement

    def _sum(self, grad_rows: Tensor, scatter: Scatter, table: Table | None) -> Tensor:
        if not self.options.sparse:
            return sum_rows(grad_rows, scatter, table)
        if is_traced_gradient(grad_rows):
            return _traced_sparse(grad_rows, scatter)
        return _sparse(grad_rows, scatter, table)


def sum_rows(grad_rows: Tensor, scatter: Scatter, table: Table | None = None) -> Tensor:
    """The dense gradient float32 [num_targets, dim]."""
    # The dispatcher is needed only where the gradient itself is to be differentiated.
    if table is not None and not (torch.is_grad_enabled() or is_traced_gradient(grad_rows)):
        return _bridge.grouped_lookup_backward(
            table.native(), scatter.pairs, grad_rows, scatter.targets, scatter.num_targets,
            scatter.mean_duplicates, scatter.num_embeddings, scatter.num_groups,
        )  # fmt: skip
    grad: Tensor = _backward_op(grad_rows, *scatter.flat())
    return grad


def _sparse(grad_rows: Tensor, scatter: Scatter, table: Table | None) -> Tensor:
    """The gradient as a sparse tensor of the rows that took part."""
    targets, mask = scatter.targets, scatter.mask
    if scatter.mean_duplicates or (mask is not None and mask.block_dim is not None):
        kept = targets >= 0
        rows, inverse = torch.unique(targets[kept], return_inverse=True)
        among = scatter._replace(
            targets=targets.masked_scatter(kept, inverse), num_targets=len(rows)
        )
        values = sum_rows(grad_rows, among, table)
        return _sparse_rows(rows, values, scatter.num_targets, is_coalesced=True)
    # Whole rows: what came in is the gradient, under the rows it belongs to. Nothing is sorted or
    # summed; optimisers that want each row once coalesce.
    if mask is not None:
        targets = torch.where(mask.of_pairs(scatter.pairs, grad_rows.shape[1])[:, 0], targets, -1)
    if targets is not scatter.pairs.indices and len(targets) and int(targets.min()) < 0:
        kept = targets >= 0
        targets, grad_rows = targets[kept], grad_rows[kept]
    return _sparse_rows(targets, grad_rows, scatter.num_targets)


def _traced_sparse(grad_rows: Tensor, scatter: Scatter) -> Tensor:
    """The sparse gradient where no shape may depend on values, so that all of targets [m] stay.

    Those that are -1 become zeros for a row that is there anyway, as optimisers step every row they
    are given.
    """
    targets = scatter.targets
    if scatter.num_targets == 0:
        return _sparse_rows(targets[:0], grad_rows[:0], 0)
    there = torch.cat([targets, targets.new_zeros(1)]).amax()
    coordinates = torch.where(targets >= 0, targets, there)
    return _sparse_rows(coordinates, scatter.parts(grad_rows), scatter.num_targets)


def _sparse_rows(
    targets: Tensor, rows: Tensor, num_targets: int, is_coalesced: bool | None = None
) -> Tensor:
    """The sparse tensor [num_targets, dim] of rows [m, dim] at targets [m], which are in range."""
    return torch.sparse_coo_tensor(
        targets[None], rows, (num_targets, rows.shape[1]), device=rows.device,
        is_coalesced=is_coalesced, check_invariants=False,
    )  # fmt: skip


# ---- the registered op ----


def _backward(
    grad_rows: Tensor,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    targets: Tensor,
    num_targets: int,
    mean_duplicates: bool,
    num_embeddings: int,
    num_groups: int,
    geometry: list[int],
    item_group: Tensor | None,
    held: Tensor | None,
) -> Tensor:
    scatter = Scatter.of_flat(
        indices, groups, group, targets, num_targets, mean_duplicates, num_embeddings, num_groups,
        geometry, item_group, held,
    ).check(grad_rows)  # fmt: skip
    native = _bridge.store_table(
        None, num_embeddings, grad_rows.shape[1], num_groups, None, None, scatter.mask,
        like=grad_rows,
    )  # fmt: skip
    return _bridge.grouped_lookup_backward(
        native, scatter.pairs, grad_rows.contiguous(), scatter.targets, num_targets,
        mean_duplicates, num_embeddings, num_groups,
    )  # fmt: skip


_backward_op = torch.library.custom_op(
    "peel_ext::grouped_lookup_backward", _backward, mutates_args=()
)


@_backward_op.register_fake
def _(
    grad_rows: Tensor, indices: Tensor, groups: Any, group: int, targets: Tensor, num_targets: int,
    *_: Any,
) -> Tensor:  # fmt: skip
    return grad_rows.new_empty((num_targets, grad_rows.shape[1]))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save(ctx, inputs[1:])


def _backward_of_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    scatter = Scatter.of_flat(*saved(ctx))
    others = [None] * 11
    if len(grad) == 0:
        return (grad.new_zeros(len(scatter.targets), grad.shape[1]), *others)
    return (scatter.parts(grad[scatter.targets.clamp(min=0)]), *others)


_backward_op.register_autograd(_backward_of_backward, setup_context=_setup)
