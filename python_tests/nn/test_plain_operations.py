"""The module of plain operations: the same rows as the embedding, in torch and in other runtimes."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.errors import BudgetError
from peel_ext.nn import plain_module

LAYOUTS = {
    "planes": PlanesLayout(),
    "planes of other bits": PlanesLayout((1, 3, 4), rows_per_block=50),
    "float32": ColumnsLayout(8),
    "float16": ColumnsLayout(7, "float16", keep_one_block=True),
    "int8": ColumnsLayout(16, "int8"),
}
ROWS, DIM, GROUP = 1_500, 20, 1


def make(layout: PlanesLayout | ColumnsLayout, generator: torch.Generator) -> ElasticEmbedding:
    """Two user groups; the second has refined rows, and blocks of any worth."""
    embedding = ElasticEmbedding(ROWS, DIM, num_groups=2, layout=layout)
    with torch.no_grad():
        embedding.weight.normal_(generator=generator)
    if not layout.nested:
        embedding.set_item_groups(torch.randint(0, 20, (ROWS,), generator=generator))
    embedding.set_row_values(torch.rand(2, ROWS, generator=generator))
    if not layout.nested:
        embedding.block_weights.uniform_(generator=generator)
    embedding.refine_rows(GROUP, torch.arange(100))
    assert embedding.refinement is not None
    with torch.no_grad():
        embedding.refinement.normal_(generator=generator)
    return embedding


def look_up(embedding: ElasticEmbedding, indices: Tensor, budget_bytes: int) -> Tensor:
    with embedding.budget(budget_bytes), torch.no_grad():
        return embedding(indices, groups=GROUP)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_has_the_bits_of_the_embedding_under_every_budget(layout, generator) -> None:
    embedding = make(layout, generator)
    indices = torch.randint(0, ROWS, (3, 400), generator=generator)
    least = max(embedding.minimum_budget_bytes(group) for group in range(2))  # entered for both
    for budget_bytes in (least, least + 3_000, least + 12_000, least + 30_000, 1 << 30):
        module = plain_module(embedding, GROUP, budget_bytes)
        wanted = look_up(embedding, indices, budget_bytes)
        assert torch.equal(module(indices), wanted)
        assert torch.equal(module(indices.int()), wanted)
        assert torch.equal(module.weight[indices], wanted)
        held = embedding.generate(GROUP, budget_bytes).nbytes
        # A bit a row and layer, counts of 4 bytes for every 64, and tables of the planes.
        places = layout.num_layers(DIM) * 1.5 * (ROWS + 64) / 8
        assert sum(each.nbytes for each in module.buffers()) <= held + places + 8_192
    assert torch.equal(module(indices[:0]), torch.zeros(0, 400, DIM))
    assert not list(module.parameters())


def test_turns_rotated_rows_back(generator) -> None:
    embedding = make(PlanesLayout(), generator)
    embedding.fit_rotation()
    indices = torch.randint(0, ROWS, (200,), generator=generator)
    wanted = look_up(embedding, indices, 20_000)
    got = plain_module(embedding, GROUP, 20_000)(indices)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert wanted.any()


def test_takes_the_place_of_the_embedding_in_a_model(generator) -> None:
    class Tied(nn.Module):
        def __init__(self, embedding: nn.Module) -> None:
            super().__init__()
            self.items = embedding

        def forward(self, history: Tensor) -> Tensor:
            return self.items(history).mean(dim=1) @ self.items.weight.T

    embedding = make(PlanesLayout(), generator)
    history = torch.randint(0, ROWS, (4, 6), generator=generator)
    model = Tied(embedding)
    with embedding.budget(20_000), embedding.use_groups(GROUP), torch.no_grad():
        wanted = model(history)
    model.items = plain_module(embedding, GROUP, 20_000)
    assert torch.equal(model(history), wanted)


def test_a_mistake_is_told(generator) -> None:
    embedding = make(PlanesLayout(), generator)
    module = plain_module(embedding, GROUP, 20_000)
    for wrong in (-1, ROWS):
        with pytest.raises(IndexError, match=rf"input holds {wrong}, expected .* \[0, {ROWS}\)"):
            module(torch.tensor([0, wrong]))
    with pytest.raises(BudgetError, match="at least"):
        plain_module(embedding, GROUP, 100)
    with pytest.raises(IndexError, match="group"):
        plain_module(embedding, 2, 20_000)
    with pytest.raises(TypeError, match="must be an ElasticEmbedding, got a Embedding"):
        plain_module(nn.Embedding(3, 4), 0, 20_000)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [LAYOUTS["planes"], LAYOUTS["int8"]], ids=["planes", "int8"])
def test_holds_torch_operations_alone(layout, generator) -> None:
    module = plain_module(make(layout, generator), GROUP, 20_000)
    graph = torch.export.export(module, (torch.arange(6).view(2, 3),)).graph
    called = {node.target for node in graph.nodes if node.op == "call_function"} - {
        operator.getitem
    }
    assert called
    assert all(str(target).startswith("aten.") for target in called), called


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about its older exporter
def test_an_export_to_onnx_under_a_budget_says_what_to_do(generator, tmp_path: Path) -> None:
    embedding = make(PlanesLayout(), generator)
    with (
        embedding.budget(20_000),
        embedding.use_groups(GROUP),
        pytest.raises(RuntimeError, match=r"plain_module\(embedding, group, 20000\)"),
    ):
        torch.onnx.export(embedding, (torch.arange(6),), tmp_path / "x.onnx", dynamo=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what torch imports
@pytest.mark.parametrize("layout", [LAYOUTS["planes"], LAYOUTS["int8"]], ids=["planes", "int8"])
def test_onnxruntime_gives_the_same_bits(layout, generator, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    embedding = make(layout, generator)
    module = plain_module(embedding, GROUP, 20_000).eval()
    any_size = {"input": dict.fromkeys(range(2), torch.export.Dim.DYNAMIC)}
    path = tmp_path / "plain.onnx"
    program = torch.onnx.export(
        module, (torch.arange(6).view(2, 3),), dynamo=True, dynamic_shapes=any_size, verbose=False
    )
    assert program is not None
    program.save(path)
    kinds = {node.op_type for node in program.model.graph}
    assert ("DequantizeLinear" in kinds) == (not layout.nested)
    assert "Floor" not in kinds  # a division in float32, wrong from 2^24 rows on
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 7), (40, 3)):
        indices = torch.randint(0, ROWS, shape, generator=generator)
        (rows,) = session.run(None, {session.get_inputs()[0].name: indices.numpy()})
        assert torch.equal(torch.from_numpy(rows), look_up(embedding, indices, 20_000))
    with (
        embedding.budget(20_000),
        embedding.use_groups(GROUP),
        pytest.raises(torch.onnx.OnnxExporterError, match=r"plain_module\(embedding, group, 20000"),
    ):
        torch.onnx.export(embedding, (torch.arange(6),), dynamo=True, verbose=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what torch and executorch import
@pytest.mark.parametrize("name", ["planes", "float16", "int8"])
def test_executorch_gives_the_same_bits(name, generator, tmp_path: Path) -> None:
    exir = pytest.importorskip("executorch.exir", reason="executorch is not installed")
    runtime = pytest.importorskip("executorch.runtime").Runtime.get()
    embedding = make(LAYOUTS[name], generator)
    indices = torch.randint(0, ROWS, (5, 8), generator=generator)
    path = tmp_path / "plain.pte"
    exported = torch.export.export(plain_module(embedding, GROUP, 20_000).eval(), (indices,))
    path.write_bytes(exir.to_edge(exported).to_executorch().buffer)
    (rows,) = runtime.load_program(path).load_method("forward").execute([indices])
    assert torch.equal(rows, look_up(embedding, indices, 20_000))
