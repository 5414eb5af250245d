"""The parts of the study: what each changes, in the settings or in the tables of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.config import ColumnsConfig, PipelineConfig
from peel_ext.evaluation.curves import rival_inputs
from peel_ext.train.pipeline import TrainedRun

Change = Callable[[PipelineConfig], PipelineConfig]

#: Large enough that exposure only orders rows that are equally popular.
_ONLY_POPULARITY = 1e6


@dataclass(frozen=True)
class Part:
    """One difference to a base.

    Attributes:
        says: what it is called in tables.
        base: the part it differs from; None: it is a base itself.
        change: of the settings of the base, or of the default ones; None: the run of the base is
            measured, another way.
        table: makes the embedding to measure from a run; None: that of the run.
        measures: ``"groups"``, the table of each user's group; ``"blends"``, a table for each user
            alone; ``"rivals"``, other ways to make the base's table small.
    """

    says: str
    base: str | None = "full"
    change: Change | None = None
    table: Callable[[TrainedRun], ElasticEmbedding] | None = None
    measures: str = "groups"


def _set(section: str, **settings: Any) -> Change:
    """A change of settings of one section."""

    def change(config: PipelineConfig) -> PipelineConfig:
        changed = dataclasses.replace(getattr(config, section), **settings)
        return dataclasses.replace(config, **{section: changed})

    return change


def _columns(value_type: str) -> Change:
    return lambda config: dataclasses.replace(
        config, layout="columns", columns=ColumnsConfig(value_type=value_type)
    )


def _in_planes(config: PipelineConfig) -> PipelineConfig:
    return dataclasses.replace(config, layout="planes")


def _table(run: TrainedRun, layout: PlanesLayout, *, rotated: bool) -> ElasticEmbedding:
    """The rows of a run in another layout, worth to each group what exposure says."""
    items, _, exposure = rival_inputs(run)
    made = ElasticEmbedding.from_pretrained(
        torch.from_numpy(items), num_groups=len(exposure), layout=layout
    )
    if rotated:
        made.fit_rotation(keep_mean=run.prior > 0)
    made.set_row_values(torch.from_numpy(exposure))
    return made


def _without_rotation(run: TrainedRun) -> ElasticEmbedding:
    return _table(run, PlanesLayout(), rotated=False)


def _of_one_width(bits: int) -> Callable[[TrainedRun], ElasticEmbedding]:
    return lambda run: _table(run, PlanesLayout((bits,)), rotated=True)


def _of_popular_columns(num_item_groups: int) -> Callable[[TrainedRun], ElasticEmbedding]:
    """Columns of int8 whose item groups are runs of items by popularity, which no setting has."""

    def made(run: TrainedRun) -> ElasticEmbedding:
        items, popularity, exposure = rival_inputs(run)
        layout = ColumnsLayout(value_type="int8", num_item_groups=num_item_groups)
        embedding = ElasticEmbedding.from_pretrained(
            torch.from_numpy(items), num_groups=len(exposure), layout=layout
        )
        rank = np.argsort(np.argsort(-popularity.sum(axis=0), kind="stable"))
        embedding.set_item_groups(torch.from_numpy(rank * num_item_groups // len(rank)))
        embedding.set_row_values(torch.from_numpy(exposure))
        return embedding

    return made


#: By what they are called on the command line; a base stands before what differs from it.
PARTS = {
    "full": Part("peel_ext as it is", None, lambda config: config),
    "values-128": Part("128 values a row", None, _set("pretraining", embedding_dim=128)),
    "one-group": Part("one user group for all", change=_set("clustering", num_groups=1)),
    "popularity": Part(
        "the group's popularity, no exposure",
        change=_set("exposure", group_popularity_weight=_ONLY_POPULARITY),
    ),
    "no-prior": Part("no item prior", change=_set("pretraining", prior=(0.0,))),
    "no-rotation": Part("no rotation", table=_without_rotation),
    **{
        f"bits-{bits}": Part(f"{bits} bits for every value", table=_of_one_width(bits))
        for bits in (2, 4, 8)
    },
    "columns": Part("columns of float32", change=_columns("float32")),
    "columns-int8": Part("columns of int8", change=_columns("int8")),
    **{
        f"columns-popular-{count}": Part(
            f"columns of int8, {count} item groups by popularity", table=_of_popular_columns(count)
        )
        for count in (20, 320)
    },
    "refinement": Part("with refinement", change=_set("refinement", steps=60)),
    "refinement-alone": Part(
        "with refinement, no diversity", change=_set("refinement", steps=60, diversity=0.0)
    ),
    "regression": Part("with the regression", change=_set("control", controller="regression")),
    "bilevel": Part("with the bi-level controller", change=_set("control", controller="bilevel")),
    "neighbours": Part("with neighbours (mixture)", change=_set("control", controller="mixture")),
    "blends": Part("with a blend for each user", measures="blends"),
    "rivals": Part("rivals", measures="rivals"),
    "paper": Part("the paper's plain design", None, lambda _: PipelineConfig.paper()),
    "paper-no-refinement": Part("no refinement", "paper", _set("refinement", steps=0)),
    "paper-no-diversity": Part("no diversity", "paper", _set("refinement", diversity=0.0)),
    "paper-exposure": Part("no controller", "paper", _set("control", controller="exposure")),
    "paper-one-group": Part(
        "one user group for all", "paper", _set("clustering", num_groups=1)
    ),
    "paper-no-prior": Part("no item prior", "paper", _set("pretraining", prior=(0.0,))),
    "paper-planes": Part("planes, no columns", "paper", _in_planes),
}  # fmt: skip

#: What is only there with users held out of training.
_OF_NEW_USERS = ("blends",)


def parts_of(protocol: str) -> list[str]:
    """The parts that can be measured under a protocol."""
    return [name for name in PARTS if name not in _OF_NEW_USERS or protocol in ("new", "offline")]
