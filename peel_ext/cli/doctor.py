"""``peel doctor``: what was built and what is there."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
from typing import Any

import numpy as np

import peel_ext
from peel_ext import _core, threads
from peel_ext.cli.requirements import optional_packages


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("doctor", help="show what was built", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    facts: dict[str, Any] = {
        "peel_ext": peel_ext.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "compiler": _core.compiler,
        "instruction set": _core.isa(),
        "instruction sets": _core.isas(),
        "threads": threads.num_threads(),
        # Looked for, not loaded: kernels are there, whether or not this machine has a device.
        "cuda kernels": importlib.util.find_spec("peel_ext._cuda") is not None,
    }
    for distribution in optional_packages():
        try:
            facts[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            facts[distribution] = None
    facts["kernels"] = "right" if _kernels_are_right() else "WRONG"
    if options.json:
        json.dump(facts, sys.stdout, indent=2)
        print()
    else:
        for name, value in facts.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            print(f"{name:17} {'not installed' if shown is None else shown}")
    return 0 if facts["kernels"] == "right" else 1


def _kernels_are_right() -> bool:
    """Packs a small table, and compares what the native core and the plain reader make of it."""
    from peel_ext.device import PersonalizedElasticEmbedding
    from peel_ext.format import EncodedRows, PlanesLayout, pack_embedding, unpack_embedding

    layout = PlanesLayout()
    rows = np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32)
    store, scales = layout.encode(rows)
    buffer = pack_embedding(layout, 24, EncodedRows(store, scales), [np.arange(100)], [0b111])
    pee = PersonalizedElasticEmbedding(buffer)
    plain = unpack_embedding(buffer).rows
    users = rows[:3]
    ids, scores = pee.score(users, 1)
    expected = users @ plain.T
    return bool(
        np.array_equal(pee.lookup(np.arange(100)), plain)
        and np.array_equal(ids[:, 0], expected.argmax(axis=1))
        and np.allclose(scores[:, 0], expected.max(axis=1), rtol=1e-5)
    )
