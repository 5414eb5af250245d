"""The stages of a run: what each reads, makes and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.data import IdMap, ItemLists
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.block_weights.bilevel import control_blocks
from peel_ext.train.block_weights.exposure import measure_exposure
from peel_ext.train.block_weights.row_values import value_rows
from peel_ext.train.clustering import cluster_users
from peel_ext.train.held_out import TrainingData
from peel_ext.train.item_prior import describe_items, measure_recency, weigh_features
from peel_ext.train.layout import layout_of
from peel_ext.train.placement import to_array
from peel_ext.train.population import Population
from peel_ext.train.pretraining import MakePrior, doubt_losses, pretrain
from peel_ext.train.refinement import refine_tables
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.tuning import ListJudge, choose_settings, make_chooser
from peel_ext.train.vector_training import DEFAULT_TEMPERATURE
from peel_ext.train.vectors import VectorPair

Made = tuple[dict[str, NDArray[Any]], dict[str, Any]]


@dataclass(frozen=True)
class Stages:
    """One method per stage; each returns tensors, and facts for the index.

    Attributes:
        folder: the run folder, which earlier stages are read from.
        config: all settings.
        split: the parts of the split in CSR form, as of
            :func:`peel_ext.train.pipeline.split_arrays`; the weights and times of training interactions
            and a validation part where there are any.
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
        """The temperature, the dimensions and the weights of the prior, given or chosen."""
        settings = self.config.pretraining
        if self.vectors is not None:
            return {}, {"temperature": settings.temperature or DEFAULT_TEMPERATURE}
        tuned = choose_settings(
            self._training_data(),
            self.config.tuning,
            settings,
            method=self.config.split.method,
            validation=self._validation(),
            on_progress=self._steps("tuning"),
            checkpoint=self.folder.checkpoint("tuning"),
            device=self.config.device,
        )
        prior = [round(weight, 4) for weight in tuned.prior]
        facts = {"temperature": tuned.temperature, "embedding_dim": tuned.embedding_dim}
        return {"qualities": tuned.qualities}, {**facts, "prior": prior}

    def pretraining(self) -> Made:
        """User and item vectors."""
        if self.vectors is not None:
            users, items = self.vectors
            return {"users": users, "items": items}, {"given": True}
        data, tuned = self._training_data(), self.folder.stages["tuning"]
        chosen: dict[str, Any] = {}
        made = pretrain(
            data.lists,
            data.num_items,
            dataclasses.replace(
                self.config.pretraining,
                temperature=tuned["temperature"],
                embedding_dim=tuned["embedding_dim"],
            ),
            weights=data.weights,
            prior=self._weigh_or_choose(data, tuned["prior"], chosen),
            on_progress=self._steps("pretraining"),
            checkpoint=self.folder.checkpoint("pretraining"),
            device=self.config.device,
        )
        doubt = doubt_losses(made.losses, self.config.pretraining)
        if doubt is not None:
            self.on_doubt(doubt)
        facts: dict[str, Any] = {"steps": len(made.losses)}
        if len(made.losses):
            facts["loss"] = round(float(made.losses[-1]), 4)
        tensors: dict[str, NDArray[Any]] = {
            "users": made.users,
            "items": made.items,
            "losses": made.losses,
        }
        return tensors, {**facts, **chosen, "prior": made.prior}

    def _weigh_or_choose(
        self, data: TrainingData, weights: list[float], chosen: dict[str, Any]
    ) -> NDArray[np.float32] | MakePrior:
        """The prior of the items; with a validation part what chooses it, and notes its weights."""
        validation, config = self._validation(), self.config
        if validation is None or config.pretraining.prior is not None:
            recency = None if data.timestamps is None else measure_recency(data.timestamps)
            return weigh_features(
                describe_items(data.lists.items, data.num_items, recency), weights
            )
        judge = ListJudge.of(data, config.tuning, config.split.method, validation, config.device)
        return make_chooser(judge, weights, chosen)

    def clustering(self) -> Made:
        """User groups."""
        users = self.folder.load("pretraining")["users"]
        num_items = len(self.ids["items"])
        centroids, user_group = cluster_users(
            users, self.config.clustering, num_items, prior=self._prior()
        )
        return {"centroids": centroids, "user_group": user_group}, {"groups": len(centroids)}

    def refinement(self) -> Made:
        """The additions to some rows of every group; nothing where refinement is off."""
        if self.config.refinement.steps == 0:
            return {}, {"steps": 0}
        population = self._population()
        made = refine_tables(
            population,
            measure_exposure(population, self.config.exposure, self.config.device),
            layout_of(self.folder.config, population.item_vectors.shape[1]),
            self.config.refinement,
            on_progress=self._steps("refinement"),
            checkpoint=self.folder.checkpoint("refinement"),
            device=self.config.device,
        )
        return dict(made._asdict()), {"rows_per_group": made.rows.shape[1]}

    def block_weights(self) -> Made:
        """The item table and the worth of its blocks to every group: an embedding's state.

        With the losses of a controller that has some.
        """
        population, control = self._population(), self.config.control
        layout = layout_of(self.folder.config, population.item_vectors.shape[1])
        values, chosen = value_rows(population, layout, self.config)
        embedding = ElasticEmbedding.from_pretrained(
            # Torch's own memory: matrix products round differently at another alignment.
            torch.from_numpy(population.item_vectors).clone().to(self.config.device),
            num_groups=len(population.centroids),
            layout=layout,
        )
        if embedding.layout.nested:
            embedding.fit_rotation(keep_mean=self._prior() > 0)
        refined = self.folder.load("refinement")
        if refined:
            add_refinement(embedding, refined["rows"], refined["additions"])
        embedding.set_row_values(torch.from_numpy(values))
        losses = None
        if control.controller == "bilevel":
            losses = control_blocks(
                embedding,
                population,
                control,
                on_progress=self._steps("block_weights"),
                checkpoint=self.folder.checkpoint("block_weights"),
            )
        state = {name: to_array(tensor) for name, tensor in embedding.state_dict().items()}
        if losses is not None:
            state["losses"] = losses
        return state, {"blocks_per_group": embedding.block_weights[0].numel(), **chosen}

    def _population(self) -> Population:
        vectors, groups = self.folder.load("pretraining"), self.folder.load("clustering")
        return Population(
            vectors["users"],
            vectors["items"],
            groups["user_group"],
            groups["centroids"],
            self._train(),
            self.folder.stages["tuning"]["temperature"],
            self._prior(),
        )

    def _training_data(self) -> TrainingData:
        return TrainingData(
            self._train(), len(self.ids["items"]), self.split.get("train_weights"),
            self.split.get("train_timestamps"),
        )  # fmt: skip

    def _train(self) -> ItemLists:
        return ItemLists.from_arrays(self.split, "train")

    def _prior(self) -> float:
        """The component of every user along the axis of the prior; 0 where rows have none."""
        return float(self.folder.stages["pretraining"].get("prior", 0))

    def _validation(self) -> ItemLists | None:
        """The validation part that was given, or None."""
        if "validation_indptr" not in self.split:
            return None
        return ItemLists.from_arrays(self.split, "validation")

    def _steps(self, stage: str) -> Callable[[int, int, float], None]:
        return lambda done, total, loss: self.on_step(stage, done, total, loss)


class Stage(NamedTuple):
    """One stage of a run."""

    name: str
    make: Callable[[Stages], Made]
    sections: tuple[str, ...]  # of the settings, that it reads beside those before it


#: In the order in which they run.
STAGES = (
    Stage("data", Stages.data, ("split",)),
    Stage("tuning", Stages.tuning, ("tuning", "pretraining", "vectors")),
    Stage("pretraining", Stages.pretraining, ()),
    Stage("clustering", Stages.clustering, ("clustering",)),
    Stage("refinement", Stages.refinement, ("refinement", "exposure", "layout", "columns")),
    Stage("block_weights", Stages.block_weights, ("control",)),
)


def add_refinement(
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
            at, added = (
                torch.from_numpy(part).to(table.device) for part in (own, additions[group])
            )
            table[slots[group, at].long()] = added
