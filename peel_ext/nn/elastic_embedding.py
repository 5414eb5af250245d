"""ElasticEmbedding: an nn.Embedding that can be had under any byte budget."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.format import FoldInSettings, GroupTable, Layout, pack_prefix
from peel_ext.nn import deferred, group_table, lookups, selection, state, worth
from peel_ext.nn import refinement as refinements
from peel_ext.nn import rotation as rotations
from peel_ext.nn import vectors as vector_tables
from peel_ext.nn.arguments import as_int, check_geometry
from peel_ext.nn.encoding import layout_text
from peel_ext.nn.read_only import ReadOnlyTensor
from peel_ext.nn.tables import Tables
from peel_ext.nn.tensor_cache import TensorCache
from peel_ext.nn.views import Entered, Views
from peel_ext.ops import check_memory
from peel_ext.ops.lookup import check_group, is_traced

#: What can be computed again, and what belongs to a context: neither is copied nor saved.
_NOT_COPIED = ("_cache", "_tables", "_views")


class ElasticEmbedding(nn.Embedding):
    """A drop-in for ``nn.Embedding`` with a table per user group under any byte budget.

    All arguments of ``nn.Embedding`` keep their meaning; without ``groups`` and budget so does the
    module. Its rows are cut into blocks (item group, layer), each with a learned worth per user
    group; under a budget only the blocks with the largest weights per byte remain.

    Args:
        num_embeddings: rows.
        embedding_dim: values of a row.
        num_groups: user groups, each with its own weights and refinements. Until values are set all
            rows are worth the same: a budget keeps the first ones.
        layout: ``"planes"``, ``"columns"``, or a layout object with its options.

    Attributes:
        weight: Parameter [num_embeddings, embedding_dim]. Inside :meth:`budget` and
            :meth:`use_groups` it reads as the table seen there (:meth:`table`), so that code which
            uses the weight itself sees what a device would; that table cannot be edited. The
            Parameter is in ``parameters()`` as ever, and ``get_parameter("weight")`` gives it.
        refinement: Parameter [num_refined, embedding_dim] or None; see :meth:`refine_rows`.
        refinement_slot: int32 [num_groups, num_embeddings] or None.
        block_weights: buffer float32 [num_groups, num_item_groups, num_layers].
        item_group: buffer int32 [num_groups or 1, num_embeddings], the item group of each row.
        rotation: buffer float32 [embedding_dim, embedding_dim] or None; see :meth:`fit_rotation`.
        row_mean: buffer float32 [embedding_dim] or None; see :meth:`from_vectors`.

    Raises:
        ValueError: an argument out of range.
        TypeError: an argument of the wrong type.
    """

    block_weights: Tensor
    item_group: Tensor
    rotation: Tensor | None
    row_mean: Tensor | None
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
            as_int(num_embeddings), as_int(embedding_dim), padding_idx, max_norm, norm_type,
            scale_grad_by_freq, sparse, _weight, _freeze, device, dtype,
        )  # fmt: skip
        self._cut(as_int(num_groups), layout)

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
        elastic._cut(as_int(num_groups), layout)
        return elastic

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
            ValueError: embeddings that are not a matrix, or have no memory.
        """
        check_memory("embeddings", embeddings)
        if embeddings.dim() != 2:
            raise ValueError(
                f"embeddings must have 2 dimensions, got shape {tuple(embeddings.shape)}"
            )
        num_embeddings, embedding_dim = embeddings.shape
        return cls(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, embeddings, freeze, num_groups=num_groups, layout=layout,
        )  # fmt: skip

    @classmethod
    def from_vectors(
        cls, vectors: Tensor, queries: Tensor | None = None, *, metric: str = "ip"
    ) -> Self:
        """A table of any model's vectors in which the best rows for a query are searched.

        There are no users: one user group. Rows are the vectors less their mean (``row_mean``), which
        leaves the order of the rows for every query as it is and their scores less by one number,
        ``query @ row_mean``. They are rotated where that finds more; layers are worth what they add
        to the recall of sample queries, and rows what they are worth in the lists of those.

        Args:
            vectors: real numbers [n, dim], of words, sentences, items or anything else; copied.
            queries: [m, dim] like those that will be asked; some thousands are enough. None: the
                vectors ask for each other.
            metric: ``"ip"``, the inner product, or ``"cosine"``, for which the vectors are brought to
                length 1. What a query's length is matters to neither's order.

        Raises:
            TypeError: not tensors of real numbers.
            ValueError: a wrong shape or metric, or values that are not finite.
        """
        made: Self = vector_tables.make_table(cls, vectors, queries, metric)
        return made

    @staticmethod
    def from_sharded(
        table: Any,
        *,
        num_groups: int = 1,
        layout: Layout | str = "planes",
        process_group: Any = None,
    ) -> Any:
        """A :class:`peel_ext.scale.ShardedEmbedding` of rows of several ranks, which call it together.

        It is no ``nn.Module``: the table stays where it is, and so does what trains it. Its
        budgets and files are decided over all ranks, and nothing is gathered on one.

        Args:
            table: a ``DTensor`` with ``Shard(0)``, as a parameter of FSDP2 is one; a ``ShardedTensor``
                that TorchRec sharded ``row_wise``; or a plain tensor, the rows float32 [n, dim] of this
                rank, of which n may differ and be 0.
            num_groups: user groups.
            layout: ``"planes"``, ``"columns"``, or a layout object with its options.
            process_group: the ranks that have the rows of a plain tensor, in their order; None: all.
                Other tables bring their own.

        Raises:
            TypeError: no table, or not one of float32.
            ValueError: an argument out of range or other than on another rank, a table that is not sharded
                by rows, or the same plain rows on all ranks.
            ElsewhereError: an error of another rank alone.
        """
        # Several processes lie above this layer: what they need is found when it is asked for.
        scale = importlib.import_module("peel_ext.scale.sharded_embedding")
        shard = scale.TableShard.of(table, process_group)
        return scale.ShardedEmbedding(shard, num_groups=num_groups, layout=layout)

    def _cut(self, num_groups: int, layout: Layout) -> None:
        """All that this class adds to an ``nn.Embedding``."""
        self.num_groups = num_groups
        self.layout = layout
        self._layout_text = layout_text(layout)
        self._named_groups = list(range(num_groups))  # by which packed embeddings name them
        self._begin()
        # Until the values of a module made on the meta device are loaded.
        self._is_deferred = self._parameter("weight").is_meta
        state.give_even_blocks(self)
        # After the others: torch.export takes the position of a buffer for its place among those
        # that are not None.
        self.register_buffer("rotation", None)
        self.register_buffer("refinement_slot", None)
        self.register_buffer("row_mean", None)
        self.register_parameter("refinement", None)

    def _begin(self) -> None:
        self._cache = TensorCache()
        self._tables = Tables()
        self._views = Views()

    # ---- budgets and groups ----

    @property
    def budget_bytes(self) -> int | None:
        """The budget in force, or None."""
        return self._views.get().budget_bytes

    def budget(self, budget_bytes: int) -> Entered:
        """Inside this context the module is what a device with that many bytes would see.

        Training goes on inside it: rows are encoded anew when they change, and gradients go
        straight through to the blocks held. A change is what torch counts as one; after an edit
        through ``weight.data``, ``weight.numpy()``, a replayed CUDA graph or another process, say so
        with ``torch.autograd.graph.increment_version``. Contexts nest. Like ``torch.no_grad``, a budget
        is that of the thread that enters it, and of the task in asyncio; other threads do not see
        it.

        Raises:
            BudgetError: too few bytes for one of the user groups; names the minimum.
            TypeError: not an integer, or a weight that is not one float32 tensor.
            ValueError: a weight that is not finite, or where there are no kernels.
        """
        return Entered(self, lookups.under_budget, budget_bytes)

    def use_groups(self, groups: Tensor | int) -> Entered:
        """Inside this context calls that name no groups are for these.

        For models whose own code calls ``embedding(input)`` or reads ``embedding.weight``. A model
        that also embeds all its items, or reads the weight, can only be had for one group at a
        time. Contexts nest, and belong to a thread or task as those of :meth:`budget` do.

        Args:
            groups: as in :meth:`forward`.

        Raises:
            IndexError: a group out of range.
            TypeError: not integers.
        """
        return Entered(self, lookups.for_groups, groups)

    def table(self, group: int | None = None) -> Tensor:
        """The whole table [num_embeddings, embedding_dim] as a user group sees it, with gradients.

        Args:
            group: user group; may be left out where :meth:`forward` may leave it out.

        Raises:
            ValueError: several user groups in force.
        """
        return lookups.table(self, group)

    @property
    def weight(self) -> Tensor:
        """The Parameter, or the table of the user group and under the budget in force."""
        weight: Tensor | None = self._parameters.get("weight", self.__dict__.get("weight"))
        if weight is None:
            raise AttributeError("weight")
        views: Views | None = self.__dict__.get("_views")  # none while the module is being made
        if views is None or weight.is_meta:  # and nothing to be seen while it is offloaded
            return weight
        budget_bytes, groups, _ = views.get()
        if budget_bytes is None and (groups is None or self._parameters["refinement"] is None):
            return weight
        table = self.table()
        return table if is_traced(table) else table.as_subclass(ReadOnlyTensor)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        # Only what is no Parameter gets here: what pruning and norms of weights compute.
        self.__dict__["weight"] = value

    @weight.deleter
    def weight(self) -> None:
        del self.__dict__["weight"]

    def get_parameter(self, target: str) -> nn.Parameter:
        """The Parameter of that name, whatever is in force."""
        own: Tensor | None = self._parameters.get(target)
        return super().get_parameter(target) if own is None else own  # type: ignore[return-value]

    def _parameter(self, name: str) -> Tensor:
        """A parameter itself, or what takes its place, whatever budget is in force."""
        value: Tensor | None = self._parameters.get(name, self.__dict__.get(name))
        return getattr(self, name) if value is None else value  # parametrized ones are attributes

    # ---- what a device would hold ----

    def minimum_budget_bytes(self, group: int) -> int:
        """The smallest budget a user group can be had under."""
        check_group(group, self.num_groups)
        costs, weights = self.block_costs(), self.block_weights[group : group + 1]
        overhead = selection.overhead_bytes(self.item_group, self.layout, weights.shape[1])
        return int(selection.minimum_bytes(weights, costs, self.layout, overhead)[0])

    def generate(self, group: int, budget_bytes: int) -> PersonalizedElasticEmbedding:
        """The Personalized Elastic Embedding of a user group: what fits the budget, packed.

        Args:
            group: user group.
            budget_bytes: for everything the device holds for the table.

        Raises:
            IndexError: a group out of range.
            BudgetError: too few bytes; names the minimum.
        """
        table, num_blocks = self.held_table(group, budget_bytes)
        return PersonalizedElasticEmbedding(pack_prefix(table, num_blocks))

    def held_table(self, group: int, budget_bytes: int) -> tuple[GroupTable, int]:
        """The encoded table of a user group, and how many of its blocks, in their order, fit a budget.

        Args and errors are those of :meth:`generate`.
        """
        return group_table.held_table(self, group, budget_bytes)

    def export(
        self,
        path: str | os.PathLike[str] | BinaryIO,
        group: int,
        *,
        budget_bytes: int | None = None,
        fold_in: FoldInSettings | None = None,
        centroids: ArrayLike | None = None,
        item_ids: Sequence[int | str] | np.ndarray | None = None,
        keep_rotation: bool | None = None,
    ) -> None:
        """Writes the ``.peel`` file of a user group: every budget in one file.

        Args:
            path: the file; while it is written, whatever was there stays. Or an open binary file.
            group: user group.
            budget_bytes: the largest budget that a device will have: what it would not hold is left out.
                None: all blocks.
            fold_in: how a device computes a user's vector.
            centroids: [num_groups, embedding_dim] of all user groups, rotated (:meth:`rotate`).
            item_ids: [num_embeddings], by which a device tells items; None: they are known by row.
            keep_rotation: whether the file carries the rotation, if there is one, so that a device
                can rotate vectors of this module's space; the file says in any case that there is.
                None: where the table is one of :meth:`from_vectors`.

        Raises:
            IndexError: a group out of range.
            BudgetError: too few bytes for the first block; names the minimum.
            ValueError: centroids or ids that do not fit.
            OSError: the file cannot be written.
        """
        group_table.write_table(
            self, path, group, budget_bytes, fold_in, centroids, item_ids, keep_rotation
        )

    def encoded_rows(self) -> tuple[Tensor, Tensor]:
        """All rows as blocks have them: store uint8 [n, row_bytes] and scales float16 [n, scales]."""
        return lookups.all_rows(self).encoded(self.layout, self._cache)

    # ---- lookups ----

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
        return lookups.look_up(self, input, groups, self.max_norm)

    # ---- the table ----

    @torch.inference_mode(False)
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
        refinements.refine_rows(self, group, indices)

    @torch.inference_mode(False)
    def fit_rotation(self, seed: int = 0, *, keep_mean: bool = False) -> None:
        """Fits the rotation in which the planes layout encodes rows to the current ``weight``.

        Rows come back from the module in their own space; a Personalized Elastic Embedding lives in
        the rotated one, and so must the user vectors scored with it (:meth:`rotate`).

        Args:
            seed: seeds the rotation.
            keep_mean: whether the mean of a row's values stays as it is: where rows have a prior.

        Raises:
            ValueError: the layout is not planes.
        """
        if not self.layout.nested:
            raise ValueError(f"only the planes layout is rotated, this one is {self.layout.name}")
        weight = self._parameter("weight")
        state.check_plain(weight)
        self.rotation = rotations.fit_rotation(weight, seed, keep_mean=keep_mean)

    def rotate(self, vectors: Tensor) -> Tensor:
        """Vectors [..., embedding_dim] in the space of the Personalized Elastic Embeddings.

        Raises:
            ValueError: vectors without memory.
        """
        check_memory("vectors", vectors)
        return vectors if self.rotation is None else vectors @ self.rotation

    # ---- the worth of blocks ----

    @torch.inference_mode(False)
    def set_row_values(self, values: Tensor) -> None:
        """Sets ``block_weights`` from what each row is worth to each user group.

        The weight of a block is the sum of its rows' values times the gain of its layer. In the
        planes layout item groups become runs of rows in descending value, ties in ascending index.

        Args:
            values: [num_groups, num_embeddings], not negative, finite.

        Raises:
            ValueError: a wrong shape or value.
        """
        worth.set_row_values(self, values)

    @torch.inference_mode(False)
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
        made: Self = worth.blend(self, shares, row_values)
        return made

    @torch.inference_mode(False)
    def set_item_groups(self, item_group: Tensor) -> None:
        """Sets which item group each row belongs to, in the columns layout, for all user groups.

        Args:
            item_group: integers [num_embeddings] in [0, num_item_groups).

        Raises:
            TypeError: not a tensor of integers.
            ValueError: the planes layout, whose item groups follow from row values; a wrong shape
                or value.
        """
        worth.set_item_groups(self, item_group)

    def block_costs(self) -> Tensor:
        """Bytes of every block, int64 [num_item_groups, num_layers]."""
        state.check_blocks(self)
        costs: Tensor = self._cache.derive(
            "block_costs", (self.item_group,),
            lambda: selection.block_costs(self.item_group, self.layout, self.embedding_dim),
        )  # fmt: skip
        return costs

    # ---- nn.Module ----

    def extra_repr(self) -> str:
        """The options of ``nn.Embedding``, then our own."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}, layout={self.layout}"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again, for copies and pickles."""
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """A copy keeps nothing yet, and no budget is in force for it."""
        super().__setstate__(saved)
        self._begin()

    def _replicate_for_data_parallel(self) -> Self:
        """A replica for another thread, in which what is in force here is."""
        replica: Self = super()._replicate_for_data_parallel()
        replica._begin()
        replica._views = Views(self._views.get())
        return replica

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module``'s; whoever sets a mode has loaded what there is to load."""
        self._settle()
        return super().train(mode)

    def _settle(self) -> None:
        """Ends what :mod:`peel_ext.nn.deferred` begins."""
        if self._is_deferred:
            self._is_deferred = False
            deferred.settle(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        if self._is_deferred:
            deferred.settle(self)
        before = {name: self._buffers[name] for name in state.BUFFERS}
        was_meta = self._parameter("weight").is_meta
        super()._apply(fn, recurse)
        self._cache = TensorCache()  # with it the memory of before
        self._tables.forget()
        state.keep_values(self, before, was_meta)
        self._is_deferred = self._is_deferred and self._parameter("weight").is_meta
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not self._parameter("weight").is_meta:
            self._settle()
        if self._is_deferred:
            deferred.offer(self)
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self._is_deferred:
            state.without_defaults(self, destination, prefix)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self._is_deferred:
            deferred.settle(self)
        state_dict = state.fit_to_load(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
