"""ElasticEmbedding: an nn.Embedding that can be had under any byte budget."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.format import EncodedRows, FoldInSettings, GroupTable, pack_prefix, write_file
from peel_ext.format.store import BlockStore
from peel_ext.nn.block_table import BlockTable
from peel_ext.nn.budgeted_lookup import budgeted_lookup, centroids, encoded_rows, held_blocks
from peel_ext.nn.derived import stamp
from peel_ext.nn.selection import minimum_bytes, order_blocks, overhead_bytes
from peel_ext.ops import grouped_lookup
from peel_ext.ops._checks import is_traced
from peel_ext.ops._lookup_arguments import check_groups, flatten_pairs
from peel_ext.ops._lookup_gradients import held_values
from peel_ext.ops.grouped_lookup import LookupTable, plain_rows, straight_through

#: Indices from which on a lookup in the full table goes to our kernel: as fast as torch's forward
#: from here on, and faster backward.
_KERNEL_INDICES = 16_384


class ElasticEmbedding(BlockTable):
    """A drop-in for ``nn.Embedding`` with a table per user group under any byte budget.

    All arguments of ``nn.Embedding`` keep their meaning; without ``groups`` and budget so does the
    module. Its rows are cut into blocks (item group, layer), each with a learned worth per user
    group; under a budget only the blocks with the largest weights per byte remain.

    Args:
        num_embeddings: rows.
        embedding_dim: values of a row.
        num_groups: user groups, each with its own weights and refinements.
        layout: ``"planes"``, ``"columns"``, or a layout object with its options.

    Attributes:
        weight: Parameter [num_embeddings, embedding_dim]. Inside :meth:`budget` and
            :meth:`use_groups` it reads as the table seen there (:meth:`table`), so that code which
            uses the weight itself sees what a device would; the Parameter is in ``parameters()``
            as ever.
        refinement: Parameter float32 [num_refined, embedding_dim] or None; see :meth:`refine_rows`.
        refinement_slot: int32 [num_groups, num_embeddings] or None.
        block_weights: buffer float32 [num_groups, num_item_groups, num_layers].
        item_group: buffer int32 [num_groups or 1, num_embeddings], the item group of each row.
        rotation: buffer float32 [embedding_dim, embedding_dim] or None; see :meth:`fit_rotation`.

    Raises:
        ValueError: an argument out of range.
        TypeError: an argument of the wrong type.
    """

    # ---- budgets and groups ----

    @property
    def budget_bytes(self) -> int | None:
        """The budget in force, or None."""
        return self._budget_bytes

    @contextmanager
    def budget(self, budget_bytes: int) -> Iterator[ElasticEmbedding]:
        """Inside this context the module is what a device with that many bytes would see.

        Training goes on inside it: rows are encoded anew when they change, and gradients go
        straight through to the blocks held. A change is what torch counts as one; after an edit
        through ``weight.data``, ``weight.numpy()`` or another process, say so with
        ``torch.autograd.graph.increment_version``. Contexts nest.

        Raises:
            BudgetError: too few bytes for one of the user groups; names the minimum.
            TypeError: not an integer, or a weight that is not float32.
            ValueError: a weight that is not on the CPU, or not finite.
        """
        limit = _check_budget(budget_bytes)
        if not is_traced():  # what cannot be had fails here, not at the first lookup
            self._current_table(self._parameter("weight"), limit)
        before = self._budget_bytes
        self._budget_bytes = limit
        try:
            yield self
        finally:
            self._budget_bytes = before

    @contextmanager
    def use_groups(self, groups: Tensor | int) -> Iterator[ElasticEmbedding]:
        """Inside this context calls that name no groups are for these.

        For models whose own code calls ``embedding(input)`` or reads ``embedding.weight``. A model
        that also embeds all its items, or reads the weight, can only be had for one group at a
        time. Contexts nest.

        Args:
            groups: as in :meth:`forward`.

        Raises:
            IndexError: a group out of range.
            TypeError: not integers.
        """
        if isinstance(groups, Tensor):
            check_groups(groups, groups, self.num_groups)
        else:
            self._check_group(groups)
        before = self._groups
        self._groups = groups
        try:
            yield self
        finally:
            self._groups = before

    def table(self, group: int | None = None) -> Tensor:
        """The whole table [num_embeddings, embedding_dim] as a user group sees it, with gradients.

        Args:
            group: user group; may be left out where :meth:`forward` may leave it out.

        Raises:
            ValueError: several user groups in force.
        """
        groups = self._groups if group is None else group
        needed = self._budget_bytes is not None and self.num_groups > 1
        if isinstance(groups, Tensor) or (groups is None and needed):
            raise ValueError(
                f"the whole table is that of one user group and there are {self.num_groups}: name "
                f"one with use_groups(group), got {groups}"
            )
        rows = torch.arange(self.num_embeddings, device=self._parameter("weight").device)
        return self.forward(rows, groups)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The Parameter, or the table of the user group and under the budget in force."""
        weight: Tensor | None = self._parameters.get("weight")
        if weight is None:
            raise AttributeError("weight")
        state = self.__dict__  # without a budget while the module is being made
        if state.get("_budget_bytes") is not None or (
            state.get("_groups") is not None and self._parameters["refinement"] is not None
        ):
            return self.table()
        return weight

    def minimum_budget_bytes(self, group: int) -> int:
        """The smallest budget a user group can be had under."""
        self._check_group(group)
        weights = self.block_weights[group : group + 1]
        overhead = overhead_bytes(self.item_group, self.layout, weights.shape[1])
        return int(minimum_bytes(weights, self.block_costs(), self.layout, overhead)[0])

    def generate(self, group: int, budget_bytes: int) -> PersonalizedElasticEmbedding:
        """The Personalized Elastic Embedding of a user group: what fits the budget, packed.

        Args:
            group: user group.
            budget_bytes: for everything the device holds for the table.

        Raises:
            IndexError: a group out of range.
            BudgetError: too few bytes; names the minimum.
        """
        self._check_group(group)
        limit = _check_budget(budget_bytes)
        weights = self.block_weights[group : group + 1]
        held = held_blocks(weights, self.item_group, self.layout, self.embedding_dim, limit)[0]
        num_blocks = sum(int(mask).bit_count() for mask in held.tolist())
        return PersonalizedElasticEmbedding(pack_prefix(self._group_table(group), num_blocks))

    def export(
        self,
        path: str | os.PathLike[str],
        group: int,
        *,
        fold_in: FoldInSettings | None = None,
        centroids: ArrayLike | None = None,
        item_ids: Sequence[int | str] | np.ndarray | None = None,
    ) -> None:
        """Writes the ``.peel`` file of a user group: every budget in one file.

        Args:
            path: of the file; while it is written, whatever was there stays.
            group: user group.
            fold_in: how a device computes a user's vector.
            centroids: [num_groups, embedding_dim] of all user groups, rotated (:meth:`rotate`).
            item_ids: [num_embeddings], by which a device tells items; None: they are known by row.

        Raises:
            IndexError: a group out of range.
            ValueError: centroids or ids that do not fit.
            OSError: the file cannot be written.
        """
        table = self._group_table(group)
        write_file(path, table, fold_in=fold_in, centroids=centroids, item_ids=item_ids)

    def _group_table(self, group: int) -> GroupTable:
        """The rows of a user group, and the order in which budgets take their blocks."""
        self._check_group(group)
        store, scales = self._encoded()
        if self.refinement_slot is not None:
            slot = self.refinement_slot[group].long()
            own = torch.arange(self.num_embeddings, device=slot.device)
            rows = torch.where(slot < 0, own, self.num_embeddings + slot)
            store, scales = store[rows], scales[rows]
        weights = self.block_weights.detach()[group : group + 1]
        order = order_blocks(weights, self.block_costs(), self.layout)[0]
        which = self.item_group[0 if len(self.item_group) == 1 else group]
        ids = which.sort(stable=True).indices.numpy()
        num_item_groups = self.block_weights.shape[1]
        sizes = torch.bincount(which.long(), minlength=num_item_groups).numpy()
        return GroupTable(
            layout=self.layout,
            dim=self.embedding_dim,
            rows=EncodedRows(store.numpy(), scales.numpy()),
            item_groups=np.split(ids, np.cumsum(sizes)[:-1]) if num_item_groups else [],
            order=order.numpy(),
            group=self._named_groups[group],
        )

    def _held(self, budget_bytes: int) -> Tensor:
        """Held masks int64 [num_groups, num_item_groups]."""
        return held_blocks(
            self.block_weights, self.item_group, self.layout, self.embedding_dim, budget_bytes,
            self._kept,
        )  # fmt: skip

    def _encoded(self) -> tuple[Tensor, Tensor]:
        """Store and scales of all rows and refinements."""
        return encoded_rows(
            self._parameter("weight"), self.refinement, self.refinement_slot, self.rotation,
            self.layout, self._kept,
        )  # fmt: skip

    # ---- nn.Module ----

    def forward(self, input: Tensor, groups: Tensor | int | None = None) -> Tensor:
        """Rows of the indices, of the full table or of the table under the budget in force.

        Args:
            input: int32 or int64 indices of any shape.
            groups: user group of each index: an int, or a tensor of the shape of ``input`` or of
                its leading dimensions. Without it, the groups of :meth:`use_groups`, or else the
                full table common to all groups; under a budget there must be groups unless there
                is only one.

        Returns:
            [*input.shape, embedding_dim], of the dtype of ``weight``.

        Raises:
            IndexError: an index or group out of range. Under torch.compile and torch.export, and
                away from the CPU, groups are not looked at where they change nothing.
            ValueError: groups missing under a budget, or of the wrong shape.
        """
        if groups is None:
            groups = self._groups
        if self._budget_bytes is not None:
            return self._lookup_under_budget(input, groups, self._budget_bytes)
        parameters = self._parameters
        weight: Tensor | None = parameters.get("weight")
        if weight is None:
            weight = self._parameter("weight")
        if groups is not None:
            if parameters["refinement"] is not None:
                return self._lookup_refined(weight, input, groups)
            if isinstance(groups, Tensor):  # all have the same rows, but a mistake is a mistake
                check_groups(groups, input, self.num_groups)
            else:
                self._check_group(groups)
        if (
            type(input) is Tensor
            and input.numel() >= _KERNEL_INDICES
            and self.max_norm is None
            and weight.dtype == torch.float32
            and weight.is_cpu
            and not is_traced(input, weight)
        ):
            return self._current_table(weight).lookup(weight, None, input, 0, *self._options())
        if self.max_norm is not None:
            return super().forward(input)
        # Short of max_norm this is what F.embedding comes to; a small call is mostly overhead.
        if self.padding_idx is None and not self.scale_grad_by_freq and not self.sparse:
            return torch.embedding(weight, input)
        padding_idx = -1 if self.padding_idx is None else self.padding_idx
        return torch.embedding(weight, input, padding_idx, self.scale_grad_by_freq, self.sparse)

    def _lookup_refined(self, weight: Tensor, input: Tensor, groups: Tensor | int) -> Tensor:
        """Rows of the full tables of user groups some of which have refinements."""
        self._renormalize(weight, input)
        refinement, slot = self._parameters["refinement"], self._buffers["refinement_slot"]
        if weight.dtype != torch.float32 or not weight.is_cpu:
            if isinstance(groups, Tensor):
                check_groups(groups, input, self.num_groups)
            else:
                self._check_group(groups)
            flat, spread, group = flatten_pairs(input, groups)
            rows = plain_rows(
                weight, flat, group if spread is None else spread, refinement, slot,
                self.padding_idx, self.scale_grad_by_freq,
            )  # fmt: skip
            return rows.view(*input.shape, self.embedding_dim)
        if is_traced(weight, input):
            return grouped_lookup(
                weight, input, groups, refinement=refinement, refinement_slot=slot,
                num_groups=self.num_groups, padding_idx=self.padding_idx,
                scale_grad_by_freq=self.scale_grad_by_freq, sparse=self.sparse,
            )  # fmt: skip
        table = self._current_table(weight)
        return table.lookup(weight, refinement, input, groups, *self._options())

    def _lookup_under_budget(
        self, input: Tensor, groups: Tensor | int | None, budget_bytes: int
    ) -> Tensor:
        if groups is None:
            if self.num_groups > 1:
                raise ValueError(
                    f"groups must be given under a budget when there are {self.num_groups}, got None"
                )
            groups = 0
        weight = self._parameter("weight")
        self._renormalize(weight, input)
        if not is_traced(weight, input):
            table = self._current_table(weight, budget_bytes)
            return table.lookup(
                weight, self._parameters["refinement"], input, groups, *self._options()
            )
        pairs = flatten_pairs(input, groups)
        decoded, held = budgeted_lookup(
            weight, pairs, self.num_groups, self.refinement, self.refinement_slot, self.rotation,
            self.block_weights, self.item_group, self._layout_text, budget_bytes,
        )  # fmt: skip
        if torch.is_grad_enabled():
            flat, spread, group = pairs
            rows = grouped_lookup(
                weight, flat, group if spread is None else spread, refinement=self.refinement,
                refinement_slot=self.refinement_slot, num_groups=self.num_groups,
                padding_idx=self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq,
                sparse=self.sparse,
            )  # fmt: skip
            known = held_values(
                None if self.layout.nested else self.layout.block_dim, self.embedding_dim, flat,
                torch.full_like(flat, group) if spread is None else spread, self.item_group, held,
            )  # fmt: skip
            decoded = straight_through(rows, decoded, known)
        return decoded.view(*input.shape, self.embedding_dim)

    def _current_table(self, weight: Tensor, budget_bytes: int | None = None) -> LookupTable:
        """The table of an eager lookup, made anew when anything it was made of has changed."""
        refinement, buffers = self._parameters["refinement"], self._buffers
        sources: tuple[Tensor | None, ...] = (weight, refinement, buffers["refinement_slot"])
        if budget_bytes is not None:
            sources += (buffers["rotation"], buffers["block_weights"], buffers["item_group"])
        now = budget_bytes, weight.shape, stamp(*sources)
        if self._table is None or self._table[0] != now:
            blocks = None
            if budget_bytes is not None:
                blocks = BlockStore(
                    self.layout, *self._encoded(), self.item_group, self._held(budget_bytes),
                    centroids(), self.rotation,
                )  # fmt: skip
            table = LookupTable(
                weight, refinement=self.refinement, refinement_slot=self.refinement_slot,
                blocks=blocks, num_groups=self.num_groups,
            )  # fmt: skip
            self._table = now, table
        return self._table[1]

    def _options(self) -> tuple[int | None, bool, bool]:
        return self.padding_idx, self.scale_grad_by_freq, self.sparse

    def _renormalize(self, weight: Tensor, input: Tensor) -> None:
        if self.max_norm is not None:
            with torch.no_grad():
                torch.embedding_renorm_(weight, input.reshape(-1), self.max_norm, self.norm_type)

    def extra_repr(self) -> str:
        """The options of ``nn.Embedding``, then our own."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}, layout={self.layout}"


def _check_budget(budget_bytes: int) -> int:
    """An integer in 64 bits, which is more than any table takes."""
    if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | np.integer):
        raise TypeError(f"budget_bytes must be an integer, got {budget_bytes!r}")
    return min(int(budget_bytes), (1 << 63) - 1)
