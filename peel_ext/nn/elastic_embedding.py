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
from peel_ext.format.quantizer import centroid_table
from peel_ext.format.store import BlockStore
from peel_ext.nn import rotation as rotations
from peel_ext.nn.selection import minimum_bytes, select_blocks
from peel_ext.ops import grouped_lookup

#: State that appears in a state_dict only once it differs from a fresh module's.
_OPTIONAL_STATE = ("block_weights", "item_group", "rotation", "refinement", "refinement_slot")


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
        weight: Parameter [num_embeddings, embedding_dim].
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
        for name, value in (("num_groups", num_groups), ("embedding_dim", embedding_dim)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        layout = resolve_layout(layout)
        num_layers = layout.num_layers(embedding_dim)
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, _freeze, device, dtype,
        )  # fmt: skip
        self.num_groups = num_groups
        self.layout = layout
        self._budget_bytes: int | None = None
        sizes = layout.item_group_sizes(num_embeddings)
        item_group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[None]
        self.register_buffer("item_group", torch.from_numpy(item_group))
        self.register_buffer("block_weights", torch.zeros(num_groups, len(sizes), num_layers))
        self.register_buffer("rotation", None)
        self.register_parameter("refinement", None)
        self.register_buffer("refinement_slot", None)
        self._costs_cache: tuple[Any, Tensor] | None = None
        self._store_cache: tuple[Any, tuple[Tensor, Tensor]] | None = None
        self._held_cache: tuple[Any, Tensor] | None = None
        self._changed_state: set[str] = set()
        self._weigh_evenly(sizes)

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
        if self.weight.dtype != torch.float32:
            raise TypeError(f"weight must be float32 to be refined, got {self.weight.dtype}")
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
        self.rotation = rotations.fit_rotation(self.weight, seed)
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

    def _weigh_evenly(self, sizes: np.ndarray) -> None:
        with torch.no_grad():
            rows = torch.from_numpy(sizes.astype(np.float32))[None, :, None]
            gains = torch.full((self.block_weights.shape[2],), 1.0 / self.block_weights.shape[2])
            if self.layout.nested:
                empty = np.zeros((0, self.embedding_dim), np.float32)
                gains = torch.from_numpy(self.layout.layer_gains(empty)).float()
            self.block_weights.copy_(rows * gains)

    @torch.no_grad()
    def _weigh(self, values: Tensor) -> None:
        groups, num_item_groups, _ = self.block_weights.shape
        which = self.item_group.long().expand(groups, -1)
        worth = values.new_zeros(groups, num_item_groups).scatter_add_(1, which, values)
        gains = self.layout.layer_gains(self.weight.detach().float().numpy())
        self.block_weights.copy_(worth[:, :, None] * torch.from_numpy(gains))
        self._changed_state.add("block_weights")

    # ---- budgets ----

    @property
    def budget_bytes(self) -> int | None:
        """The budget in force, or None."""
        return self._budget_bytes

    @contextmanager
    def budget(self, budget_bytes: int) -> Iterator[ElasticEmbedding]:
        """Inside this context the module returns what a device with that many bytes would see.

        Training goes on inside it: rows are encoded anew when they change, and gradients go
        straight through to the blocks held. Contexts nest.

        Raises:
            BudgetError: too few bytes for one of the user groups; names the minimum.
            TypeError: not an integer.
        """
        self._select(budget_bytes)  # an infeasible budget fails here, not at the first lookup
        before = self._budget_bytes
        self._budget_bytes = budget_bytes
        try:
            yield self
        finally:
            self._budget_bytes = before

    def minimum_budget_bytes(self, group: int) -> int:
        """The smallest budget a user group can be had under."""
        self._check_group(group)
        weights = self.block_weights[group : group + 1]
        return int(minimum_bytes(weights, self.block_costs(), self.layout, self._overhead())[0])

    def block_costs(self) -> Tensor:
        """Bytes of every block, int64 [num_item_groups, num_layers]."""
        key = (self.item_group._version, self.item_group.data_ptr())
        if self._costs_cache is None or self._costs_cache[0] != key:
            sizes = self.layout.item_group_sizes(self.num_embeddings)
            if not self.layout.nested:
                counts = torch.bincount(self.item_group[0].long(), minlength=len(sizes))
                sizes = counts.numpy()
            costs = self.layout.block_costs(sizes, self.embedding_dim, self.num_embeddings)
            # An item group without rows still needs costs that selection can divide by.
            self._costs_cache = (key, torch.from_numpy(costs).clamp(min=1))
        return self._costs_cache[1]

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
        held = self._select(budget_bytes, group)[0]
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

    def _overhead(self) -> int:
        which = self.item_group[0]
        listed = not self.layout.nested and bool((which[1:] < which[:-1]).any())
        return self.layout.overhead_bytes(self.block_weights.shape[1], self.num_embeddings, listed)

    def _select(self, budget_bytes: int, group: int | None = None) -> Tensor:
        """Held masks int64 [num_groups or 1, num_item_groups]."""
        if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | np.integer):
            raise TypeError(f"budget_bytes must be an integer, got {budget_bytes!r}")
        key = (
            int(budget_bytes), group, self.block_weights._version, self.block_weights.data_ptr(),
            self.item_group._version, self.item_group.data_ptr(),
        )  # fmt: skip
        if self._held_cache is None or self._held_cache[0] != key:
            weights = self.block_weights.detach()
            weights = weights if group is None else weights[group : group + 1]
            held = select_blocks(
                weights, self.block_costs(), self.layout, int(budget_bytes), self._overhead()
            )
            self._held_cache = (key, held)
        return self._held_cache[1]

    @torch.no_grad()
    def _encoded(self) -> tuple[Tensor, Tensor]:
        """Store and scales of all rows and refinements, encoded anew when they have changed."""
        if self.weight.dtype != torch.float32:
            raise TypeError(f"weight must be float32 to be encoded, got {self.weight.dtype}")
        parts = [self.weight, self.refinement, self.rotation]
        key = tuple(None if part is None else (part._version, part.data_ptr()) for part in parts)
        if self._store_cache is None or self._store_cache[0] != key:
            rows = self.weight
            if self.refinement is not None and self.refinement_slot is not None:
                owner = torch.zeros(len(self.refinement), dtype=torch.int64)
                group, item = (self.refinement_slot >= 0).nonzero(as_tuple=True)
                owner[self.refinement_slot[group, item].long()] = item
                rows = torch.cat([rows, rows[owner] + self.refinement])
            store, scales = self.layout.encode(self.rotate(rows).detach().numpy())
            self._store_cache = (key, (torch.from_numpy(store), torch.from_numpy(scales)))
        return self._store_cache[1]

    def _blocks(self, budget_bytes: int) -> BlockStore:
        store, scales = self._encoded()
        return BlockStore(
            layout=self.layout,
            store=store,
            scales=scales,
            item_group=self.item_group,
            held=self._select(budget_bytes),
            centroids=_centroids(),
            rotation=self.rotation,
        )

    # ---- nn.Module ----

    def forward(self, input: Tensor, groups: Tensor | int | None = None) -> Tensor:
        """Rows of the indices, of the full table or of the table under the budget in force.

        Args:
            input: int32 or int64 indices of any shape.
            groups: user group of each index: an int, or a tensor of the shape of ``input`` or of
                its leading dimensions. Without it, the full table common to all groups; under a
                budget it may be left out only if there is one group.

        Returns:
            [*input.shape, embedding_dim], of the dtype of ``weight``.

        Raises:
            IndexError: an index or group out of range.
            ValueError: groups missing under a budget, or of the wrong shape.
        """
        budget = self._budget_bytes
        if budget is None and (groups is None or self._groups_are_alike(groups)):
            return super().forward(input)
        if groups is None:
            if self.num_groups > 1:
                raise ValueError(
                    f"groups must be given under a budget when there are {self.num_groups}, got None"
                )
            groups = 0
        if self.max_norm is not None:
            with torch.no_grad():
                torch.embedding_renorm_(
                    self.weight, input.reshape(-1), self.max_norm, self.norm_type
                )
        return grouped_lookup(
            self.weight,
            input,
            groups,
            refinement=self.refinement,
            refinement_slot=self.refinement_slot,
            blocks=None if budget is None else self._blocks(budget),
            num_groups=self.num_groups,
            padding_idx=self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
            sparse=self.sparse,
        )

    def _groups_are_alike(self, groups: Tensor | int) -> bool:
        """Whether, after a check of the groups, every one of them has the same full table."""
        if self.refinement is not None:
            return False
        if isinstance(groups, Tensor):
            return self.weight.dtype != torch.float32
        self._check_group(groups)
        return True

    def _check_group(self, group: int) -> None:
        if isinstance(group, bool) or not isinstance(group, int | np.integer):
            raise TypeError(f"group must be an integer, got {group!r}")
        if not 0 <= group < self.num_groups:
            raise IndexError(f"group must be in [0, {self.num_groups}), got {group}")

    def extra_repr(self) -> str:
        """The options of ``nn.Embedding``, then our own."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}, layout={self.layout}"

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
                fresh = torch.empty_like(value)
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


def _centroids() -> Tensor:
    global _CENTROIDS
    if _CENTROIDS is None:
        _CENTROIDS = torch.from_numpy(centroid_table().copy())
    return _CENTROIDS


_CENTROIDS: Tensor | None = None
