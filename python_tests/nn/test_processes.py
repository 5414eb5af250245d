"""ElasticEmbedding in several processes: shared, forked, pickled, and trained together."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from peel_ext import ElasticEmbedding, PlanesLayout, _core

BUDGET = 1500


def make(sparse: bool = False, rows: int = 80, seed: int = 7) -> ElasticEmbedding:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 16, generator=generator)
    module = ElasticEmbedding.from_pretrained(
        weight, freeze=False, sparse=sparse, num_groups=2, layout=PlanesLayout(rows_per_block=8)
    )
    module.refine_rows(1, torch.tensor([3, 9]))
    nn.init.normal_(module.refinement, generator=generator)
    module.fit_rotation()
    values = torch.rand(2, rows, generator=generator)
    values[:, [3, 9]] += 1
    module.set_row_values(values)
    return module


def views(module: ElasticEmbedding) -> list[Tensor]:
    """The whole table as each user group sees it, in full and under a budget."""
    with torch.no_grad():
        full = [module.table(group) for group in range(2)]
        with module.budget(BUDGET):
            return [*full, *(module.table(group) for group in range(2))]


def assert_same_views(module: ElasticEmbedding, want: list[Tensor]) -> None:
    for one, other in zip(views(module), want, strict=True):
        assert torch.equal(one, other)


# ---- copies ----


def test_pickles_and_saves_without_what_it_keeps() -> None:
    module = make()
    want = views(module)  # now there is something to keep
    with module.budget(BUDGET):
        module(torch.tensor([1]), 0)
    assert_same_views(pickle.loads(pickle.dumps(module)), want)
    small, large = (len(pickle.dumps(each)) for each in (make(), module))
    # Pickled storages are named by their addresses, whose digits vary. What is kept takes kilobytes.
    assert abs(large - small) < 64
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    twin = make(seed=8)
    before = views(twin)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert_same_views(twin, want)
    assert not torch.equal(views(twin)[2], before[2])
    assigned = make(seed=8)
    assigned.load_state_dict(module.state_dict(), assign=True)
    assert_same_views(assigned, want)


def test_shares_its_memory() -> None:
    module = make()
    want = views(module)
    assert module.share_memory() is module
    assert all(tensor.is_shared() for tensor in (*module.parameters(), *module.buffers()))
    assert_same_views(module, want)
    worker = multiprocessing.get_context("fork").Process(target=_halve, args=(module,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert torch.equal(module.table(1), want[1] / 2)
    # What another process writes torch cannot count; once told, the module sees it.
    torch.autograd.graph.increment_version([module.weight, module.refinement])
    assert not torch.equal(views(module)[3], want[3])


def _halve(module: ElasticEmbedding) -> None:
    with torch.no_grad():
        module.weight.mul_(0.5)
        module.refinement.mul_(0.5)


# ---- forked workers ----


class Lookups(Dataset):
    """Rows under a budget, looked up in the worker; enough of them for several threads."""

    def __init__(self, module: ElasticEmbedding) -> None:
        self.module = module

    def __len__(self) -> int:
        return 6

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        input = torch.randint(0, 80, (20_000,), generator=torch.Generator().manual_seed(at))
        with torch.no_grad():
            full = self.module(input, at % 2)
            with self.module.budget(BUDGET):
                return full, self.module(input, at % 2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_works_in_forked_workers() -> None:
    threads = _core.num_threads()
    try:
        _core.set_num_threads(3)
        data = Lookups(make())
        want = [data[at] for at in range(6)]  # the pool of threads exists before the fork
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork",
                            timeout=60)  # fmt: skip
        for got, expected in zip(loader, want, strict=True):
            assert torch.equal(got[0], expected[0])
            assert torch.equal(got[1], expected[1])
        assert torch.equal(data[0][1], want[0][1])  # and after it, in this process
    finally:
        _core.set_num_threads(threads)


# ---- two processes train together ----

STEPS = 3
CASES = [(budget, sparse) for budget in (None, BUDGET) for sparse in (False, True)]


def batch(step: int, half: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + half)
    input = torch.randint(0, 80, (12,), generator=generator)
    input[:2] = torch.tensor([3, 9])
    groups = torch.randint(0, 2, (12,), generator=generator)
    groups[:2] = 1
    return input, groups, torch.randn(12, 16, generator=generator)


def train(module: ElasticEmbedding, call: nn.Module, budget: int | None, halves: list[int]) -> dict:
    """State and first gradients after a few steps on halves of batches."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    first: dict[str, Tensor] = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        for half in halves:
            input, groups, target = batch(step, half)
            if budget is None:
                rows = call(input, groups)
            else:
                with module.budget(budget):
                    rows = call(input, groups)
            (((rows - target) ** 2).mean() / len(halves)).backward()
        if not first:
            first = {k: p.grad.to_dense().clone() for k, p in module.named_parameters()}
        optimizer.step()
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return {"state": state, "grad": first}


def worker(rank: int, folder: str) -> None:
    """What each of the two processes runs."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    results = []
    for budget, sparse in CASES:
        # Values that differ show that the first process hands its own to the second.
        module = make(sparse, seed=7 if rank == 0 else 8)
        together = nn.parallel.DistributedDataParallel(module)
        results.append(train(module, together, budget, [rank]))
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    code = (
        "import json, sys; rank, folder, tests = json.loads(sys.argv[1]);"
        "sys.path.insert(0, tests); import test_processes; test_processes.worker(rank, folder)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", code,
             json.dumps([rank, str(tmp_path), str(Path(__file__).parent)])],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for case, (budget, sparse) in enumerate(CASES):
        module = make(sparse)
        alone = train(module, module, budget, [0, 1])
        for part in ("grad", "state"):
            for name, want in alone[part].items():
                torch.testing.assert_close(both[0][case][part][name], want)
                assert torch.equal(both[0][case][part][name], both[1][case][part][name])
        assert alone["grad"]["refinement"].abs().sum() > 0
