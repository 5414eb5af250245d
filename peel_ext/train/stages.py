"""What each stage of a run reads, makes and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.data import IdMap
from peel_ext.format import resolve_layout
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.bilevel import control_blocks
from peel_ext.train.clustering import cluster_users
from peel_ext.train.control import regress_row_values
from peel_ext.train.doubts import doubt_losses
from peel_ext.train.exposure import measure_exposure
from peel_ext.train.lists import Lists
from peel_ext.train.population import Population
from peel_ext.train.pretraining import DEFAULT_TEMPERATURE, pretrain
from peel_ext.train.refinement import refine_tables
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.tuning import choose_temperature
from peel_ext.train.vectors import VectorPair

#: The stages in order, and the sections of the settings each reads beside those before it.
DEPENDS = {
    "data": ("split",),
    "tuning": ("tuning", "pretraining", "vectors"),
    "pretraining": (),
    "clustering": ("clustering",),
    "refinement": ("refinement", "exposure", "layout"),
    "block_weights": ("control",),
}

Made = tuple[dict[str, NDArray[Any]], dict[str, Any]]


@dataclass(frozen=True)
class Stages:
    """One method per stage; each returns tensors, and facts for the index.

    Attributes:
        folder: where earlier stages are read from.
        config: all settings.
        split: the parts of the split in CSR form, as of
            :func:`peel_ext.train.pipeline.split_arrays`; the weights of training interactions and
            a validation part where there are any.
        split_facts: how the split was made, and what it left out, if anything.
        ids: id maps by name: users, items, new_users.
        vectors: user and item vectors brought from elsewhere, or None.
        on_step: told the stage, steps done, steps in all and the loss of a step.
        on_doubt: told what makes the result of a stage doubtful.
    """

    folder: RunFolder
    config: PipelineConfig
    split: dict[str, NDArray[Any]]
    split_facts: dict[str, Any]
    ids: dict[str, IdMap]
    vectors: VectorPair | None
    on_step: Callable[[str, int, int, float], None]
    on_doubt: Callable[[str], None]

    def data(self) -> Made:
        """The interactions, and the id of every row."""
        for name, ids in self.ids.items():
            self.folder.write_document(f"{name}.json", ids.to_ids(np.arange(len(ids))))
        counts = {name: len(ids) for name, ids in self.ids.items()}
        lengths = {part: len(self.split[f"{part}_items"]) for part in ("train", "test")}
        return dict(self.split), {**counts, **lengths, **self.split_facts}

    def tuning(self) -> Made:
        """The temperature, given or chosen."""
        given = self.config.pretraining.temperature
        if self.vectors is not None and given is None:
            given = DEFAULT_TEMPERATURE
        if given is not None:
            return {}, {"temperature": given}
        temperature, recalls = choose_temperature(
            *self._train(),
            self.config.tuning,
            self.config.pretraining,
            weights=self.split.get("train_weights"),
            validation=self._validation(),
            on_progress=self._steps("tuning"),
            checkpoint=self.folder.checkpoint("tuning"),
        )
        return {"recalls": recalls}, {"temperature": temperature}

    def pretraining(self) -> Made:
        """User and item vectors."""
        if self.vectors is not None:
            users, items = self.vectors
            return {"users": users, "items": items}, {"given": True}
        temperature = self.folder.stages["tuning"]["temperature"]
        made = pretrain(
            *self._train(),
            dataclasses.replace(self.config.pretraining, temperature=temperature),
            weights=self.split.get("train_weights"),
            on_progress=self._steps("pretraining"),
            checkpoint=self.folder.checkpoint("pretraining"),
        )
        doubt = doubt_losses(made.losses, self.config.pretraining)
        if doubt is not None:
            self.on_doubt(doubt)
        loss = {"loss": round(float(made.losses[-1]), 4)} if len(made.losses) else {}
        return made._asdict(), {"steps": len(made.losses), **loss}

    def clustering(self) -> Made:
        """User groups."""
        users = self.folder.load("pretraining")["users"]
        num_items = len(self.ids["items"])
        centroids, user_group = cluster_users(users, self.config.clustering, num_items)
        return {"centroids": centroids, "user_group": user_group}, {"groups": len(centroids)}

    def refinement(self) -> Made:
        """What is added to some rows of every group; nothing where refinement is off."""
        if self.config.refinement.steps == 0:
            return {}, {"steps": 0}
        population = self._population()
        rows, additions = refine_tables(
            population,
            self._exposure(population),
            resolve_layout(self.config.layout),
            self.config.refinement,
            on_progress=self._steps("refinement"),
        )
        return {"rows": rows, "additions": additions}, {"rows_per_group": rows.shape[1]}

    def block_weights(self) -> Made:
        """The item table and the worth of its blocks to every group: an embedding's state."""
        population, control = self._population(), self.config.control
        if control.controller == "regression":
            values = regress_row_values(population, self.config.exposure, control)
        else:
            values = self._exposure(population)
        embedding = ElasticEmbedding.from_pretrained(
            torch.from_numpy(population.item_vectors),
            num_groups=len(population.centroids),
            layout=self.config.layout,
        )
        if embedding.layout.nested:
            embedding.fit_rotation()
        refined = self.folder.load("refinement")
        if refined:
            _add_refinement(embedding, refined["rows"], refined["additions"])
        embedding.set_row_values(torch.from_numpy(values))
        if control.controller == "bilevel":
            control_blocks(embedding, population, control, on_progress=self._steps("block_weights"))
        state = {name: tensor.numpy() for name, tensor in embedding.state_dict().items()}
        return state, {"blocks_per_group": embedding.block_weights[0].numel()}

    def _population(self) -> Population:
        vectors, groups = self.folder.load("pretraining"), self.folder.load("clustering")
        return Population(
            vectors["users"],
            vectors["items"],
            groups["user_group"],
            groups["centroids"],
            self._train()[:2],
            self.folder.stages["tuning"]["temperature"],
        )

    def _exposure(self, population: Population) -> NDArray[np.float64]:
        return measure_exposure(
            population.user_vectors,
            population.item_vectors,
            population.user_group,
            len(population.centroids),
            *population.lists,
            self.config.exposure,
        )

    def _train(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        return self.split["train_indptr"], self.split["train_items"], len(self.ids["items"])

    def _validation(self) -> Lists | None:
        """The validation part that was given, or None."""
        if "validation_indptr" not in self.split:
            return None
        return self.split["validation_indptr"], self.split["validation_items"]

    def _steps(self, stage: str) -> Callable[[int, int, float], None]:
        return lambda done, total, loss: self.on_step(stage, done, total, loss)


def _add_refinement(
    embedding: ElasticEmbedding, rows: NDArray[np.int64], additions: NDArray[np.float32]
) -> None:
    """Refines rows [num_groups, m] of every group by additions [num_groups, m, dim]."""
    for group, own in enumerate(rows):
        embedding.refine_rows(group, torch.from_numpy(own))
    slots, table = embedding.refinement_slot, embedding.refinement
    assert slots is not None  # made by refine_rows
    assert table is not None
    with torch.no_grad():
        for group, own in enumerate(rows):
            table[slots[group, torch.from_numpy(own)].long()] = torch.from_numpy(additions[group])
