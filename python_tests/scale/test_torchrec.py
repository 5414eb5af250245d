"""A table that TorchRec shards over two processes and trains: its files are those of one process."""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import RankProcesses

from peel_ext import ElasticEmbedding
from peel_ext.scale.collectives import Collectives

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchrec") is None,
    reason="torchrec is not installed: docs/scale.md says how",
)

ROWS, DIM, GROUPS = 301, 16, 3


def _shard(how: Any, as_dtensors: bool = False) -> Any:
    """A collection of one table, sharded over both processes."""
    import torchrec
    from torch.distributed.device_mesh import init_device_mesh
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    table = torchrec.EmbeddingBagConfig(
        name="shop", embedding_dim=DIM, num_embeddings=ROWS, feature_names=["item"]
    )
    collection = torchrec.EmbeddingBagCollection(tables=[table], device=torch.device("meta"))
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        collection, per_param_sharding={"shop": how}, sharder=sharder, local_size=2, world_size=2,
        device_type="cpu",
    )  # fmt: skip
    env = ShardingEnv.from_process_group(torch.distributed.group.WORLD)
    if as_dtensors:
        env.output_dtensor, env.device_mesh = True, init_device_mesh("cpu", (2,))
    return DistributedModelParallel(
        collection, env=env, plan=ShardingPlan(plan={"": plan}), sharders=[sharder],
        device=torch.device("cpu"),
    )  # fmt: skip


def _step(model: Any) -> None:
    """A step of training, on each rank with its own items."""
    from torchrec import KeyedJaggedTensor

    items = torch.arange(torch.distributed.get_rank(), ROWS - 1, 2)  # as many on both
    features = KeyedJaggedTensor(["item"], items, lengths=torch.ones_like(items))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rows = model(features)["item"]
    rows.square().sum().backward()
    optimizer.step()


def _check(ranks: Collectives, table: Any, folder: Path, seed: int) -> ElasticEmbedding:
    """Compares the files of a table with those of one process; returns the module of that."""
    made = ElasticEmbedding.from_sharded(table, num_groups=GROUPS)
    values = torch.rand(GROUPS, ROWS, generator=torch.Generator().manual_seed(seed))
    made.set_row_values(values[:, made.first : made.first + len(made.rows)])
    made.fit_rotation()
    folder.mkdir(exist_ok=True)
    made.export({group: folder / f"{group}.peel" for group in range(GROUPS)}, budget_bytes=4000)
    alone = ElasticEmbedding.from_pretrained(ranks.join(made.rows), num_groups=GROUPS)
    alone.set_row_values(values)
    alone.rotation = made.rotation
    for group in range(GROUPS):
        file = io.BytesIO()
        alone.export(file, group, budget_bytes=4000)
        assert (folder / f"{group}.peel").read_bytes() == file.getvalue()
    return alone


def _work(ranks: Collectives, seed: int, folder: str) -> None:
    warnings.simplefilter("ignore")  # its imports and ours of it tell of what will change
    from torchrec.distributed.sharding_plan import column_wise, row_wise, table_wise

    name = "embedding_bags.shop.weight"
    for as_dtensors in (False, True):
        model = _shard(row_wise(), as_dtensors)
        place = Path(folder) / str(as_dtensors)
        before = _check(ranks, model.state_dict()[name], place, seed)
        _step(model)
        after = _check(ranks, model.state_dict()[name], place, seed)
        assert not torch.equal(before.weight, after.weight)
        # A parameter of the model is the part of this rank.
        part = ElasticEmbedding.from_sharded(dict(model.named_parameters())[name])
        assert torch.equal(ranks.join(part.rows), after.weight)
    whole = _shard(table_wise(rank=1)).state_dict()[name]
    assert ElasticEmbedding.from_sharded(whole).rows.shape == (ranks.rank * ROWS, DIM)
    with pytest.raises(ValueError, match=r"by rows, one shard a rank.*shard it row_wise"):
        ElasticEmbedding.from_sharded(_shard(column_wise(ranks=[0, 1])).state_dict()[name])


def test_files_of_a_table_of_torchrec(tmp_path: Path, seed: int) -> None:
    processes = RankProcesses()
    try:
        processes.run(_work, seed, str(tmp_path))
    finally:
        processes.close()
