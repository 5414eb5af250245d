"""What ranks make of a sharded table together is, bit for bit, what one process makes of it whole."""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thread_ranks
import torch
from rank_processes import RankProcesses
from torch import Tensor, nn

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.errors import BudgetError, ElsewhereError
from peel_ext.format import Layout
from peel_ext.format.checksums import join_crc32
from peel_ext.scale import ShardedEmbedding, row_order, sharded_files
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.table_shard import TableShard

GROUPS = 4


def _make(rows: int, dim: int, layout: Layout | str, seed: int, ties: bool = False) -> Any:
    """A module of one process, and the values of its rows."""
    generator = torch.Generator().manual_seed(seed)
    module = ElasticEmbedding.from_pretrained(
        torch.randn(rows, dim, generator=generator), num_groups=GROUPS, layout=layout
    )
    values = torch.rand(GROUPS, rows, generator=generator)
    if ties:
        values = (values * 3).round()
    module.set_row_values(values)
    if module.layout.nested:
        module.fit_rotation()
    return module, values


def _sharded(ranks: Collectives, module: ElasticEmbedding, edges: list[int]) -> ShardedEmbedding:
    """This rank's part of the rows of a module, with its rotation."""
    own = slice(edges[ranks.rank], edges[ranks.rank + 1])
    made = ShardedEmbedding(
        TableShard(module.weight.detach()[own], np.array(edges), ranks),
        num_groups=GROUPS, layout=module.layout,
    )  # fmt: skip
    made.rotation = module.rotation
    return made


def _files(module: ElasticEmbedding, **how: Any) -> list[bytes]:
    made = []
    for group in range(GROUPS):
        file = io.BytesIO()
        module.export(file, group, **how)
        made.append(file.getvalue())
    return made


def _export(made: ShardedEmbedding, folder: Path, **how: Any) -> None:
    made.export({group: folder / f"{group}.peel" for group in range(GROUPS)}, **how)


def _read(folder: Path) -> list[bytes]:
    return [(folder / f"{group}.peel").read_bytes() for group in range(GROUPS)]


def _work(
    ranks: Collectives, module: ElasticEmbedding, values: Tensor, edges: list[int], budget: int,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    made = _sharded(ranks, module, edges)
    made.set_row_values(values[:, edges[ranks.rank] : edges[ranks.rank + 1]])
    _export(made, folder, keep_rotation=True)
    (folder / "cut").mkdir(exist_ok=True)
    _export(made, folder / "cut", budget_bytes=budget)
    group = ranks.rank % GROUPS
    return {
        "weights": made.block_weights,
        "item_group": made.item_group,
        "table": made.table(group, budget),
        "packed": np.array(made.generate(group, budget + 1000 * group).buffer),
        "minimum": made.minimum_budget_bytes(group),
    }


@pytest.mark.parametrize(
    ("rows", "dim", "layout", "size", "ties"),
    [
        (900, 20, PlanesLayout(), 3, False), (900, 20, PlanesLayout(), 4, True),
        (500, 16, PlanesLayout((1, 3), 7), 2, True), (4, 16, PlanesLayout(), 5, False),
        (300, 20, ColumnsLayout(8), 2, False), (301, 20, ColumnsLayout(8, "int8", 7, True), 3, True),
    ],
    ids=["planes", "ties", "few rows a block", "four rows", "columns", "int8"],
)  # fmt: skip
def test_all_is_that_of_one_process(
    rows: int, dim: int, layout: Layout, size: int, ties: bool, tmp_path: Path, seed: int
) -> None:
    module, values = _make(rows, dim, layout, seed, ties)
    # Of any length, some of none.
    cuts = np.random.default_rng(seed).integers(0, rows + 1, size - 1).tolist()
    edges = [0, *sorted(cuts), rows]
    budget = max(map(module.minimum_budget_bytes, range(GROUPS))) + 1500
    found = thread_ranks.run(size, _work, module, values, edges, budget, tmp_path)
    for rank, each in enumerate(found):
        own, group = slice(edges[rank], edges[rank + 1]), rank % GROUPS
        assert torch.equal(each["weights"], module.block_weights)
        assert torch.equal(each["item_group"], module.item_group[:, own])
        with module.budget(budget):
            assert torch.equal(each["table"], module.table(group)[own])
        packed = module.generate(group, budget + 1000 * group).buffer
        assert np.array_equal(each["packed"], packed)
        assert len(packed) <= budget + 1000 * group
        assert each["minimum"] == module.minimum_budget_bytes(group)
    kept = module.rotation is not None
    assert _read(tmp_path) == _files(module, keep_rotation=kept)
    assert _read(tmp_path / "cut") == _files(module, budget_bytes=budget)


def _export_all(
    ranks: Collectives, module: ElasticEmbedding, values: Tensor, edges: list[int], folder: Path
) -> None:
    made = _sharded(ranks, module, edges)
    made.set_row_values(values[:, edges[ranks.rank] : edges[ranks.rank + 1]])
    _export(made, folder)


def test_a_shard_of_one_row_is_rotated_as_among_many(tmp_path: Path, seed: int) -> None:
    module, values = _make(6000, 64, "planes", seed)
    # Where a product of one row rounds otherwise, so that one of 64 values gets another code.
    alone = torch.cat([row[None] @ module.rotation for row in module.weight.detach()])
    store, _ = module.layout.encode(alone.numpy())
    differing = (torch.from_numpy(store) != module.encoded_rows()[0]).any(dim=1).nonzero()[:, 0]
    row = int(differing[0]) if len(differing) else 100
    thread_ranks.run(3, _export_all, module, values, [0, row, row + 1, 6000], tmp_path)
    assert _read(tmp_path) == _files(module)


def _received(
    ranks: Collectives, module: ElasticEmbedding, values: Tensor, folder: Path, most: list[int]
) -> None:
    edges = [0, 3000, 6000, 9000]
    made = _sharded(ranks, module, edges)
    made.set_row_values(values[:, edges[ranks.rank] : edges[ranks.rank + 1]])

    def counted(send: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            got = send(*args)
            most.append(got.nbytes)
            return got

        return call

    for name in ("sum", "stack", "copy", "exchange_rows"):
        setattr(ranks, name, counted(getattr(ranks, name)))
    made.fit_rotation()
    made.set_row_values(values[:, edges[ranks.rank] : edges[ranks.rank + 1]])
    _export(made, folder)


def test_no_rank_ever_gets_much_of_the_table(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded_files, "_ASKED_BYTES", 1 << 16)
    module, values = _make(9000, 64, "planes", seed)
    most: list[int] = []
    thread_ranks.run(3, _received, module, values, tmp_path, most)
    # Files of the whole table go through each rank, and never more than a part of one is there.
    assert sum(most) > 4 * 9000 * 64
    assert max(most) < 9000 * 64 / 4


def _places(ranks: Collectives, values: Tensor, edges: list[int]) -> Tensor:
    return row_order.places_by_value(values[edges[ranks.rank] : edges[ranks.rank + 1]], ranks)


@pytest.mark.parametrize(("size", "kinds"), [(1, 3), (2, 1), (4, 3), (4, 10**9)])
def test_places_are_those_of_a_stable_sort(size: int, kinds: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for rows in (0, 1, 2, 700):
        values = torch.randint(0, kinds, (rows,), generator=generator).double()
        edges = [0, *sorted(torch.randint(0, rows + 1, (size - 1,)).tolist()), rows]
        found = torch.cat(thread_ranks.run(size, _places, values, edges))
        order = values.sort(descending=True, stable=True).indices
        assert torch.equal(found[order], torch.arange(rows))


def test_checksums_of_parts_are_joined(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for lengths in ((0, 0), (5, 0), (0, 7), (9, 1), (1000, 70_001)):
        first, second = (rng.bytes(length) for length in lengths)
        joined = join_crc32(zlib.crc32(first), zlib.crc32(second), len(second))
        assert joined == zlib.crc32(first + second)


# ---- mistakes ----


def _mistakes(ranks: Collectives, module: ElasticEmbedding, folder: Path) -> None:
    made = _sharded(ranks, module, [0, 10, 25])
    others = ElsewhereError if ranks.rank == 0 else ValueError
    values = torch.ones(GROUPS, len(made.rows))
    if ranks.rank == 1:
        values[2, 3] = -1
    with pytest.raises(others, match=r"values\[2, 3\] must be finite and not negative"):
        made.set_row_values(values)
    with pytest.raises(BudgetError) as caught:
        made.generate(1, 70)
    assert caught.value.minimum_bytes == made.minimum_budget_bytes(1)
    with pytest.raises(BudgetError):
        _export(made, folder, budget_bytes=70)
    with pytest.raises(IndexError, match=r"group must be in \[0, 4\), got 4"):
        made.export({4: folder / "4.peel"})
    paths = {0: folder / f"{ranks.rank}.peel"}
    with pytest.raises(ValueError, match="paths and budget_bytes must be the same on all ranks"):
        made.export(paths)
    # What cannot be written ends with the round, on all.
    known = {0: folder / "good.peel", 1: folder / "no" / "folder.peel"}
    with pytest.raises(OSError if ranks.rank == 1 else ElsewhereError, match="No such file"):
        made.export(known)
    assert not (folder / "0.peel").exists()
    if ranks.rank == 1:
        made.rows = made.rows.clone().index_fill_(0, torch.tensor([2]), torch.nan)
    others = ElsewhereError if ranks.rank == 0 else ValueError
    with pytest.raises(others, match="row 2 cannot be quantised"):
        made.generate(0, 4000)
    made.rows = made.rows.nan_to_num()
    assert len(made.generate(0, 4000).row_ids) > 0  # and they go on together


def test_mistakes_are_told_on_all_ranks(tmp_path: Path, seed: int) -> None:
    module, _ = _make(25, 16, PlanesLayout(), seed)
    thread_ranks.run(2, _mistakes, module, tmp_path)
    assert (tmp_path / "good.peel").exists()


def _differing(ranks: Collectives, module: ElasticEmbedding, folder: Path) -> None:
    """Whatever ranks are given that differs, or is wrong on one, is told on both."""
    own = [slice(0, 10), slice(10, 25)][ranks.rank]
    shard = TableShard(module.weight.detach()[own], np.array([0, 10, 25]), ranks)
    last = ranks.rank == 1
    told = ValueError if last else ElsewhereError
    with pytest.raises(told, match="num_groups must be an integer of at least 1, got 0"):
        ShardedEmbedding(shard, num_groups=1 - ranks.rank)
    for how in ({"num_groups": 1 + ranks.rank}, {"layout": ("planes", "columns")[ranks.rank]}):
        with pytest.raises(ValueError, match="num_groups and layout must be the same on all"):
            ShardedEmbedding(shard, **how)
    made = ShardedEmbedding(shard, num_groups=GROUPS)
    calls = (
        lambda: made.generate(0, 2000), lambda: made.export({}), made.fit_rotation,
        lambda: made.set_row_values(torch.ones(GROUPS, len(made.rows))),
    )  # fmt: skip
    for first, second in itertools.pairwise((*calls, calls[0])):
        with pytest.raises(ValueError, match="ranks must call the same at the same time, got "):
            (second if last else first)()
    with pytest.raises(ValueError, match="seed and keep_mean must be the same on all ranks"):
        made.fit_rotation(ranks.rank)
    with pytest.raises(RuntimeError, match="manual_seed"):
        made.fit_rotation("no seed")
    told = TypeError if last else ElsewhereError
    with pytest.raises(told, match="values must be a tensor, got a list"):
        made.set_row_values([1.0] if last else torch.ones(GROUPS, 10))
    good = {0: folder / "0.peel", 1: folder / "1.peel"}
    for wrong, says in (
        ("file", "paths must map user groups to files, got 'file'"), ({0: 5}, "not int"),
        ({0: "a", "1": "b"}, "group must be an integer, got '1'"),
    ):  # fmt: skip
        with pytest.raises(told, match=says):
            made.export(wrong if last else good)
    with pytest.raises(ValueError, match="paths must be another for each user group"):
        made.export({0: folder / "0.peel", 1: str(folder / "0.peel")})
    # As they are given where rank 0 alone has them: half of the files would be without.
    for some in ({"centroids": np.ones((GROUPS, 16))}, {"keep_rotation": True}):
        with pytest.raises(ValueError, match=r"fold_in, keep_rotation, and whether .* the same"):
            made.export(good, **({} if last else some))
    assert not list(folder.iterdir())
    made.export(good, budget_bytes=np.int64(2000) if last else 2000)


def test_what_differs_between_ranks_is_told_on_all(tmp_path: Path, seed: int) -> None:
    module, _ = _make(25, 16, PlanesLayout(), seed)
    thread_ranks.run(2, _differing, module, tmp_path)


# ---- tables of others, in processes ----


def _mesh() -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def _tables_of_others(ranks: Collectives, seed: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = _mesh()
    for rows in (1, 2, 301):
        module, values = _make(rows, 16, "planes", seed)
        whole = module.weight.detach()
        model = nn.Sequential(nn.Embedding.from_pretrained(whole.clone(), freeze=False))
        fully_shard(model, mesh=mesh)
        tables = {
            "DTensor": distribute_tensor(whole, mesh, [Shard(0)]),
            "FSDP2": model[0].weight,
            "plain": whole[:1] if ranks.is_first else whole[1:] if ranks.rank == 1 else whole[:0],
        }
        for name, table in tables.items():
            made = ElasticEmbedding.from_sharded(table, num_groups=GROUPS)
            made.rotation = module.rotation
            own = slice(made.first, made.first + len(made.rows))
            assert torch.equal(made.rows, whole[own])
            made.set_row_values(values[:, own])
            assert torch.equal(made.block_weights, module.block_weights)
            packed = made.generate(0, 2000).buffer
            assert np.array_equal(packed, module.generate(0, 2000).buffer)
            place = Path(folder) / f"{name} {rows}"
            place.mkdir(exist_ok=True)
            _export(made, place)
            assert _read(place) == _files(module, keep_rotation=False)


def _trained(ranks: Collectives, seed: int) -> None:
    """Steps that torch does not count are seen, and a rotation is the same on both."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    mesh = _mesh()
    module, values = _make(90, 16, "planes", seed)
    model = nn.Sequential(nn.Embedding.from_pretrained(module.weight.detach(), freeze=False))
    fully_shard(model, mesh=mesh)
    made = ElasticEmbedding.from_sharded(model[0].weight, num_groups=GROUPS)
    own = slice(made.first, made.first + len(made.rows))
    with torch.inference_mode():
        made.set_row_values(values[:, own])
        made.fit_rotation()
    assert not made.rotation.is_inference()
    assert not made.block_weights.is_inference()
    assert ranks.differing(made.rotation.numpy().tobytes()) == []
    torch.testing.assert_close(made.rotation, module.rotation, rtol=0, atol=1e-4)
    before = made.table(1, 3000)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.arange(90)).square().mean().backward()
    optimizer.step()
    after = ElasticEmbedding.from_pretrained(model[0].weight.full_tensor(), num_groups=GROUPS)
    after.rotation = made.rotation
    after.set_row_values(values)
    with after.budget(3000):
        assert torch.equal(made.table(1, 3000), after.table(1)[own])
    assert not torch.equal(before, made.table(1, 3000))
    # In place of the table they are what lookups under a budget see.
    seen = DTensor.from_local(made.table(1, 3000), mesh, [Shard(0)], shape=(90, 16), stride=(16, 1))
    items = distribute_tensor(torch.tensor([[3, 88], [41, 0]]), mesh, [Replicate()])
    rows = nn.functional.embedding(items, seen).full_tensor()
    with after.budget(3000):
        assert torch.equal(rows, after(items.to_local(), 1))


def _refused(ranks: Collectives) -> None:
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh, square = _mesh(), init_device_mesh("cpu", (1, 2))
    whole = torch.ones(6, 16)
    for table in (
        distribute_tensor(whole, mesh, [Shard(1)]),
        distribute_tensor(whole, mesh, [Replicate()]),
        distribute_tensor(whole, square, [Replicate(), Shard(0)]),
    ):
        with pytest.raises(ValueError, match=r"by rows over a mesh of one .*redistribute"):
            ElasticEmbedding.from_sharded(table)
    for table, error, says in (
        (whole.numpy(), TypeError, "must be a DTensor, a ShardedTensor or the tensor of .*ndarray"),
        (whole.double(), TypeError, "must be float32 to be encoded, got torch.float64"),
        (whole[0], ValueError, r"must have 2 dimensions .*shape \(16,\)"),
        (whole[:, ranks.rank :], ValueError, r"as many columns on every rank, got \[15, 16\]"),
        (whole.to("meta"), ValueError, "on the meta device"),
    ):
        with pytest.raises(error, match=says):
            ElasticEmbedding.from_sharded(table)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    with pytest.raises(ValueError, match=r"one kind and size on every rank, got .*\[-1, 6\] rows"):
        ElasticEmbedding.from_sharded(sharded if ranks.is_first else sharded.to_local())
    told = TypeError if ranks.rank == 1 else ElsewhereError
    with pytest.raises(told, match=r"plain dense rows to be encoded, .* layout torch.sparse_coo"):
        ElasticEmbedding.from_sharded(whole.to_sparse() if ranks.rank == 1 else whole)
    # One rank alone is a group, too; the other is not of it.
    group, few = torch.distributed.new_group([1]), DeviceMesh("cpu", [1])
    own = distribute_tensor(whole, few, [Shard(0)])
    if ranks.rank == 1:
        for made in (
            ElasticEmbedding.from_sharded(whole, process_group=group),
            ElasticEmbedding.from_sharded(own),
        ):
            assert len(made.generate(0, 2000).row_ids) == made.num_embeddings == 6
    else:
        with pytest.raises(ValueError, match="process_group must be one of this process"):
            ElasticEmbedding.from_sharded(whole, process_group=group)
        with pytest.raises(ValueError, match="table must have a part on this rank"):
            ElasticEmbedding.from_sharded(own)
    with pytest.raises(ValueError, match="num_groups must be an integer of at least 1, got 0"):
        ElasticEmbedding.from_sharded(whole * ranks.rank, num_groups=0)
    turned = DeviceMesh("cpu", [1, 0])
    with pytest.raises(ValueError, match="in the order of ranks, got a mesh of others"):
        ElasticEmbedding.from_sharded(distribute_tensor(whole, turned, [Shard(0)]))
    # What FSDP puts together for a forward is the whole table on every rank.
    model = fully_shard(nn.Sequential(nn.Embedding.from_pretrained(whole)), mesh=mesh)
    model(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"got the same on all: .* call reshard\(\) before"):
        ElasticEmbedding.from_sharded(model[0].weight)
    model.reshard()
    assert ElasticEmbedding.from_sharded(model[0].weight).num_embeddings == 6


def test_tables_of_dtensor_and_fsdp(
    rank_processes: RankProcesses, tmp_path: Path, seed: int
) -> None:
    rank_processes.run(_tables_of_others, seed, str(tmp_path))
    rank_processes.run(_trained, seed)
    rank_processes.run(_refused)


def test_without_processes_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"call torch.distributed.init_process_group"):
        ElasticEmbedding.from_sharded(torch.ones(3, 16))
