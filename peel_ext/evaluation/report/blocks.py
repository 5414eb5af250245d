"""The block weights of user groups, and what every budget keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peel_ext.format import Layout
from peel_ext.format.byte_parts import ByteParts, split_bytes
from peel_ext.nn import ElasticEmbedding
from peel_ext.nn.selection import order_blocks

#: Budgets on the slider, beside those that were measured.
_STEPS = 60

#: Columns of a picture; neighbouring item groups share one where there are more.
MAX_COLUMNS = 256

#: Worth per byte below this power of ten of the largest is shown as it.
_LEAST_POWER = -4.0


@dataclass(frozen=True, eq=False)
class GroupBlocks:
    """The blocks of a user group in the order in which budgets take them.

    Attributes:
        group: user group.
        num_users: users of the group.
        worth: weight per byte of each block over the largest [num_item_groups, num_layers].
        place: how many blocks come before each [num_item_groups, num_layers].
        edges: rows before each item group, and all rows [num_item_groups + 1].
        rows: rows of which something is held with the first k blocks [num_blocks + 1].
        parts: bytes with the first k blocks.
    """

    group: int
    num_users: int
    worth: NDArray[np.float64]
    place: NDArray[np.int64]
    edges: NDArray[np.int64]
    rows: NDArray[np.int64]
    parts: ByteParts

    @classmethod
    def of_group(cls, embedding: ElasticEmbedding, group: int, num_users: int) -> GroupBlocks:
        """Those of a user group of an embedding."""
        layout, dim = embedding.layout, embedding.embedding_dim
        weights = embedding.block_weights.detach()[group : group + 1]
        costs = embedding.block_costs()
        order = order_blocks(weights, costs, layout)[0].numpy()
        which = embedding.item_group[0 if len(embedding.item_group) == 1 else group].numpy()
        sizes = np.bincount(which, minlength=len(costs)).astype(np.int64)
        listed = not layout.nested and bool((np.diff(which) < 0).any())
        per_byte = (weights[0] / costs).numpy().astype(np.float64)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        item_group = order // costs.shape[1]
        is_first = np.zeros(len(order), dtype=bool)
        is_first[np.unique(item_group, return_index=True)[1]] = True
        return cls(
            group,
            num_users,
            worth=per_byte / max(per_byte.max(initial=0), np.finfo(np.float64).tiny),
            place=place.reshape(per_byte.shape),
            edges=np.concatenate([[0], np.cumsum(sizes)]),
            rows=np.concatenate([[0], np.cumsum(sizes[item_group] * is_first)]),
            parts=split_bytes(layout, sizes, order, dim, embedding.num_embeddings, listed=listed),
        )

    def count(self, budget_bytes: int) -> int:
        """Blocks that a budget keeps; 0 where it has no room for the first."""
        return max(0, int(np.searchsorted(self.parts.total, budget_bytes, side="right")) - 1)

    def held(self, budget_bytes: int) -> dict[str, int]:
        """Blocks, rows and bytes held under a budget, and what the bytes are spent on."""
        count = self.count(budget_bytes)
        parts = {name: int(each[count]) for name, each in self.parts._asdict().items()}
        return {
            "budget": budget_bytes,
            "blocks": count,
            "rows": int(self.rows[count]),
            "bytes": int(self.parts.total[count]),
            **parts,
        }

    def cells(self, layout: Layout) -> list[dict[str, float]]:
        """The cells that a picture of the blocks draws.

        Each has its ends ``x`` and ``x2`` (rows by rank from 1, or item groups in the columns layout),
        its layer ``y``, the power of ten of its worth per byte, and ``place``, how many blocks come
        before the last in it.
        """
        count, num_layers = self.worth.shape
        starts = np.arange(count)
        if count > MAX_COLUMNS:
            spread = np.geomspace(1, count, MAX_COLUMNS) if layout.nested else np.linspace(
                1, count, MAX_COLUMNS
            )  # fmt: skip
            starts = np.unique(spread.astype(np.int64)) - 1
        ends = np.append(starts[1:], count)
        worth = np.add.reduceat(self.worth, starts) / (ends - starts)[:, None]
        place = np.maximum.reduceat(self.place, starts)
        power = np.log10(np.maximum(worth, 10**_LEAST_POWER))
        edges = self.edges + 1 if layout.nested else np.arange(count + 1)
        return [
            {
                "x": int(edges[starts[at]]),
                "x2": int(edges[ends[at]]),
                "y": layer,
                "power": round(float(power[at, layer]), 2),
                "place": int(place[at, layer]),
            }
            for at in range(len(starts))
            for layer in range(num_layers)
        ]


def layer_names(layout: Layout, dim: int) -> list[str]:
    """The name of each layer: bits of a value, or columns."""
    if not layout.nested:
        starts = range(0, dim, layout.block_dim)
        return [f"{start}-{min(start + layout.block_dim, dim) - 1}" for start in starts]
    names, before = [], 0
    for bits in layout.layer_bits:
        names.append(str(before + 1) if bits == 1 else f"{before + 1}-{before + bits}")
        before += bits
    return names


def budget_steps(groups: Sequence[GroupBlocks], measured: Sequence[int]) -> list[int]:
    """Budgets on a slider for all of these groups, ascending: of even ratios, and those measured."""
    least = max(int(each.parts.total[min(1, len(each.rows) - 1)]) for each in groups)
    most = max(int(each.parts.total[-1]) for each in groups)
    even = np.geomspace(max(least, 1), max(most, 1), _STEPS).round().astype(np.int64)
    return sorted({*even.tolist(), *(budget for budget in measured if least <= budget <= most)})


def largest_groups(
    user_group: NDArray[np.int64], num_groups: int, count: int
) -> list[tuple[int, int]]:
    """The groups of most users, and how many users each has."""
    sizes = np.bincount(user_group, minlength=num_groups)
    order = np.argsort(-sizes, kind="stable")[:count]
    return [(int(group), int(sizes[group])) for group in order if sizes[group]]
