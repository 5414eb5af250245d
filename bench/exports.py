"""Bytes of ONNX files of what budgets hold, beside float32. Needs onnx and onnxscript."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from quality import circumstances

from peel_ext import ColumnsLayout, ElasticEmbedding, PlanesLayout
from peel_ext.nn import plain_module

ROWS, DIM = 40_000, 64
CASES = [
    *((PlanesLayout(), share) for share in (0.1, 0.025, 0.01)),
    (ColumnsLayout(8, "int8"), 0.1),
]


def measure(layout: PlanesLayout | ColumnsLayout, share: float) -> dict[str, object]:
    """The file as torch writes it, and without torch's notes of where every node comes from."""
    weight = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    embedding = ElasticEmbedding.from_pretrained(weight, layout=layout)
    if layout.nested:
        values = torch.rand(1, ROWS, generator=torch.Generator().manual_seed(1))
        embedding.set_row_values(values)
    budget = int(share * ROWS * DIM * 4)
    any_size = {"input": dict.fromkeys(range(2), torch.export.Dim.DYNAMIC)}
    program = torch.onnx.export(
        plain_module(embedding, 0, budget).eval(),
        (torch.arange(6).view(2, 3),),
        dynamo=True,
        dynamic_shapes=any_size,
        verbose=False,
    )
    assert program is not None
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        for _ in range(2):
            program.save(path)
            sizes.append(path.stat().st_size)
            for node in program.model.graph:
                node.metadata_props.clear()
    return {
        "layout": layout.name,
        "shape": [ROWS, DIM],
        "budget_bytes": budget,
        "held_bytes": embedding.generate(0, budget).nbytes,
        "onnx_bytes": sizes[1],
        "onnx_bytes_with_notes": sizes[0],
    }


def main() -> None:
    """Prints one JSON line for each budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--append", metavar="FILE", type=Path)
    options = parser.parse_args()
    for layout, share in CASES:
        row = json.dumps(measure(layout, share) | circumstances())
        print(row)
        if options.append:
            with options.append.open("a") as file:
                file.write(row + "\n")


if __name__ == "__main__":
    main()
