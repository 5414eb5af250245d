"""What belongs to a module comes along: from the meta device, out of checkpoints, with resized rows."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout

ROWS, DIM, GROUPS, BUDGET = 60, 12, 3, 1500
EVERY = torch.arange(ROWS)
LAYOUT = PlanesLayout(rows_per_block=8)


def make(is_set: bool, generator: torch.Generator) -> ElasticEmbedding:
    weight = torch.randn(ROWS, DIM, generator=generator)
    module = ElasticEmbedding.from_pretrained(
        weight, freeze=False, num_groups=GROUPS, layout=LAYOUT
    )
    if is_set:
        module.refine_rows(1, torch.tensor([3, 9]))
        nn.init.normal_(module.refinement, generator=generator)
        module.fit_rotation()
        module.set_row_values(torch.rand(GROUPS, ROWS, generator=generator))
    return module


def seen(module: ElasticEmbedding) -> Tensor:
    """What every group sees under a budget; on a device it is the same."""
    with torch.no_grad(), module.budget(BUDGET):
        tables = [module.table(group) for group in range(GROUPS)]
    for group, table in enumerate(tables):
        rows = torch.from_numpy(module.generate(group, BUDGET).lookup(EVERY.numpy()))
        if module.rotation is not None:
            rows = rows @ module.rotation.T
        torch.testing.assert_close(table, rows)
    return torch.stack(tables)


@pytest.mark.parametrize("is_set", [False, True])
@pytest.mark.parametrize("way", ["assign", "to_empty", "set, emptied"])
def test_a_module_made_without_memory(way: str, is_set: bool, generator) -> None:
    source = make(is_set, generator)
    if way == "set, emptied":
        module = copy.deepcopy(source).to("meta").to_empty(device="cpu")
    else:
        with torch.device("meta"):
            module = ElasticEmbedding(ROWS, DIM, num_groups=GROUPS, layout=LAYOUT)
        if way == "to_empty":
            module.to_empty(device="cpu")
    module.load_state_dict(source.state_dict(), assign=way == "assign")
    assert torch.equal(seen(module), seen(source))


def test_memory_that_came_later_has_even_blocks(generator) -> None:
    fresh = make(False, generator)
    for module in (
        ElasticEmbedding(ROWS, DIM, num_groups=GROUPS, layout=LAYOUT, device="meta"),
        ElasticEmbedding(ROWS, DIM, num_groups=GROUPS, layout=LAYOUT).to("meta"),
    ):
        module.to_empty(device="cpu")
        nn.init.normal_(module.weight)
        assert torch.equal(module.block_weights, fresh.block_weights)
        assert torch.equal(module.item_group, fresh.item_group)
        assert set(module.state_dict()) == {"weight"}


def test_weights_that_are_elsewhere_between_calls(generator) -> None:
    """As in offloading, where hooks bring a weight before a call and take it away after it."""
    module = make(True, generator)
    weight, want = module.get_parameter("weight"), seen(module)

    def bring(*_: object) -> None:
        assert module.weight.shape == weight.shape  # what hooks read first
        module._parameters["weight"] = weight

    def take_away(*_: object) -> None:
        assert module.weight.shape == weight.shape
        module._parameters["weight"] = nn.Parameter(weight.detach().to("meta"))

    take_away()
    called = module.forward

    def hooked(*args: object) -> Tensor:
        bring()
        result = called(*args)
        take_away()
        return result

    module.forward = hooked
    with module.budget(BUDGET), module.use_groups(1):
        assert torch.equal(module(EVERY), want[1])
        assert torch.equal(module(EVERY), want[1])


@pytest.mark.parametrize("rows", [ROWS + 25, ROWS - 25])
def test_resized_rows_are_cut_anew_or_refused(rows: int, generator) -> None:
    module, plain = make(False, generator), make(True, generator)
    for each in (module, plain):
        values = torch.randn(rows, DIM, generator=generator)
        each.weight.data = values
        with pytest.raises(ValueError, match=rf"weight has shape \({rows}, 12\), but"):
            each.generate(0, BUDGET)
        each.num_embeddings = rows
    everything = module.generate(0, 10**6)
    assert everything.row_ids.tolist() == list(range(rows))
    assert module.item_group.shape == (1, rows)
    for call in (
        lambda: plain.generate(0, BUDGET),
        lambda: plain.export("nowhere.peel", 0),
        lambda: plain.minimum_budget_bytes(0),
        lambda: plain.budget(BUDGET).__enter__(),
    ):
        with pytest.raises(ValueError, match="block_weights, item_group, refinement_slot were set"):
            call()


@pytest.mark.parametrize("layout", ["planes", "columns"])
@pytest.mark.parametrize("rows", [ROWS + 25, ROWS - 25])
def test_values_may_be_set_for_resized_rows(layout: str, rows: int, generator) -> None:
    for change in ("values", "refinement", "item groups"):
        module = ElasticEmbedding(ROWS, DIM, num_groups=GROUPS, layout=layout)
        module.weight = nn.Parameter(torch.randn(rows, DIM, generator=generator))
        module.num_embeddings = rows
        if change == "values":
            module.set_row_values(torch.rand(GROUPS, rows, generator=generator))
        elif change == "refinement":
            module.refine_rows(1, torch.tensor([rows - 1]))
        elif layout == "columns":
            module.set_item_groups(torch.zeros(rows, dtype=torch.int64))
        held = module.generate(1, 10**6)
        assert sorted(held.row_ids.tolist()) == list(range(rows))


def test_a_module_of_fake_tensors() -> None:
    with FakeTensorMode():
        module = ElasticEmbedding(ROWS, DIM, num_groups=GROUPS)
        assert list(module.state_dict()) == ["weight"]
        assert module(torch.zeros(3, dtype=torch.int64)).shape == (3, DIM)


def test_a_budget_over_the_meta_device_has_shapes() -> None:
    module = ElasticEmbedding(ROWS, DIM, device="meta")
    with module.budget(BUDGET):
        assert module(torch.zeros(2, 3, dtype=torch.int64, device="meta")).shape == (2, 3, DIM)


def test_a_table_that_is_sharded_has_a_state_dict(tmp_path: Path) -> None:
    code = f"""
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from peel_ext import ElasticEmbedding
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
for is_set in (False, True):
    model = nn.Sequential(ElasticEmbedding(60, 12, num_groups=3))
    if is_set:
        model[0].set_row_values(torch.rand(3, 60))
    want = set(model.state_dict())
    how = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
    model = parallelize_module(model, init_device_mesh("cpu", (1,)), {{"0": how}})
    assert set(model.state_dict()) == want, model.state_dict().keys()
    model.load_state_dict(model.state_dict())
    try:
        with model[0].budget(1500), model[0].use_groups(1):
            model(torch.arange(3))
    except TypeError as error:
        assert "full_tensor" in str(error)
    else:
        raise SystemExit("a budget was not refused")
dist.destroy_process_group()
"""
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], check=True)


def test_edited_weights_of_blocks_are_saved(generator) -> None:
    module = make(False, generator)
    module.block_weights[1, 2] += 1
    twin = make(False, generator)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin.block_weights, module.block_weights)
    module.block_weights[1, 2] = module.block_weights[0, 2]
    assert set(module.state_dict()) == {"weight"}


def test_state_of_another_dtype_is_converted(generator) -> None:
    module = make(True, generator)
    state = {name: value.double() for name, value in module.state_dict().items()}
    for assign in (False, True):
        twin = make(False, generator)
        twin.load_state_dict({**state, "weight": module.weight.detach().clone()}, assign=assign)
        assert torch.equal(seen(twin), seen(module))


@pytest.mark.parametrize("layout", ["planes", "columns"])
@pytest.mark.parametrize("dim", [1, 5, 8, 513, 768])
def test_rows_of_any_width(layout: str, dim: int) -> None:
    module = ElasticEmbedding(np.int64(30), np.int32(dim), num_groups=np.int64(2), layout=layout)
    assert "np." not in repr(module)
    with module.budget(10**6):
        rows = module(torch.arange(30), 1)
    if layout == "columns":
        assert torch.equal(rows, module.weight)
    assert module.generate(1, 10**6).row_ids.tolist() == list(range(30))


@pytest.mark.parametrize("layout", ["planes", "columns"])
def test_rows_without_values(layout: str) -> None:
    module = ElasticEmbedding(30, 0, sparse=True, layout=layout)
    module(torch.tensor([[1, 2]])).sum().backward()
    assert module.weight.grad.shape == (30, 0)
    with pytest.raises(ValueError, match="embedding_dim is 0"), module.budget(10**6):
        pass
    with pytest.raises(ValueError, match="embedding_dim is 0"):
        module.generate(0, 10**6)


@pytest.mark.parametrize("layout", [LAYOUT, ColumnsLayout(4, "int8", 6)])
def test_a_fresh_module_keeps_its_first_rows(layout, generator) -> None:
    module = ElasticEmbedding.from_pretrained(
        torch.randn(3000, DIM, generator=generator), num_groups=2, layout=layout
    )
    for budget in (4000, 9000, 30_000, 10**6):
        held = np.sort(module.generate(1, budget).row_ids)
        assert held.tolist() == list(range(len(held)))


def test_blocks_of_two_modules_are_not_mixed(generator) -> None:
    source, target = make(False, generator), make(True, generator)
    source.block_weights[1, 2] += 1
    state = {name: value for name, value in source.state_dict().items() if name != "weight"}
    assert set(state) == {"block_weights"}
    target.load_state_dict(state, strict=False)
    assert torch.equal(target.block_weights, source.block_weights)
    assert torch.equal(target.item_group, source.item_group)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no processes")
@pytest.mark.parametrize("how", ["FSDP2", "FSDP2 of a model", "DTensor"])
def test_sharded_weights_are_refused_under_a_budget_at_once(
    how: str, one_process, generator
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, distribute_tensor

    module, plain = make(True, generator), make(True, generator)
    plain.load_state_dict(module.state_dict())
    model = nn.Sequential(module)
    mesh = init_device_mesh("cpu", (1,))
    if how == "FSDP2":
        fully_shard(module, mesh=mesh)
    elif how == "FSDP2 of a model":
        fully_shard(model, mesh=mesh)
    else:
        module.weight = nn.Parameter(distribute_tensor(module.weight, mesh, [Replicate()]))
    with pytest.raises(TypeError, match=r"from_pretrained\(weight.full_tensor\(\)\)"):
        module.budget(BUDGET).__enter__()
    assert module.budget_bytes is None
    with pytest.raises(TypeError, match=r"full_tensor"):
        module.generate(0, BUDGET)
    if how != "DTensor":
        assert torch.equal(model(EVERY), plain(EVERY))  # the full table as ever
        (module if how == "FSDP2" else model).unshard()  # now the weight is an ordinary tensor
        with pytest.raises(TypeError, match=r"full_tensor"):
            module.budget(BUDGET).__enter__()
