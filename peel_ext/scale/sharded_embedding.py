"""ShardedEmbedding: a table whose rows lie with several ranks, under any byte budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from peel_ext.device import PersonalizedElasticEmbedding
from peel_ext.format import ColumnsLayout, EncodedRows, FoldInSettings, Layout
from peel_ext.format.layout import PAGE_ENTRIES, padded
from peel_ext.format.writer import align, pack_parts
from peel_ext.nn import selection, worth
from peel_ext.nn.arguments import as_int, check_budget, check_geometry
from peel_ext.nn.blending import check_worth
from peel_ext.nn.encoding import Rows, encode, levels_on
from peel_ext.nn.rotation import rotate_run, rotation_of_moments, second_moments
from peel_ext.nn.selection import even_block_weights
from peel_ext.ops import check_memory
from peel_ext.ops.lookup import BlockStore, Pairs, Table, check_group, gather
from peel_ext.scale.messages import agreed, check_same
from peel_ext.scale.row_order import in_turn, places_by_value
from peel_ext.scale.row_shard import RowShard, content_checksums, outline_of
from peel_ext.scale.sharded_files import pack_together, write_files
from peel_ext.scale.table_shard import TableShard


class ShardedEmbedding:
    """An elastic embedding of a table whose rows lie with several ranks.

    :meth:`peel_ext.nn.ElasticEmbedding.from_sharded` makes one. Each rank has a run of the rows, and
    where they belong. All ranks have the block weights. Selections and files have the bits of one
    process with the same rows, values and rotation; no rank ever has the rows of all. All ranks call
    :meth:`set_row_values`, :meth:`fit_rotation`, :meth:`generate` and :meth:`export` together.

    Rows are encoded anew by each call: training may go on between calls, by whatever optimiser. Lookups
    are those of the table's library; :meth:`table` gives the own rows as a device sees them.

    Args:
        shard: the rows of this rank.
        num_groups: user groups.
        layout: ``"planes"``, ``"columns"``, or a layout object with its options.

    Attributes:
        rows: float32 [n, dim], the own rows; the memory is that of the table.
        first: the first of them among all rows.
        num_embeddings: rows on all ranks.
        block_weights: float32 [num_groups, num_item_groups, num_layers], the same on all ranks.
        item_group: int32 [num_groups or 1, n], the item group of each own row.
        rotation: float32 [dim, dim] or None, the same on all ranks; see :meth:`fit_rotation`.

    Raises:
        ValueError: an argument out of range, or other than on another rank.
        ElsewhereError: an error of another rank alone, as every method raises it.
    """

    @torch.inference_mode(False)
    def __init__(
        self, shard: TableShard, *, num_groups: int = 1, layout: Layout | str = "planes"
    ) -> None:
        self.rows, self._edges, self._ranks = shard.rows, shard.edges, shard.ranks
        self.first, self.num_embeddings = shard.first, shard.num_embeddings
        self.embedding_dim = self.rows.shape[1]
        with agreed(self._ranks, "from_sharded"):
            self.layout = check_geometry(self.embedding_dim, num_groups, layout)
        self.num_groups = as_int(num_groups)
        check_same("num_groups and layout", (self.num_groups, self.layout), self._ranks)
        self._sizes = self.layout.item_group_sizes(self.num_embeddings)
        self.rotation: Tensor | None = None
        even = even_block_weights(self.layout, self.num_embeddings, self.embedding_dim)
        self.block_weights = even.repeat(self.num_groups, 1, 1)
        own = torch.arange(len(self.rows), dtype=torch.int64, device="cpu") + self.first
        self.item_group = self._item_groups_at(own)[None]

    def _item_groups_at(self, places: Tensor) -> Tensor:
        """The item groups int32 of rows at some places in the order in which they are cut."""
        ends = torch.from_numpy(np.cumsum(self._sizes))
        return torch.searchsorted(ends, places.cpu(), right=True).int()

    # ---- the worth of blocks ----

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_row_values(self, values: Tensor) -> None:
        """Sets ``block_weights`` from what each row is worth to each user group.

        As :meth:`peel_ext.nn.ElasticEmbedding.set_row_values` does with the values of all ranks.

        Args:
            values: [num_groups, n], of the own rows, not negative, finite.

        Raises:
            ValueError: a wrong shape or value.
        """
        with agreed(self._ranks, "set_row_values"):
            values = check_worth("values", values, (self.num_groups, len(self.rows))).cpu()
        if self.layout.nested:
            places = [places_by_value(each, self._ranks) for each in values]
            self.item_group = torch.stack([self._item_groups_at(each) for each in places])
        start = torch.zeros(
            self.num_groups, len(self._sizes), dtype=torch.float64, device="cpu"
        )  # fmt: skip
        total = in_turn(
            start, lambda state: worth.add_worth(state, values, self.item_group), self._ranks
        )
        self.block_weights = worth.weights_of_worth(total, self._gains())

    def _gains(self) -> NDArray[np.float64]:
        """What each layer makes of a row's value [num_layers]."""
        if not isinstance(self.layout, ColumnsLayout):
            return self.layout.layer_gains(np.zeros((0, self.embedding_dim), np.float32))
        squares = self.rows.detach().double().square().cpu().numpy()

        def add(energy: Tensor) -> None:
            sums = np.concatenate([energy.numpy()[None], squares]).sum(axis=0)
            energy.copy_(torch.from_numpy(sums))

        start = torch.zeros(self.embedding_dim, dtype=torch.float64, device="cpu")
        return self.layout.gains_of_energy(in_turn(start, add, self._ranks).numpy())

    @torch.inference_mode(False)
    @torch.no_grad()
    def fit_rotation(self, seed: int = 0, *, keep_mean: bool = False) -> None:
        """Fits the rotation in which the planes layout encodes rows to those of all ranks.

        It is not that of one process, but as good: sums over rows are rounded otherwise.

        Args:
            seed: seeds the rotation.
            keep_mean: whether the mean of a row's values stays as it is.

        Raises:
            ValueError: the layout is not planes, or other arguments on another rank.
        """
        with agreed(self._ranks, "fit_rotation"):
            if not self.layout.nested:
                raise ValueError(
                    f"only the planes layout is rotated, this one is {self.layout.name}"
                )
        check_same("seed and keep_mean", (as_int(seed), keep_mean), self._ranks)
        moments = self._ranks.sum(second_moments(self.rows)).cpu()
        with agreed(self._ranks):
            made = rotation_of_moments(moments, seed, keep_mean=keep_mean)
        # Another processor might round otherwise.
        self.rotation = self._ranks.copy(made, made.shape).to(self.rows.device)

    def rotate(self, vectors: Tensor) -> Tensor:
        """Vectors [..., embedding_dim] in the space of the Personalized Elastic Embeddings.

        Raises:
            ValueError: vectors without memory.
        """
        check_memory("vectors", vectors)
        return vectors if self.rotation is None else vectors @ self.rotation

    # ---- budgets ----

    def minimum_budget_bytes(self, group: int) -> int:
        """The smallest budget a user group can be had under."""
        check_group(group, self.num_groups)
        weights = self.block_weights[group : group + 1]
        costs, overhead = self._costs()
        return int(selection.minimum_bytes(weights, costs, self.layout, overhead)[0])

    def _costs(self) -> tuple[Tensor, int]:
        """Bytes of every block, and those held whatever is kept."""
        rows, sizes = self.num_embeddings, self._sizes
        costs = torch.from_numpy(self.layout.block_costs(sizes, self.embedding_dim, rows))
        return costs, self.layout.overhead_bytes(len(sizes), rows, False)

    def _held(self, group: int, budget_bytes: int) -> Tensor:
        """Masks of the layers that a budget keeps, int64 [num_item_groups]."""
        check_group(group, self.num_groups)
        weights = self.block_weights[group : group + 1]
        costs, overhead = self._costs()
        limit = check_budget(budget_bytes)
        return selection.select_blocks(weights, costs, self.layout, limit, overhead)[0]

    def _order(self, group: int, budget_bytes: int | None = None) -> NDArray[np.int64]:
        """The blocks in the order in which budgets take them; under a budget those that it keeps."""
        weights, (costs, _) = self.block_weights[group : group + 1], self._costs()
        order: NDArray[np.int64] = selection.order_blocks(weights, costs, self.layout)[0].numpy()
        return order if budget_bytes is None else order[: self._num_blocks(group, budget_bytes)]

    def _num_blocks(self, group: int, budget_bytes: int) -> int:
        held = self._held(group, budget_bytes)
        # The mask of 64 layers is negative as a signed integer.
        return sum((mask & (1 << 64) - 1).bit_count() for mask in held.tolist())

    @torch.no_grad()
    def table(self, group: int, budget_bytes: int) -> Tensor:
        """The own rows float32 [n, dim] as a device of a user group sees them; nothing is sent.

        Rows that a budget does not hold are zeros.

        Args:
            group: user group.
            budget_bytes: for everything the device holds for the table.

        Raises:
            IndexError: a group out of range.
            BudgetError: too few bytes; names the minimum.
        """
        held, where = self._held(group, budget_bytes), self.rows.device
        at = 0 if len(self.item_group) == 1 else group
        store, scales = self._encode()
        blocks = BlockStore(
            self.layout, store, scales, self.item_group[at : at + 1].to(where), held[None].to(where),
            levels_on(where), self.rotation,
        )  # fmt: skip
        indices = torch.arange(len(self.rows), dtype=torch.int64, device=where)
        return gather(Table(self.rows, None, None, blocks, 1), Pairs(indices, None).check())

    @torch.no_grad()
    def _encode(self) -> tuple[Tensor, Tensor]:
        """Store and scales of the own rows."""
        rows = self.rows.detach()
        if self.rotation is None:
            return Rows(rows, None, None, None).encoded(self.layout)
        rotated = rotate_run(rows, self.rotation, self.first, self.num_embeddings)
        return encode(rotated, self.layout)

    # ---- what a device would hold ----

    def generate(self, group: int, budget_bytes: int) -> PersonalizedElasticEmbedding:
        """The Personalized Elastic Embedding of a user group, on this rank: what fits the budget.

        Only the rows that are held are sent. Each rank may ask for another group and budget.

        Args:
            group: user group.
            budget_bytes: for everything the device holds for the table.

        Raises:
            IndexError: a group out of range.
            BudgetError: too few bytes; names the minimum.
        """
        with agreed(self._ranks, "generate"):
            count = self._num_blocks(group, budget_bytes)
            order = self._order(group)
            shard = self._row_shard()
        asked = torch.tensor([group], dtype=torch.int64, device="cpu")
        groups: list[int] = self._ranks.stack(asked)[:, 0].tolist()
        checksums = content_checksums(shard, sorted(set(groups)))
        outline = outline_of(
            shard, group, order, checksums[group], rotated=self.rotation is not None
        )
        parts: list[bytes] = []
        pack_together(
            shard, order[: padded(count, PAGE_ENTRIES)], groups,
            lambda blocks: parts.extend(pack_parts(outline, blocks, count)),
        )  # fmt: skip
        return PersonalizedElasticEmbedding(align(b"".join(parts)))

    def export(
        self,
        paths: Mapping[int, str | os.PathLike[str]],
        *,
        budget_bytes: int | None = None,
        fold_in: FoldInSettings | None = None,
        centroids: ArrayLike | None = None,
        item_ids: Sequence[int | str] | NDArray[Any] | None = None,
        keep_rotation: bool = False,
    ) -> None:
        """Writes the ``.peel`` files of user groups, each by one rank, several at a time.

        The ranks take the groups in turn. A file is written block by block as the rows arrive: no rank
        has more of it than some pages. Every file is there whole, or not at all.

        Args:
            paths: the file of each user group; this and all else is the same on all ranks.
            budget_bytes: the largest budget that a device will have: what it would not hold is left out.
                None: all blocks.
            fold_in: how a device computes a user's vector.
            centroids: [num_groups, embedding_dim] of all user groups, rotated (:meth:`rotate`).
            item_ids: [num_embeddings], by which a device tells items; None: they are known by row.
            keep_rotation: whether the files carry the rotation, if there is one.

        Raises:
            IndexError: a group out of range.
            BudgetError: too few bytes for the first block; names the minimum.
            ValueError: centroids or ids that do not fit, one file for two user groups, or other arguments
                on another rank.
            OSError: a file cannot be written.
        """
        with agreed(self._ranks, "export"):
            files = self._check_files(paths, budget_bytes)
            shard = self._row_shard()
        check_same("paths and budget_bytes", (files, as_int(budget_bytes)), self._ranks)
        check_same(
            "fold_in, keep_rotation, and whether there are centroids and item_ids",
            (fold_in, keep_rotation, centroids is None, item_ids is None), self._ranks,
        )  # fmt: skip
        appended: dict[str, Any] = {"centroids": centroids, "item_ids": item_ids}
        if keep_rotation and self.rotation is not None:
            appended["rotation"] = self.rotation.cpu().numpy()
        said = {
            "rotated": self.rotation is not None,
            "fold_in": FoldInSettings() if fold_in is None else fold_in,
        }
        for first in range(0, len(files), self._ranks.size):
            write_files(
                shard, files[first : first + self._ranks.size],
                lambda group: self._order(group, budget_bytes), said, appended,
            )  # fmt: skip

    def _check_files(
        self, paths: Mapping[int, str | os.PathLike[str]], budget_bytes: int | None
    ) -> list[tuple[int, str]]:
        """User group and path of each file, in the order of the groups."""
        if not isinstance(paths, Mapping):
            raise TypeError(f"paths must map user groups to files, got {paths!r}")
        for group in paths:
            check_group(group, self.num_groups)
            if budget_bytes is not None:
                self._held(group, budget_bytes)
        files = sorted((as_int(group), os.fsdecode(path)) for group, path in paths.items())
        if len({path for _, path in files}) < len(files):
            raise ValueError(f"paths must be another for each user group, got {paths!r}")
        return files

    def _row_shard(self) -> RowShard:
        store, scales = self._encode()
        return RowShard(
            self.layout, self.embedding_dim, EncodedRows(store.cpu().numpy(), scales.cpu().numpy()),
            self.item_group.cpu().numpy(), self._sizes, self._edges, self._ranks,
        )  # fmt: skip
