"""
Native kernels of peel_ext.
"""

from __future__ import annotations

import collections.abc
import typing

import typing_extensions

__all__: list[str] = [
    "Pee",
    "StoreTable",
    "compiler",
    "cuda",
    "first_out_of_range",
    "gathered_score",
    "grouped_lookup",
    "grouped_lookup_backward",
    "isa",
    "isas",
    "num_threads",
    "set_num_threads",
    "topk_blocks",
]

class StoreTable:
    def __init__(
        self,
        layout: typing.SupportsInt | typing.SupportsIndex,
        value_type: typing.SupportsInt | typing.SupportsIndex,
        dim: typing.SupportsInt | typing.SupportsIndex,
        block_dim: typing.SupportsInt | typing.SupportsIndex,
        layer_bits: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        num_embeddings: typing.SupportsInt | typing.SupportsIndex,
        num_groups: typing.SupportsInt | typing.SupportsIndex,
        weight: typing.SupportsInt | typing.SupportsIndex,
        weight_stride: typing.SupportsInt | typing.SupportsIndex,
        refinement: typing.SupportsInt | typing.SupportsIndex,
        refinement_slot: typing.SupportsInt | typing.SupportsIndex,
        num_refined: typing.SupportsInt | typing.SupportsIndex,
        store: typing.SupportsInt | typing.SupportsIndex,
        row_bytes: typing.SupportsInt | typing.SupportsIndex,
        scales: typing.SupportsInt | typing.SupportsIndex,
        scales_per_row: typing.SupportsInt | typing.SupportsIndex,
        item_group: typing.SupportsInt | typing.SupportsIndex,
        item_group_stride: typing.SupportsInt | typing.SupportsIndex,
        held: typing.SupportsInt | typing.SupportsIndex,
        num_item_groups: typing.SupportsInt | typing.SupportsIndex,
        centroids: typing.SupportsInt | typing.SupportsIndex,
        rotation: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...

class Pee:
    def __init__(
        self, buffer: typing_extensions.Buffer, centroids: typing_extensions.Buffer
    ) -> None: ...
    def lookup(
        self,
        count: typing.SupportsInt | typing.SupportsIndex,
        indices: typing.SupportsInt | typing.SupportsIndex,
        index_bytes: typing.SupportsInt | typing.SupportsIndex,
        out: typing.SupportsInt | typing.SupportsIndex,
    ) -> tuple[int, int]: ...
    def score(
        self,
        users: typing.SupportsInt | typing.SupportsIndex,
        num_users: typing.SupportsInt | typing.SupportsIndex,
        user_stride: typing.SupportsInt | typing.SupportsIndex,
        exclude_indptr: typing.SupportsInt | typing.SupportsIndex,
        exclude: typing.SupportsInt | typing.SupportsIndex,
        n: typing.SupportsInt | typing.SupportsIndex,
        scores: typing.SupportsInt | typing.SupportsIndex,
        indices: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def num_embeddings(self) -> int: ...

def first_out_of_range(
    values: typing.SupportsInt | typing.SupportsIndex,
    bytes: typing.SupportsInt | typing.SupportsIndex,
    count: typing.SupportsInt | typing.SupportsIndex,
    limit: typing.SupportsInt | typing.SupportsIndex,
) -> int: ...
def gathered_score(
    weight: typing.SupportsInt | typing.SupportsIndex,
    num_embeddings: typing.SupportsInt | typing.SupportsIndex,
    dim: typing.SupportsInt | typing.SupportsIndex,
    weight_stride: typing.SupportsInt | typing.SupportsIndex,
    candidates: typing.SupportsInt | typing.SupportsIndex,
    num_candidates: typing.SupportsInt | typing.SupportsIndex,
    users: typing.SupportsInt | typing.SupportsIndex,
    num_users: typing.SupportsInt | typing.SupportsIndex,
    user_stride: typing.SupportsInt | typing.SupportsIndex,
    exclude_indptr: typing.SupportsInt | typing.SupportsIndex,
    exclude: typing.SupportsInt | typing.SupportsIndex,
    n: typing.SupportsInt | typing.SupportsIndex,
    scores: typing.SupportsInt | typing.SupportsIndex,
    indices: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def grouped_lookup(
    table: StoreTable,
    count: typing.SupportsInt | typing.SupportsIndex,
    indices: typing.SupportsInt | typing.SupportsIndex,
    groups: typing.SupportsInt | typing.SupportsIndex,
    group: typing.SupportsInt | typing.SupportsIndex,
    index_bytes: typing.SupportsInt | typing.SupportsIndex,
    out: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[int, int]: ...
def grouped_lookup_backward(
    table: StoreTable,
    count: typing.SupportsInt | typing.SupportsIndex,
    indices: typing.SupportsInt | typing.SupportsIndex,
    groups: typing.SupportsInt | typing.SupportsIndex,
    group: typing.SupportsInt | typing.SupportsIndex,
    index_bytes: typing.SupportsInt | typing.SupportsIndex,
    grad_out: typing.SupportsInt | typing.SupportsIndex,
    targets: typing.SupportsInt | typing.SupportsIndex,
    mean_duplicates: bool,
    grad: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[int, int]: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def num_threads() -> int: ...
def set_num_threads(count: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def topk_blocks(
    weights: typing.SupportsInt | typing.SupportsIndex,
    weight_bytes: typing.SupportsInt | typing.SupportsIndex,
    num_groups: typing.SupportsInt | typing.SupportsIndex,
    n: typing.SupportsInt | typing.SupportsIndex,
    weight_stride: typing.SupportsInt | typing.SupportsIndex,
    k: typing.SupportsInt | typing.SupportsIndex,
    costs: typing.SupportsInt | typing.SupportsIndex,
    cost_stride: typing.SupportsInt | typing.SupportsIndex,
    budget_bytes: typing.SupportsInt | typing.SupportsIndex,
    indices: typing.SupportsInt | typing.SupportsIndex,
) -> int: ...

__version__: str
compiler: str
cuda: bool = False
