"""Times the CUDA kernels beside torch's, in one run on one card; answers are compared first.

    python bench/gpu/kernels.py build/gpu/libpeel_cuda_bench.so [--small] [--append FILE]

Prints a line per case and, with ``--append``, adds it as JSON: microseconds, also of a captured CUDA
graph, the peer's, and the share of the streaming limit, which is what a copy reaches. Needs torch and
a GPU, not peel_ext.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DIM = 64
ROTATION = 4  # inputs in turn, so that no call finds its own in the cache
REPEATS = 20


class Launch(ctypes.Structure):
    """As csrc/kernels/cuda/kernels.h has it."""

    _fields_ = [
        ("stream", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("offenders", ctypes.c_void_p),
    ]


class Kernels:
    """The functions of library.cpp, on tensors."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path.resolve()))
        self.offenders = torch.full((5,), -1, dtype=torch.int64, device="cuda")  # no bit is zero
        self.workspace = torch.empty(1, dtype=torch.uint8, device="cuda")

    def __call__(self, name: str, *arguments: Tensor | int | float | bool) -> None:
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64
        values = [native(argument) for argument in arguments]
        call = Launch(torch.cuda.current_stream().cuda_stream, 0, 0, self.offenders.data_ptr())
        needed = function(*values, ctypes.byref(call))
        if needed > self.workspace.numel():
            self.workspace = torch.empty(needed, dtype=torch.uint8, device="cuda")
        call.workspace, call.workspace_bytes = self.workspace.data_ptr(), self.workspace.numel()
        function(*values, ctypes.byref(call))

    def check_offenders(self) -> None:
        found = self.offenders.tolist()
        if any(word != -1 for word in found):
            raise RuntimeError(f"offenders must be none, got {found}")


def native(argument: Tensor | int | float | bool) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, bool):
        return ctypes.c_bool(argument)
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_float(argument)


def microseconds(run: Callable[[int], object]) -> float:
    """The median time of ``run(turn)`` on the device, where turns follow each other."""
    times = []
    for _ in range(REPEATS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for turn in range(ROTATION):
            run(turn)
        end.record()
        end.synchronize()
        times.append(1000 * begin.elapsed_time(end) / ROTATION)
    return statistics.median(times[3:])


def captured(run: Callable[[int], object]) -> Callable[[int], object]:
    """``run`` as CUDA graphs: replaying them leaves out what calling costs the host."""
    graphs = [torch.cuda.CUDAGraph() for _ in range(ROTATION)]
    for turn, graph in enumerate(graphs):
        run(turn)  # makes the workspace, which no capture can
        with torch.cuda.graph(graph):
            run(turn)
    return lambda turn: graphs[turn].replay()


def copy_bytes_per_microsecond() -> float:
    """The streaming limit: bytes read and written by a copy of 4 GiB."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / microseconds(lambda _: target.copy_(source))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32, device="cuda")


def indices_below(rows: int, count: int) -> list[Tensor]:
    return [torch.randint(rows, (count,), device="cuda") for _ in range(ROTATION)]


def lookup(kernels: Kernels, small: bool) -> dict[str, Any]:
    rows, count = (10_000, 1 << 10) if small else (1_000_000, 1 << 20)
    weight, indices = normal(rows, DIM), indices_below(rows, count)
    out = torch.empty(count, DIM, dtype=torch.float32, device="cuda")

    def run(turn: int) -> None:
        kernels("peel_lookup_dense", weight, rows, DIM, indices[turn], count, out)

    run(0)
    assert torch.equal(out, F.embedding(indices[0], weight))
    return {
        "case": f"lookup of {count} rows of fp32",
        "ours": microseconds(run),
        "captured": microseconds(captured(run)),
        "peer": "F.embedding",
        "theirs": microseconds(lambda turn: F.embedding(indices[turn], weight)),
        "bytes": count * (8 + 2 * 4 * DIM),
    }


def lookup_planes(kernels: Kernels, small: bool) -> dict[str, Any]:
    rows, count = (10_000, 1 << 10) if small else (1_000_000, 1 << 20)
    indices, row_bytes = indices_below(rows, count), 4 * DIM // 8
    weight = normal(rows, DIM)
    store = torch.randint(256, (rows, row_bytes), dtype=torch.uint8, device="cuda")
    scales = torch.rand(rows, dtype=torch.float16, device="cuda") + 1
    item_group = torch.zeros(rows, dtype=torch.int32, device="cuda")
    held = torch.tensor([0b111], dtype=torch.int64, device="cuda")
    levels = normal(510)
    out = torch.empty(count, DIM, dtype=torch.float32, device="cuda")

    def run(turn: int) -> None:
        tensors = (store, scales, item_group, held, levels)
        kernels("peel_lookup_planes", *tensors, rows, DIM, indices[turn], count, out)

    run(0)
    codes = torch.zeros(rows, DIM, dtype=torch.int64, device="cuda")
    bits = torch.arange(8, device="cuda")
    for plane in store.view(rows, 4, DIM // 8).unbind(1):  # the most significant first
        codes = 2 * codes + ((plane[:, :, None] >> bits) & 1).view(rows, DIM)
    decoded = levels[2**4 - 2 + codes] * scales.float()[:, None]
    assert torch.equal(out, decoded[indices[0]])
    return {
        "case": f"lookup of {count} rows in planes of 4 bits",
        "ours": microseconds(run),
        "captured": microseconds(captured(run)),
        "peer": "F.embedding of fp32",
        "theirs": microseconds(lambda turn: F.embedding(indices[turn], weight)),
        "bytes": count * (8 + 4 + 2 + row_bytes + 4 * DIM),
    }


def training_step(kernels: Kernels, small: bool) -> dict[str, Any]:
    rows, count = (10_000, 1 << 10) if small else (1_000_000, 1 << 20)
    indices, upstream = indices_below(rows, count), normal(count, DIM)
    weight, sums = normal(rows, DIM), torch.zeros(rows, dtype=torch.float32, device="cuda")
    out = torch.empty(count, DIM, dtype=torch.float32, device="cuda")
    before = weight.clone()

    def run(turn: int) -> None:
        kernels("peel_lookup_dense", weight, rows, DIM, indices[turn], count, out)
        kernels("peel_adagrad", weight, rows, DIM, indices[turn], count, upstream, sums, 0.1, 1e-8)

    run(0)
    gradient = torch.zeros_like(before).index_add_(0, indices[0], upstream)
    mean = gradient.square().mean(1, keepdim=True)
    want = before - 0.1 * gradient / (mean.sqrt() + 1e-8)
    torch.testing.assert_close(weight, want, rtol=1e-4, atol=1e-4)

    theirs = torch.nn.Embedding(rows, DIM, sparse=True, device="cuda", dtype=torch.float32)
    optimizer = torch.optim.Adagrad(theirs.parameters(), lr=0.1)

    def step(turn: int) -> None:
        optimizer.zero_grad()
        theirs(indices[turn]).backward(upstream)
        optimizer.step()

    return {
        "case": f"forward, backward and rowwise Adagrad of {count} rows",
        "ours": microseconds(run),
        "captured": microseconds(captured(run)),
        "peer": "sparse nn.Embedding, Adagrad of one sum a value",
        "theirs": microseconds(step),
        # Rows read twice and written twice, gradients read.
        "bytes": count * (2 * 8 + 5 * 4 * DIM + 2 * 4),
    }


def topk(kernels: Kernels, small: bool) -> dict[str, Any]:
    n = 1 << 16 if small else 1 << 26
    k = n // 10
    weights = [normal(n) for _ in range(ROTATION)]
    out = torch.empty(k, dtype=torch.int64, device="cuda")

    def run(turn: int) -> None:
        kernels("peel_topk", weights[turn], n, k, True, out)

    run(0)
    assert torch.equal(weights[0][out], torch.topk(weights[0], k).values)
    return {
        "case": f"largest {k} of {n} weights",
        "ours": microseconds(run),
        "captured": microseconds(captured(run)),
        "peer": "torch.topk",
        "theirs": microseconds(lambda turn: torch.topk(weights[turn], k)),
        "bytes": 4 * n + 8 * k,
    }


def score_many_users(kernels: Kernels, small: bool) -> dict[str, Any]:
    rows, num_users, n = (10_000, 256, 20) if small else (1_000_000, 4096, 20)
    weight, users = normal(rows, DIM), [normal(num_users, DIM) for _ in range(ROTATION)]
    scores = torch.empty(num_users, n, dtype=torch.float32, device="cuda")
    indices = torch.empty(num_users, n, dtype=torch.int64, device="cuda")

    def run(turn: int) -> None:
        tensors = (scores, indices)
        kernels("peel_score_dense", weight, rows, DIM, users[turn], num_users, n, *tensors)

    run(0)
    want = torch.topk(users[0] @ weight.T, n).values
    torch.testing.assert_close(scores, want, rtol=1e-4, atol=1e-4)
    own = torch.einsum("und,ud->un", weight[indices], users[0])
    torch.testing.assert_close(own, scores, rtol=1e-4, atol=1e-4)
    return {
        "case": f"{n} best of {rows} rows for {num_users} users",
        "ours": microseconds(run),
        "captured": microseconds(captured(run)),
        "peer": "torch matmul and topk",
        "theirs": microseconds(lambda turn: torch.topk(users[turn] @ weight.T, n)),
        "bytes": 4 * DIM * (rows + num_users) + 12 * num_users * n,
    }


def score_one_user(kernels: Kernels, small: bool) -> dict[str, Any]:
    """Rows of 4 bits, held in item groups of 4,000 rows."""
    group_rows, num_groups, n = 4_000, 3 if small else 2_500, 20
    rows = group_rows * num_groups
    offsets, scales_at = (ctypes.c_uint32 * 3)(), ctypes.c_int64()
    kernels.library.peel_packed_bytes.restype = ctypes.c_int64
    group_bytes = kernels.library.peel_packed_bytes(
        ctypes.c_int64(group_rows), ctypes.c_int64(DIM), offsets, ctypes.byref(scales_at)
    )
    bytes_ = torch.randint(256, (num_groups, group_bytes), dtype=torch.uint8, device="cuda")
    scales = torch.rand(num_groups, group_rows, dtype=torch.float16, device="cuda") + 1
    bytes_[:, scales_at.value : scales_at.value + 2 * group_rows] = scales.view(torch.uint8)
    groups = torch.arange(num_groups, device="cuda")
    of_group = torch.tensor(list(offsets), device="cuda") + group_bytes // 64 * groups[:, None]
    block_offsets = of_group.flatten().to(torch.int32)
    # (layers as 64 bits, first_block, row_end)
    entries = [torch.full_like(groups, 0b111), torch.zeros_like(groups), 3 * groups]
    entries.append(group_rows * (groups + 1))
    directory = torch.stack(entries, dim=1).to(torch.int32)
    levels, users = normal(510), normal(ROTATION, DIM)
    scores = torch.empty(1, n, dtype=torch.float32, device="cuda")
    indices = torch.empty(1, n, dtype=torch.int64, device="cuda")

    def run(turn: int) -> None:
        table = (directory, block_offsets, num_groups, rows, DIM, bytes_, levels)
        kernels("peel_score_planes", *table, users[turn], 1, n, scores, indices)

    run(0)
    assert bool((scores.diff() <= 0).all())
    assert indices.unique().numel() == n
    return {
        "case": f"{n} best of {rows} rows of 4 bits for 1 user",
        "ours": microseconds(run),
        "captured": microseconds(captured(run)),
        "peer": None,
        "theirs": None,
        "bytes": bytes_.numel(),
    }


CASES = [lookup, lookup_planes, training_step, topk, score_many_users, score_one_user]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path)
    parser.add_argument("--small", action="store_true", help="sizes for compute-sanitizer")
    parser.add_argument("--append", type=Path, help="file that gets a JSON line per case")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    kernels = Kernels(arguments.library)
    limit = copy_bytes_per_microsecond()
    card = torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}, a copy moves {limit / 1e6:.2f} TB/s")
    for case in CASES:
        row = case(kernels, arguments.small)
        kernels.check_offenders()
        row["share_of_limit"] = row["bytes"] / limit / row["ours"]
        ratio = f"{row['theirs'] / row['ours']:.2f}x {row['peer']}" if row["peer"] else "no peer"
        times = f"{row['ours']:.0f} us, {row['captured']:.0f} as a graph"
        print(f"{row['case']}: {times}, {ratio}, {row['share_of_limit']:.2f} of a copy")

        if arguments.append:
            row |= {"card": card, "torch": torch.__version__, "copy_bytes_per_us": limit}
            with arguments.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
