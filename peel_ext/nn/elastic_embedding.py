"""ElasticEmbedding: an nn.Embedding that can be had under any byte budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.format import EncodedRows, Layout, pack_embedding, resolve_layout
from peel_ext.format.store import BlockStore
from peel_ext.nn import rotation as rotations
from peel_ext.nn.budgeted_lookup import (
    budgeted_lookup,
    centroids,
    encoded_rows,
    held_blocks,
    layout_text,
)
from peel_ext.nn.derived import Derived, derive, stamp
from peel_ext.nn.selection import block_costs, minimum_bytes, overhead_bytes
from peel_ext.ops import grouped_lookup
from peel_ext.ops._checks import is_traced
from peel_ext.ops.grouped_lookup import (
    LookupTable,
    check_groups,
    flatten_pairs,
    held_values,
    plain_rows,
    straight_through,
)

#: State that appears in a state_dict only once it differs from a fresh module's.
_OPTIONAL_STATE = ("block_weights", "item_group", "rotation", "refinement", "refinement_slot")

#: Indices from which on a lookup in the full table goes to our kernel: as fast as torch's forward
#: from here on, and faster backward.
_KERNEL_INDICES = 16_384


class ElasticEmbedding(nn.Embedding):
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

    block_weights: Tensor
    item_group: Tensor
    rotation: Tensor | None
    refinement: nn.Parameter | None
    refinement_slot: Tensor | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_groups: int = 1,
        layout: Layout | str = "planes",
    ) -> None:
        layout = check_geometry(embedding_dim, num_groups, layout)
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, _freeze, device, dtype,
        )  # fmt: skip
        self._cut(num_groups, layout)

    @classmethod
    def adopt(
        cls, embedding: nn.Embedding, *, num_groups: int = 1, layout: Layout | str = "planes"
    ) -> ElasticEmbedding:
        """Makes an ``nn.Embedding`` elastic in place: the same object with the same Parameter.

        An elastic one is returned as it is. Whole models: :func:`peel_ext.nn.replace_embeddings`.

        Raises:
            TypeError: a subclass of ``nn.Embedding``, whose own ways would be lost.
            ValueError: an argument out of range.
        """
        if isinstance(embedding, cls):
            return embedding
        if type(embedding) is not nn.Embedding:
            raise TypeError(
                f"embedding must be exactly a torch.nn.Embedding, got {type(embedding).__name__}"
            )
        layout = check_geometry(embedding.embedding_dim, num_groups, layout)
        embedding.__class__ = cls
        elastic: ElasticEmbedding = embedding  # type: ignore[assignment]
        elastic._cut(num_groups, layout)
        return elastic

    def _cut(self, num_groups: int, layout: Layout) -> None:
        """All that this class adds to an ``nn.Embedding``."""
        self.num_groups = num_groups
        self.layout = layout
        self._layout_text = layout_text(layout)
        self._budget_bytes: int | None = None
        self._groups: Tensor | int | None = None
        self._kept: dict[Any, Derived] = {}
        self._table: tuple[object, LookupTable] | None = None
        self._changed_state: set[str] = set()
        for name, value in self._even_blocks().items():
            self.register_buffer(name, value)
        # After the others: torch.export takes the position of a buffer for its place among those
        # that are not None.
        self.register_buffer("rotation", None)
        self.register_buffer("refinement_slot", None)
        self.register_parameter("refinement", None)

    def _even_blocks(self) -> dict[str, Tensor]:
        """Item groups and weights of a table whose rows are all worth the same."""
        sizes = self.layout.item_group_sizes(self.num_embeddings)
        num_layers = self.layout.num_layers(self.embedding_dim)
        gains = np.full(num_layers, 1.0 / num_layers)
        if self.layout.nested:
            gains = self.layout.layer_gains(np.zeros((0, self.embedding_dim), np.float32))
        rows = sizes.astype(np.float32)[None, :, None]
        weights = np.repeat(rows * gains.astype(np.float32), self.num_groups, axis=0)
        item_group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[None]
        device = self._parameter("weight").device
        return {
            "item_group": torch.from_numpy(item_group).to(device),
            "block_weights": torch.from_numpy(weights).to(device),
        }

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        num_groups: int = 1,
        layout: Layout | str = "planes",
    ) -> ElasticEmbedding:
        """A module over given rows [num_embeddings, embedding_dim], as ``nn.Embedding``'s.

        Raises:
            ValueError: embeddings that are not a matrix.
        """
        if embeddings.dim() != 2:
            raise ValueError(
                f"embeddings must have 2 dimensions, got shape {tuple(embeddings.shape)}"
            )
        num_embeddings, embedding_dim = embeddings.shape
        return cls(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, embeddings, freeze, num_groups=num_groups, layout=layout,
        )  # fmt: skip

    # ---- the table ----

    def refine_rows(self, group: int, indices: Tensor) -> None:
        """Gives rows of a user group a refinement of their own, zero at first, added to ``weight``.

        Rows that have one keep it. Optimisers made before do not know the new ``refinement``.

        Args:
            group: user group.
            indices: int64 [m], rows.

        Raises:
            IndexError: a group or row out of range.
        """
        self._check_group(group)
        weight = self._parameter("weight")
        if weight.dtype != torch.float32:
            raise TypeError(f"weight must be float32 to be refined, got {weight.dtype}")
        rows = torch.unique(indices)
        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < self.num_embeddings:
            bad = int(rows[0]) if int(rows[0]) < 0 else int(rows[-1])
            raise IndexError(
                f"indices contain {bad}, expected values in [0, {self.num_embeddings})"
            )
        if self.refinement is None or self.refinement_slot is None:
            shape = (self.num_groups, self.num_embeddings)
            self.refinement_slot = torch.full(shape, -1, dtype=torch.int32)
            self.refinement = nn.Parameter(torch.zeros(0, self.embedding_dim))
            self._changed_state |= {"refinement", "refinement_slot"}
        fresh = rows[self.refinement_slot[group, rows] < 0]
        first = len(self.refinement)
        slots = torch.arange(first, first + len(fresh), dtype=torch.int32)
        self.refinement_slot[group, fresh] = slots
        zeros = self.refinement.new_zeros(len(fresh), self.embedding_dim)
        self.refinement = nn.Parameter(torch.cat([self.refinement.detach(), zeros]))

    def fit_rotation(self, seed: int = 0) -> None:
        """Fits the rotation in which the planes layout encodes rows to the current ``weight``.

        Rows come back from the module in their own space; a Personalized Elastic Embedding lives in
        the rotated one, and so must the user vectors scored with it (:meth:`rotate`).

        Raises:
            ValueError: the layout is not planes.
        """
        if not self.layout.nested:
            raise ValueError(f"only the planes layout is rotated, this one is {self.layout.name}")
        self.rotation = rotations.fit_rotation(self._parameter("weight"), seed)
        self._changed_state.add("rotation")

    def rotate(self, vectors: Tensor) -> Tensor:
        """Vectors [..., embedding_dim] in the space of the Personalized Elastic Embeddings."""
        return vectors if self.rotation is None else vectors @ self.rotation

    # ---- the worth of blocks ----

    def set_row_values(self, values: Tensor) -> None:
        """Sets ``block_weights`` from what each row is worth to each user group.

        The weight of a block is the sum of its rows' values times the gain of its layer. In the
        planes layout item groups become runs of rows in descending value, ties in ascending index.

        Args:
            values: [num_groups, num_embeddings], not negative, finite.

        Raises:
            ValueError: a wrong shape or value.
        """
        shape = (self.num_groups, self.num_embeddings)
        if tuple(values.shape) != shape:
            raise ValueError(f"values must have shape {shape}, got {tuple(values.shape)}")
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            group, row = (~(torch.isfinite(values) & (values >= 0))).nonzero()[0].tolist()
            raise ValueError(
                f"values[{group}, {row}] must be finite and not negative, got "
                f"{float(values[group, row])}"
            )
        values = values.double()
        if self.layout.nested:
            order = values.sort(dim=1, descending=True, stable=True).indices
            sizes = self.layout.item_group_sizes(self.num_embeddings)
            of_rank = torch.from_numpy(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
            self.item_group = torch.empty(shape, dtype=torch.int32).scatter_(
                1, order, of_rank.expand(shape)
            )
            self._changed_state.add("item_group")
        self._weigh(values)

    def set_item_groups(self, item_group: Tensor) -> None:
        """Sets which item group each row belongs to, in the columns layout, for all user groups.

        Args:
            item_group: integers [num_embeddings] in [0, num_item_groups).

        Raises:
            ValueError: the planes layout, whose item groups follow from row values; a wrong shape
                or value.
        """
        if self.layout.nested:
            raise ValueError("item groups of the planes layout follow from set_row_values")
        num_item_groups = self.block_weights.shape[1]
        if tuple(item_group.shape) != (self.num_embeddings,):
            raise ValueError(
                f"item_group must have shape ({self.num_embeddings},), got {tuple(item_group.shape)}"
            )
        if item_group.numel() and not (
            int(item_group.min()) >= 0 and int(item_group.max()) < num_item_groups
        ):
            raise ValueError(
                f"item_group must hold values in [0, {num_item_groups}), got "
                f"{int(item_group.min())} to {int(item_group.max())}"
            )
        self.item_group = item_group.to(torch.int32)[None].clone()
        self._changed_state.add("item_group")
        self._weigh(torch.ones(self.num_groups, self.num_embeddings, dtype=torch.float64))

    @torch.no_grad()
    def _weigh(self, values: Tensor) -> None:
        groups, num_item_groups, _ = self.block_weights.shape
        which = self.item_group.long().expand(groups, -1)
        worth = values.new_zeros(groups, num_item_groups).scatter_add_(1, which, values)
        gains = self.layout.layer_gains(self._parameter("weight").detach().float().numpy())
        self.block_weights.copy_(worth[:, :, None] * torch.from_numpy(gains))
        self._changed_state.add("block_weights")

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
        _check_budget(budget_bytes)
        if not is_traced():  # what cannot be had fails here, not at the first lookup
            self._held(int(budget_bytes))
            self._encoded()
        before = self._budget_bytes
        self._budget_bytes = int(budget_bytes)
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

    def _parameter(self, name: str) -> Tensor:
        """A parameter itself, whatever budget is in force."""
        value = self._parameters.get(name)
        return getattr(self, name) if value is None else value  # parametrized ones are attributes

    def minimum_budget_bytes(self, group: int) -> int:
        """The smallest budget a user group can be had under."""
        self._check_group(group)
        weights = self.block_weights[group : group + 1]
        overhead = overhead_bytes(self.item_group, self.layout, weights.shape[1])
        return int(minimum_bytes(weights, self.block_costs(), self.layout, overhead)[0])

    def block_costs(self) -> Tensor:
        """Bytes of every block, int64 [num_item_groups, num_layers]."""
        costs: Tensor = derive(
            "block_costs", (self.item_group,),
            lambda: block_costs(self.item_group, self.layout, self.embedding_dim), self._kept,
        )  # fmt: skip
        return costs

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
        _check_budget(budget_bytes)
        weights = self.block_weights[group : group + 1]
        held = held_blocks(
            weights, self.item_group, self.layout, self.embedding_dim, int(budget_bytes)
        )[0]
        store, scales = self._encoded()
        rows = torch.arange(self.num_embeddings)
        if self.refinement_slot is not None:
            slot = self.refinement_slot[group].long()
            rows = torch.where(slot < 0, rows, self.num_embeddings + slot)
        own = EncodedRows(store[rows].numpy(), scales[rows].numpy())
        which = self.item_group[0 if len(self.item_group) == 1 else group]
        ids = which.sort(stable=True).indices.numpy()
        sizes = torch.bincount(which.long(), minlength=len(held)).numpy()
        item_groups = np.split(ids, np.cumsum(sizes)[:-1]) if len(held) else []
        return PersonalizedElasticEmbedding(
            pack_embedding(self.layout, self.embedding_dim, own, item_groups, held.tolist())
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
        refinement, slot = self.refinement, self.refinement_slot
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
        if self.sparse:
            raise ValueError("sparse=True is not supported under torch.compile or torch.func")
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
            )  # fmt: skip
            known = held_values(
                None if self.layout.nested else self.layout.block_dim, self.embedding_dim, flat,
                torch.full_like(flat, group) if spread is None else spread, self.item_group, held,
            )  # fmt: skip
            decoded = straight_through(rows, decoded, known)
        return decoded.view(*input.shape, self.embedding_dim)

    def _current_table(self, weight: Tensor, budget_bytes: int | None = None) -> LookupTable:
        """The table of an eager lookup, made anew when anything it was made of has changed."""
        parameters, buffers = self._parameters, self._buffers
        now = budget_bytes, weight.shape, stamp(
            weight, parameters["refinement"], buffers["refinement_slot"], buffers["rotation"],
            buffers["block_weights"], buffers["item_group"],
        )  # fmt: skip
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

    def _check_group(self, group: int) -> None:
        if isinstance(group, bool) or not isinstance(group, int | np.integer):
            raise TypeError(f"group must be an integer, got {group!r}")
        if not 0 <= group < self.num_groups:
            raise IndexError(f"group must be in [0, {self.num_groups}), got {group}")

    def extra_repr(self) -> str:
        """The options of ``nn.Embedding``, then our own."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}, layout={self.layout}"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again, for copies and pickles."""
        return {**self.__dict__, "_kept": {}, "_table": None}

    def _apply(self, fn: Any, recurse: bool = True) -> ElasticEmbedding:
        exact = {name: self._buffers[name] for name in ("block_weights", "rotation")}
        without_values = self.block_weights.is_meta
        super()._apply(fn, recurse)
        for name, before in exact.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                # The dtype of a model is that of its parameters; these decide what is kept.
                self._buffers[name] = before.to(after.device)
        if without_values and not self.block_weights.is_meta:
            self._buffers.update(self._even_blocks())
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in _OPTIONAL_STATE:
            if name not in self._changed_state:
                destination.pop(prefix + name, None)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in _OPTIONAL_STATE:
            own = getattr(self, name)
            value = state_dict.get(prefix + name)
            if value is None:
                # A checkpoint of nn.Embedding, or of a module that never set this: keep ours.
                if own is not None:
                    state_dict = {**state_dict, prefix + name: own.detach()}
                continue
            self._changed_state.add(name)
            if own is None or own.shape != value.shape:
                self._check_state_shape(name, tuple(value.shape))
                fresh = torch.empty_like(value, device=self.block_weights.device)
                setattr(self, name, nn.Parameter(fresh) if name == "refinement" else fresh)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_state_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises RuntimeError for state of another geometry, as torch does for mismatched sizes."""
        rows, dim = self.num_embeddings, self.embedding_dim
        expected = {
            "block_weights": tuple(self.block_weights.shape),
            "item_group": (1 if shape[:1] == (1,) else self.num_groups, rows),
            "rotation": (dim, dim),
            "refinement": (shape[0] if shape else 0, dim),
            "refinement_slot": (self.num_groups, rows),
        }[name]
        if shape != expected:
            raise RuntimeError(f"{name} must have shape {expected}, the state_dict has {shape}")


def check_geometry(embedding_dim: int, num_groups: int, layout: Layout | str) -> Layout:
    """The layout, if rows can be cut by it."""
    for name, value in (("num_groups", num_groups), ("embedding_dim", embedding_dim)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    layout = resolve_layout(layout)
    layout.num_layers(embedding_dim)
    return layout


def _check_budget(budget_bytes: int) -> None:
    if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | np.integer):
        raise TypeError(f"budget_bytes must be an integer, got {budget_bytes!r}")
