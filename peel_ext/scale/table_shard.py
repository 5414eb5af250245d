"""The rows that this rank owns of a table that others sharded: by DTensor, FSDP2 or TorchRec."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from peel_ext.nn.state import is_plain
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import agreed


@dataclass(frozen=True)
class TableShard:
    """A run of the rows of a table, of which the other ranks have the other runs, in their order.

    Attributes:
        rows: float32 [n, dim], of this rank; the memory is that of the table.
        edges: int64 [size + 1], the first row of each rank, and the number of rows.
        ranks: the processes.
    """

    rows: Tensor
    edges: NDArray[np.int64]
    ranks: Collectives

    @classmethod
    def of(cls, table: Any, process_group: dist.ProcessGroup | None = None) -> TableShard:
        """The rows of this rank; all ranks call it.

        Args:
            table: as of :meth:`peel_ext.nn.ElasticEmbedding.from_sharded`.
            process_group: likewise.

        Raises:
            TypeError: no table, or not one of float32.
            ValueError: a table that is not sharded by rows, in the order of ranks, or of which this rank
                has no part; the same plain rows on all ranks.
        """
        if process_group is None:
            process_group = _group_of(table)
        ranks = Collectives.of_group(process_group)
        with agreed(ranks, "from_sharded"):
            own = _own_part(table, ranks.rank)
            _check_rows(own.rows)
        said = -1 if own.num_embeddings is None else own.num_embeddings
        counts = torch.tensor([*own.rows.shape, said], dtype=torch.int64, device="cpu")
        counts = ranks.stack(counts)
        edges = np.concatenate([[0], np.cumsum(counts[:, 0].numpy())]).astype(np.int64)
        with agreed(ranks):
            _check_place(own, counts, edges, ranks.rank)
        if own.num_embeddings is None and ranks.size > 1 and _are_same(own.rows, ranks):
            raise ValueError(
                "table must be the own rows of each rank, got the same on all: give each its part, and "
                "where FSDP has put them together call reshard() before"
            )
        return cls(own.rows, edges, ranks)

    @property
    def first(self) -> int:
        """The first row of this rank."""
        return int(self.edges[self.ranks.rank])

    @property
    def num_embeddings(self) -> int:
        """Rows of the whole table."""
        return int(self.edges[-1])


class _Part(NamedTuple):
    """What a table says of the rows of this rank: None where it does not."""

    rows: Tensor
    first: int | None = None
    num_embeddings: int | None = None


def _group_of(table: Any) -> dist.ProcessGroup | None:
    """The process group of a table that has one."""
    if isinstance(table, DTensor):
        mesh = table.device_mesh
        if mesh.get_coordinate() is None:
            raise ValueError(f"table must have a part on this rank, got one on {mesh} alone")
        # Of more dimensions none says who calls, and it is refused.
        return mesh.get_group(0)
    group: dist.ProcessGroup | None = getattr(table, "_process_group", None)
    return group


def _own_part(table: Any, rank: int) -> _Part:
    if isinstance(table, DTensor):
        return _part_of_dtensor(table, rank)
    if hasattr(table, "local_shards") and hasattr(table, "metadata"):
        return _part_of_sharded_tensor(table)
    if not isinstance(table, Tensor):
        raise TypeError(
            "table must be a DTensor, a ShardedTensor or the tensor of this rank's rows, got a "
            f"{type(table).__name__}"
        )
    return _Part(table.detach())


def _part_of_dtensor(table: DTensor, rank: int) -> _Part:
    placements = table.placements
    if len(placements) != 1 or type(placements[0]) is not Shard or placements[0].dim != 0:
        raise ValueError(
            "table must be sharded by rows over a mesh of one dimension, Shard(0), got placements "
            f"{placements}: redistribute it, or give this rank's rows and a process_group"
        )
    if [*(table.device_mesh.get_coordinate() or ())] != [rank]:
        raise ValueError(
            "table must be sharded in the order of ranks, got a mesh of others: "
            f"{table.device_mesh}"
        )
    local: Any = table.to_local()
    if hasattr(local, "local_shards"):  # several shards of a rank, as TorchRec wraps them
        offsets = local.local_offsets()
        return _part_of_shards(
            local.local_shards(), [int(each[0]) for each in offsets], tuple(table.shape)
        )
    if hasattr(local, "wait"):  # what a collective still fills
        local = local.wait()
    return _Part(local.detach(), None, table.shape[0])


def _part_of_sharded_tensor(table: Any) -> _Part:
    shape = tuple(table.metadata().size)
    shards = table.local_shards()
    offsets = [int(shard.metadata.shard_offsets[0]) for shard in shards]
    return _part_of_shards([shard.tensor for shard in shards], offsets, shape)


def _part_of_shards(shards: list[Tensor], offsets: list[int], shape: tuple[int, ...]) -> _Part:
    """The one shard of this rank, or none."""
    widths = [tuple(each.shape)[1:] for each in shards]
    if len(shards) > 1 or any(width != shape[1:] for width in widths):
        raise ValueError(
            f"table must be sharded by rows, one shard a rank, got shards "
            f"{[tuple(each.shape) for each in shards]} of {shape}: shard it row_wise"
        )
    if not shards:
        empty = torch.empty(0, *shape[1:], dtype=torch.float32, device="cpu")
        return _Part(empty, None, shape[0])
    return _Part(shards[0].detach(), offsets[0], shape[0])


def _check_rows(rows: Tensor) -> None:
    if not is_plain(rows) or rows.layout != torch.strided:
        raise TypeError(
            "table must have plain dense rows to be encoded, got this rank's in a "
            f"{type(rows).__name__} of layout {rows.layout}"
        )
    if rows.dim() != 2 or rows.shape[1] == 0:
        raise ValueError(
            "table must have 2 dimensions and at least one column, got this rank's rows of shape "
            f"{tuple(rows.shape)}"
        )
    if rows.dtype != torch.float32:
        raise TypeError(f"table must be float32 to be encoded, got {rows.dtype}")
    if rows.is_meta:
        raise ValueError("table must have values, got one on the meta device")


def _check_place(own: _Part, counts: Tensor, edges: NDArray[np.int64], rank: int) -> None:
    widths = counts[:, 1].unique().tolist()
    if len(widths) > 1:
        raise ValueError(f"table must have as many columns on every rank, got {widths}")
    kinds = counts[:, 2].unique().tolist()
    if len(kinds) > 1:
        raise ValueError(
            "table must be of one kind and size on every rank, got tables of "
            f"{kinds} rows, -1 where it is a plain tensor"
        )
    if own.num_embeddings is not None and own.num_embeddings != edges[-1]:
        raise ValueError(
            f"table must lie with the ranks of one process group, got {edges[-1]} rows there of "
            f"{own.num_embeddings}"
        )
    if own.first is not None and len(own.rows) and own.first != edges[rank]:
        raise ValueError(
            f"table must be sharded in the order of ranks, got row {own.first} as the first of rank "
            f"{rank}, expected {edges[rank]}"
        )


def _are_same(rows: Tensor, ranks: Collectives) -> bool:
    """Whether all ranks have the same rows, and some: the first one says mostly that they do not."""
    if ranks.total(len(rows)) == 0:
        return False
    for part in (rows[:1], rows):
        digest = hashlib.sha256(f"{tuple(rows.shape)}".encode())
        # Copied: memory that NumPy has seen can never be resized again, as FSDP does.
        digest.update(part.detach().clone().cpu().contiguous().numpy())
        if ranks.differing(digest.digest()):
            return False
    return True
