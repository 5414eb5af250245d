"""The stages of a run that several processes share; see :mod:`peel_ext.train.stages`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig
from peel_ext.data import ItemLists
from peel_ext.nn import ElasticEmbedding
from peel_ext.scale.checkpoint import SharedCheckpoint
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.item_prior import weigh_features
from peel_ext.train.layout import layout_of
from peel_ext.train.placement import to_array
from peel_ext.train.pretraining import doubt_losses
from peel_ext.train.run_folder import RunFolder, shared_checkpoint
from peel_ext.train.sharded.clustering import cluster_users
from peel_ext.train.sharded.exposure import measure_exposure
from peel_ext.train.sharded.held_out import describe_items
from peel_ext.train.sharded.pretraining import pretrain, scale_weights
from peel_ext.train.sharded.tuning import ShardedJudge
from peel_ext.train.stages import Made
from peel_ext.train.tuning import search_settings

#: Groups whose item groups are made at a time.
_GROUPS = 16


@dataclass
class ShardedStages:
    """One method per stage, which all ranks run; each returns tensors, whole on rank 0, and facts.

    Attributes:
        folder: folder of the run, which only rank 0 has.
        path: path of that folder, where all ranks keep checkpoints.
        config: all settings.
        data: the own users' training interactions.
        validation: those of a validation part that was given, or None.
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
    ranks: Collectives
    on_step: Callable[[str, int, int, float], None]
    on_doubt: Callable[[str], None]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, NDArray[Any]] = field(default_factory=dict)

    def tuning(self) -> Made:
        """The temperature, the dimensions and the weights of the prior, given or chosen."""
        config = self.config
        tuned = search_settings(
            lambda: ShardedJudge.of(
                self.data, config.tuning, config.split.method, self.validation,
                config.pretraining.weight_scale, self.ranks,
            ),
            config.tuning, config.pretraining, self.data.timestamps is not None,
            self._steps("tuning"), self._checkpoint("tuning"),
        )  # fmt: skip
        prior = [round(weight, 4) for weight in tuned.prior]
        facts = {"temperature": tuned.temperature, "embedding_dim": tuned.embedding_dim}
        return {"qualities": tuned.qualities}, {**facts, "prior": prior}

    def pretraining(self) -> Made:
        """User and item vectors."""
        tuned, sent = self.facts["tuning"], self.ranks.sent_bytes
        settings = dataclasses.replace(
            self.config.pretraining,
            temperature=tuned["temperature"],
            embedding_dim=tuned["embedding_dim"],
        )
        features = describe_items(self.data, self.ranks)
        made = pretrain(
            self._shard, settings, self.ranks,
            prior=weigh_features(features, tuned["prior"]),
            on_progress=self._steps("pretraining"), checkpoint=self._checkpoint("pretraining"),
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
        return {**tensors, "losses": made.losses}, {**facts, "prior": made.prior}

    def clustering(self) -> Made:
        """User groups."""
        centroids, groups = cluster_users(
            self.kept["users"], self.data.users, self.config.clustering, self.data.items.size,
            self.ranks, prior=self._prior,
        )  # fmt: skip
        self.kept["user_group"] = groups
        facts = {"groups": len(centroids)}
        return {"centroids": centroids, "user_group": self._collect(groups)}, facts

    def refinement(self) -> Made:
        """Nothing: the runs of several processes have no refinement."""
        return {}, {"steps": 0}

    def block_weights(self) -> Made:
        """The item table and the worth of its blocks to every group: an embedding's state."""
        groups = Partition(self.facts["clustering"]["groups"], self.ranks.size)
        values = measure_exposure(
            self.kept["users"], self.kept["items"], self.kept["user_group"], groups, self.data,
            self._shard, self.config.exposure, self.ranks,
        )  # fmt: skip
        weights, item_groups = self._cut(torch.from_numpy(values))
        weight = self.ranks.collect(torch.from_numpy(self.kept["items"]))
        del values
        weights, item_groups = (self.ranks.collect(each) for each in (weights, item_groups))
        if not self.ranks.is_first:
            return {}, {}
        embedding = ElasticEmbedding.from_pretrained(
            weight, num_groups=groups.size, layout=self._layout(weight.shape[1])
        )
        embedding.fit_rotation(keep_mean=self._prior > 0)
        embedding.block_weights, embedding.item_group = weights, item_groups
        state = {name: to_array(tensor) for name, tensor in embedding.state_dict().items()}
        return state, {"blocks_per_group": weights[0].numel()}

    def load(self, stage: str) -> None:
        """Deals out what a stage that was finished before has left."""
        names = {"pretraining": ("users", "items"), "clustering": ("user_group",)}.get(stage, ())
        arrays = {} if self.folder is None or not names else self.folder.load(stage)
        for name in names:
            partition = self.data.items if name == "items" else self.data.users
            whole = arrays.get(name, np.zeros(0))
            dtype, *shape = self.ranks.tell([whole.dtype.str, *whole.shape[1:]])
            nothing = np.zeros((0, *shape), dtype=np.dtype(dtype))
            tensor = torch.from_numpy(np.ascontiguousarray(arrays.get(name, nothing)))
            self.kept[name] = self.ranks.deal(tensor, partition.edges.tolist()).numpy()

    def _cut(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Block weights and item groups of the own groups, of row values [num_own_groups, num_items]."""
        num_items, dim = self.data.items.size, self.kept["items"].shape[1]
        # No value of a row is looked at: one zero stands for all.
        rows = torch.zeros(1, 1, dtype=torch.float32, device="cpu").expand(num_items, dim)
        layout = self._layout(dim)
        fresh = ElasticEmbedding.from_pretrained(rows, num_groups=1, layout=layout)
        weights = fresh.block_weights.new_empty((len(values), *fresh.block_weights.shape[1:]))
        item_groups = fresh.item_group.new_empty((len(values), num_items))
        for start in range(0, len(values), _GROUPS):
            part = slice(start, start + _GROUPS)
            cut = ElasticEmbedding.from_pretrained(
                rows, num_groups=len(values[part]), layout=layout
            )
            cut.set_row_values(values[part])
            weights[part], item_groups[part] = cut.block_weights, cut.item_group
        return weights, item_groups

    def _layout(self, dim: int) -> Any:
        return layout_of(dataclasses.asdict(self.config), dim)

    def _collect(self, own: NDArray[Any]) -> NDArray[Any]:
        """The rows of all ranks, on rank 0."""
        return to_array(self.ranks.collect(torch.from_numpy(own)))

    @property
    def _prior(self) -> float:
        """The component of every user along the axis of the prior."""
        return float(self.facts["pretraining"]["prior"])

    @cached_property
    def _shard(self) -> ItemShard:
        data = self.data
        weights = scale_weights(data.weights, data.lists, self.config.pretraining.weight_scale)
        return data.with_items(weights, self.ranks)

    def _checkpoint(self, stage: str) -> SharedCheckpoint:
        partitions = {"users": self.data.users, "items": self.data.items}
        path = shared_checkpoint(self.path, stage)
        return SharedCheckpoint(path, partitions, self.ranks)

    def _steps(self, stage: str) -> Callable[[int, int, float], None]:
        return lambda done, total, loss: self.on_step(stage, done, total, loss)
