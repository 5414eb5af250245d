"""The stages of a run that several processes share; see :mod:`peel_ext.train.stages`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.data import ItemLists
from peel_ext.format import Layout
from peel_ext.nn import ElasticEmbedding
from peel_ext.scale.checkpoint import SharedCheckpoint
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.item_prior import weigh_features
from peel_ext.train.layout import layout_of
from peel_ext.train.placement import to_array
from peel_ext.train.pretraining import MakePrior, doubt_losses
from peel_ext.train.run_folder import RunFolder, shared_checkpoint
from peel_ext.train.sharded.bilevel import control_blocks
from peel_ext.train.sharded.blocks import OwnBlocks, cut_blocks
from peel_ext.train.sharded.clustering import cluster_users
from peel_ext.train.sharded.exposure import measure_exposure
from peel_ext.train.sharded.held_out import describe_items
from peel_ext.train.sharded.population import ShardedPopulation
from peel_ext.train.sharded.pretraining import pretrain, scale_weights
from peel_ext.train.sharded.refinement import refine_tables
from peel_ext.train.sharded.row_values import value_rows
from peel_ext.train.sharded.tuning import ShardedJudge
from peel_ext.train.stages import Made, add_refinement
from peel_ext.train.tuning import make_chooser, search_settings
from peel_ext.train.vector_training import DEFAULT_TEMPERATURE
from peel_ext.train.vectors import VectorPair


@dataclass
class ShardedStages:
    """One method per stage, which all ranks run; each returns tensors, whole on rank 0, and facts.

    Attributes:
        folder: folder of the run, which only rank 0 has.
        path: path of that folder, where all ranks keep checkpoints.
        config: all settings.
        data: the own users' training interactions.
        validation: those of a validation part that was given, or None.
        vectors: user and item vectors brought from elsewhere, which only rank 0 has, or None.
        is_given: True if there are such vectors.
        ranks: the processes.
        on_step: told the stage, steps done, steps in all and the loss of a step.
        on_doubt: told what makes the result of a stage doubtful.
        facts: facts about the finished stages, by name.
        kept: own rows of what stages made or rank 0 has read, by name.
    """

    folder: RunFolder | None
    path: Path
    config: PipelineConfig
    data: ShardedData
    validation: ItemLists | None
    vectors: VectorPair | None
    is_given: bool
    ranks: Collectives
    on_step: Callable[[str, int, int, float], None]
    on_doubt: Callable[[str], None]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, NDArray[Any]] = field(default_factory=dict)

    def tuning(self) -> Made:
        """The temperature, the dimensions and the weights of the prior, given or chosen."""
        config = self.config
        if self.is_given:
            return {}, {"temperature": config.pretraining.temperature or DEFAULT_TEMPERATURE}
        tuned = search_settings(
            self._judge, config.tuning, config.pretraining, self.data.timestamps is not None,
            self.validation is not None, self._steps("tuning"), self._checkpoint("tuning"),
        )  # fmt: skip
        prior = [round(weight, 4) for weight in tuned.prior]
        facts = {"temperature": tuned.temperature, "embedding_dim": tuned.embedding_dim}
        return {"qualities": tuned.qualities}, {**facts, "prior": prior}

    def pretraining(self) -> Made:
        """User and item vectors."""
        if self.is_given:
            arrays = {} if self.vectors is None else self.vectors._asdict()
            self._deal(("users", "items"), arrays)
            return arrays, {"given": True}
        tuned, sent = self.facts["tuning"], self.ranks.sent_bytes
        settings = dataclasses.replace(
            self.config.pretraining,
            temperature=tuned["temperature"],
            embedding_dim=tuned["embedding_dim"],
        )
        chosen: dict[str, Any] = {}
        made = pretrain(
            self._shard, settings, self.ranks,
            prior=self._weigh_or_choose(tuned["prior"], chosen),
            on_progress=self._steps("pretraining"), checkpoint=self._checkpoint("pretraining"),
            device=self.config.device,
        )  # fmt: skip
        doubt = doubt_losses(made.losses, settings)
        if doubt is not None:
            self.on_doubt(doubt)
        sent = int(self.ranks.total(self.ranks.sent_bytes - sent))
        self.kept |= {"users": made.users, "items": made.items}
        tensors = {name: self._collect(self.kept[name]) for name in ("users", "items")}
        facts: dict[str, Any] = {"steps": len(made.losses)}
        if len(made.losses):
            facts["loss"] = round(float(made.losses[-1]), 4)
            facts |= {"ranks": self.ranks.size, "bytes_per_step": sent // len(made.losses)}
        return {**tensors, "losses": made.losses}, {**facts, **chosen, "prior": made.prior}

    def _judge(self) -> ShardedJudge:
        config = self.config
        return ShardedJudge.of(
            self.data, config.tuning, config.split.method, self.validation,
            config.pretraining.weight_scale, self.ranks, config.device,
        )  # fmt: skip

    def _weigh_or_choose(
        self, weights: list[float], chosen: dict[str, Any]
    ) -> NDArray[np.float32] | MakePrior:
        """The prior of the own items; with a validation part what chooses it, and notes its weights."""
        if self.validation is None or self.config.pretraining.prior is not None:
            return weigh_features(describe_items(self.data, self.ranks), weights)
        # Nothing is held out: what it has is what is trained on, once in memory.
        judge = dataclasses.replace(self._judge(), shard=self._shard)
        return make_chooser(judge, weights, chosen)

    def clustering(self) -> Made:
        """User groups."""
        centroids, groups = cluster_users(
            self.kept["users"], self.data.users, self.config.clustering, self.data.items.size,
            self.ranks, prior=self._prior,
        )  # fmt: skip
        self.kept |= {"user_group": groups, "centroids": centroids}
        facts = {"groups": len(centroids)}
        return {"centroids": centroids, "user_group": self._collect(groups)}, facts

    def refinement(self) -> Made:
        """The additions to some rows of every group; nothing where refinement is off."""
        if self.config.refinement.steps == 0:
            return {}, {"steps": 0}
        population = self._population()
        values = measure_exposure(population, self.config.exposure)
        made = refine_tables(
            population, values, self._layout(), self.config.refinement,
            on_progress=self._steps("refinement"),
            checkpoint=self._checkpoint("refinement", groups=population.groups),
        )  # fmt: skip
        tensors = {name: self._collect(own) for name, own in made._asdict().items()}
        return tensors, {"rows_per_group": made.rows.shape[1]}

    def block_weights(self) -> Made:
        """The item table and the worth of its blocks to every group: an embedding's state.

        With the losses of a controller that has some.
        """
        population, layout = self._population(), self._layout()
        values, chosen = value_rows(population, layout, self.config)
        blocks = cut_blocks(population, values, layout)
        del values
        weight = self.ranks.collect(torch.from_numpy(population.item_vectors))
        embedding = self._embed(weight, layout) if self.ranks.is_first else None
        del weight
        losses = self._control(population, blocks, layout, embedding)
        weights, item_group = self.ranks.collect(blocks.block_weights), blocks.item_group
        del blocks
        if layout.nested:
            item_group = self.ranks.collect(item_group)
        if self.folder is None or embedding is None:
            return {}, {}
        refined = self.folder.load("refinement")
        if refined:
            add_refinement(embedding, refined["rows"], refined["additions"])
        embedding.block_weights, embedding.item_group = weights, item_group
        state = {name: to_array(tensor) for name, tensor in embedding.state_dict().items()}
        if losses is not None:
            state["losses"] = losses
        return state, {"blocks_per_group": weights[0].numel(), **chosen}

    def _embed(self, weight: torch.Tensor, layout: Layout) -> ElasticEmbedding:
        """The item table, with its rotation, before its blocks are worth anything."""
        embedding = ElasticEmbedding.from_pretrained(
            weight, num_groups=len(self.kept["centroids"]), layout=layout
        )
        if layout.nested:
            embedding.fit_rotation(keep_mean=self._prior > 0)
            # As large as the table, and in the way of what the ranks bring together.
            embedding.item_group = embedding.item_group[:1].clone()
        return embedding

    def _control(
        self,
        population: ShardedPopulation,
        blocks: OwnBlocks,
        layout: Layout,
        embedding: ElasticEmbedding | None,
    ) -> NDArray[np.float64] | None:
        """The losses of a controller that changes block weights, or None.

        Args:
            population: users, interactions and vectors.
            blocks: those whose weights it changes.
            layout: layout of the blocks.
            embedding: on rank 0, whose rotation all take.
        """
        if self.config.control.controller != "bilevel":
            return None
        rotation, dim = None, population.item_vectors.shape[1]
        if layout.nested:
            rotation = torch.zeros(0, dtype=torch.float32, device="cpu")
            if embedding is not None and embedding.rotation is not None:
                rotation = embedding.rotation
            rotation = self.ranks.copy(rotation, (dim, dim))
        return control_blocks(
            population, blocks, layout, rotation, self.config.control,
            on_progress=self._steps("block_weights"),
            checkpoint=lambda rows: self._checkpoint("block_weights", rows=rows),
        )  # fmt: skip

    def load(self, stage: str) -> None:
        """Deals out what a stage that was finished before has left."""
        names = {"pretraining": ("users", "items"), "clustering": ("user_group",)}.get(stage, ())
        arrays = {} if self.folder is None or not names else self.folder.load(stage)
        if stage == "clustering":
            self.kept["centroids"] = self._copy(arrays.get("centroids"))
        self._deal(names, arrays)

    def _deal(self, names: tuple[str, ...], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Gives every rank its rows of arrays that rank 0 has."""
        for name in names:
            partition = self.data.items if name == "items" else self.data.users
            whole = arrays.get(name, np.zeros(0))
            dtype, *shape = self.ranks.tell([whole.dtype.str, *whole.shape[1:]])
            nothing = np.zeros((0, *shape), dtype=np.dtype(dtype))
            tensor = torch.from_numpy(np.ascontiguousarray(arrays.get(name, nothing)))
            self.kept[name] = self.ranks.deal(tensor, partition.edges.tolist()).numpy()

    def _copy(self, array: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """What rank 0 has, on all ranks."""
        shape = self.ranks.tell([] if array is None else [*array.shape])
        own = np.zeros(0, dtype=np.float32) if array is None else array
        return np.asarray(self.ranks.copy(torch.from_numpy(own), shape).numpy())

    def _population(self) -> ShardedPopulation:
        own = self.data.users.own(self.ranks.rank)
        return ShardedPopulation(
            np.arange(own.start, own.stop), self.kept["users"], self.kept["items"],
            self.kept["user_group"], self.kept["centroids"], self.data.lists, self._shard,
            self.facts["tuning"]["temperature"], self._prior, self.ranks,
            self.config.device,
        )  # fmt: skip

    def _layout(self) -> Layout:
        return layout_of(dataclasses.asdict(self.config), self.kept["items"].shape[1])

    def _collect(self, own: NDArray[Any]) -> NDArray[Any]:
        """The rows of all ranks, on rank 0."""
        return to_array(self.ranks.collect(torch.from_numpy(own)))

    @property
    def _prior(self) -> float:
        """The component of every user along the axis of the prior; 0 where rows have none."""
        return float(self.facts["pretraining"].get("prior", 0))

    @cached_property
    def _shard(self) -> ItemShard:
        data = self.data
        weights = scale_weights(data.weights, data.lists, self.config.pretraining.weight_scale)
        return data.with_items(weights, self.ranks)

    def _checkpoint(self, stage: str, **more: Partition) -> SharedCheckpoint:
        partitions = {"users": self.data.users, "items": self.data.items, **more}
        path = shared_checkpoint(self.path, stage)
        return SharedCheckpoint(path, partitions, self.ranks)

    def _steps(self, stage: str) -> Callable[[int, int, float], None]:
        return lambda done, total, loss: self.on_step(stage, done, total, loss)
