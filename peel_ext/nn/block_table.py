"""BlockTable: an nn.Embedding whose rows are cut into blocks with a worth per user group."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peel_ext.format import Layout, resolve_layout
from peel_ext.nn import rotation as rotations
from peel_ext.nn.blending import blend_blocks, check_worth
from peel_ext.nn.budgeted_lookup import layout_text
from peel_ext.nn.derived import Derived, derive
from peel_ext.nn.selection import block_costs
from peel_ext.ops.grouped_lookup import LookupTable

#: State that appears in a state_dict only once it differs from a fresh module's, and its dtype: None
#: for that of ``weight``.
_OPTIONAL_STATE = {
    "block_weights": torch.float32,
    "item_group": torch.int32,
    "rotation": torch.float32,
    "refinement": None,
    "refinement_slot": torch.int32,
}


class BlockTable(nn.Embedding):
    """The table of :class:`peel_ext.nn.ElasticEmbedding`: rows, refinements, blocks, their worth.

    What is seen of it, by whom and under which budget, is the subclass's.
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
    ) -> Self:
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
        elastic: Self = embedding  # type: ignore[assignment]
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
        self._named_groups = list(range(num_groups))  # by which packed embeddings name them
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
    ) -> Self:
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

    def _parameter(self, name: str) -> Tensor:
        """A parameter itself, whatever budget is in force."""
        value = self._parameters.get(name)
        return getattr(self, name) if value is None else value  # parametrized ones are attributes

    def _check_group(self, group: int) -> None:
        if isinstance(group, bool) or not isinstance(group, int | np.integer):
            raise TypeError(f"group must be an integer, got {group!r}")
        if not 0 <= group < self.num_groups:
            raise IndexError(f"group must be in [0, {self.num_groups}), got {group}")

    # ---- the table ----

    def refine_rows(self, group: int, indices: Tensor) -> None:
        """Gives rows of a user group a refinement of their own, zero at first, added to ``weight``.

        Rows that have one keep it. Optimisers made before do not know the new ``refinement``.

        Args:
            group: user group.
            indices: int64 [m], rows.

        Raises:
            IndexError: a group or row out of range.
            TypeError: a weight that is not float32.
            ValueError: a weight on the meta device.
        """
        self._check_group(group)
        weight = self._parameter("weight")
        if weight.dtype != torch.float32:
            raise TypeError(f"weight must be float32 to be refined, got {weight.dtype}")
        if weight.is_meta:
            raise ValueError("weight must have values to be refined, got one on the meta device")
        rows = torch.unique(indices).to(weight.device)
        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < self.num_embeddings:
            bad = int(rows[0]) if int(rows[0]) < 0 else int(rows[-1])
            raise IndexError(
                f"indices contain {bad}, expected values in [0, {self.num_embeddings})"
            )
        if self.refinement is None or self.refinement_slot is None:
            shape = (self.num_groups, self.num_embeddings)
            self.refinement_slot = rows.new_full(shape, -1, dtype=torch.int32)
            self.refinement = nn.Parameter(weight.new_zeros(0, self.embedding_dim))
            self._changed_state |= {"refinement", "refinement_slot"}
        fresh = rows[self.refinement_slot[group, rows] < 0]
        first = len(self.refinement)
        slots = torch.arange(
            first, first + len(fresh), dtype=torch.int32, device=self.refinement_slot.device
        )
        self.refinement_slot[group, fresh] = slots
        zeros = self.refinement.new_zeros(len(fresh), self.embedding_dim)
        self.refinement = nn.Parameter(torch.cat([self.refinement.detach(), zeros]))

    def fit_rotation(self, seed: int = 0, *, keep_mean: bool = False) -> None:
        """Fits the rotation in which the planes layout encodes rows to the current ``weight``.

        Rows come back from the module in their own space; a Personalized Elastic Embedding lives in
        the rotated one, and so must the user vectors scored with it (:meth:`rotate`).

        Args:
            seed: of the rotation.
            keep_mean: whether the mean of a row's values stays as it is: where rows have a prior.

        Raises:
            ValueError: the layout is not planes.
        """
        if not self.layout.nested:
            raise ValueError(f"only the planes layout is rotated, this one is {self.layout.name}")
        self.rotation = rotations.fit_rotation(self._parameter("weight"), seed, keep_mean=keep_mean)
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
        values = check_worth("values", values, shape)
        if self.layout.nested:
            order = values.sort(dim=1, descending=True, stable=True).indices
            sizes = self.layout.item_group_sizes(self.num_embeddings)
            of_rank = torch.from_numpy(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
            self.item_group = order.new_empty(shape, dtype=torch.int32).scatter_(
                1, order, of_rank.expand(shape)
            )
            self._changed_state.add("item_group")
        self._weigh(values)

    @torch.no_grad()
    def blend(self, shares: Tensor, row_values: Tensor | None = None) -> Self:
        """A module over the same rows for users between groups, who have a share of every group.

        Its user groups are the rows of ``shares``. What a block is worth to one is the sum over the
        groups here, the weights of each scaled to a sum of 1, times its share, and what
        ``row_values`` say beside. Refined rows, and the group that packed embeddings and files name,
        are those of the largest share, the first of equals. The memory of ``weight`` is shared,
        frozen; later changes of block weights are not followed.

        Args:
            shares: [m, num_groups], m at least 1, not negative, finite; need not sum to 1.
            row_values: [m, num_embeddings], what each row is worth beside, not negative, finite.

        Raises:
            ValueError: a wrong shape or value.
        """
        if shares.dim() != 2 or len(shares) == 0:
            raise ValueError(
                f"shares must be a matrix of at least one row, got shape {tuple(shares.shape)}"
            )
        shares = check_worth("shares", shares, (len(shares), self.num_groups))
        if row_values is not None:
            shape = (len(shares), self.num_embeddings)
            row_values = check_worth("row_values", row_values, shape)
        made = self.from_pretrained(
            self._parameter("weight").detach(), True, self.padding_idx, self.max_norm,
            self.norm_type, num_groups=len(shares), layout=self.layout,
        )  # fmt: skip
        made.block_weights, made.item_group = blend_blocks(
            self.block_weights, self.item_group, shares, row_values, self.layout, self._gains()
        )
        made.rotation = self.rotation
        largest = shares.argmax(dim=1)
        made._named_groups = [self._named_groups[group] for group in largest.tolist()]
        if self.refinement is not None and self.refinement_slot is not None:
            made.refinement_slot = self.refinement_slot[largest]
            made.refinement = nn.Parameter(self.refinement.detach(), requires_grad=False)
        made._changed_state = self._changed_state | {"block_weights", "item_group"}
        return made

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
        shape = (self.num_groups, self.num_embeddings)
        self._weigh(self.item_group.new_ones(shape, dtype=torch.float64))

    @torch.no_grad()
    def _weigh(self, values: Tensor) -> None:
        groups, num_item_groups, _ = self.block_weights.shape
        which = self.item_group.long().expand(groups, -1)
        worth = values.new_zeros(groups, num_item_groups).scatter_add_(1, which, values)
        self.block_weights.copy_(worth[:, :, None] * torch.from_numpy(self._gains()))
        self._changed_state.add("block_weights")

    def _gains(self) -> NDArray[np.float64]:
        """What each layer makes of a row's value [num_layers]."""
        return self.layout.layer_gains(self._parameter("weight").detach().float().numpy())

    def block_costs(self) -> Tensor:
        """Bytes of every block, int64 [num_item_groups, num_layers]."""
        costs: Tensor = derive(
            "block_costs", (self.item_group,),
            lambda: block_costs(self.item_group, self.layout, self.embedding_dim), self._kept,
        )  # fmt: skip
        return costs

    # ---- copies, conversions and checkpoints ----

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again, for copies and pickles."""
        return {**self.__dict__, "_kept": {}, "_table": None}

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        exact = {name: self._buffers[name] for name in ("block_weights", "rotation")}
        without_values = self.block_weights.is_meta
        super()._apply(fn, recurse)
        self._kept, self._table = {}, None  # with them the memory of before
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
        for name, dtype in _OPTIONAL_STATE.items():
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
                fresh = torch.empty_like(
                    value,
                    dtype=dtype or self._parameter("weight").dtype,
                    device=self.block_weights.device,
                )
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
