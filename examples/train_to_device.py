"""Take users whom the model has never seen from training to a device that folds them in by itself.

    python examples/train_to_device.py                           # on made-up data
    python examples/train_to_device.py interactions.parquet --out run/

One tenth of the users stays out of every stage of training. Each of them then opens the file of the
nearest user group under a budget, and learns its vector from its history and the rows held. The table
says how much of the rest of its interactions is found so. Needs the extra `train`; what is done for a
device needs NumPy alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import PipelineConfig, PretrainingConfig, SplitConfig
from peel_ext.device import DeviceRecommender
from peel_ext.train.narration import Narration
from peel_ext.train.pipeline import TrainedRun, run_pipeline

SHARES = (0.2, 0.1, 0.05, 0.025)
N = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", default="synthetic", help="a file of interactions")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/train_to_device"), help="the run folder"
    )
    options = parser.parse_args(arguments)

    config = PipelineConfig(
        split=SplitConfig(new_user_share=0.1),
        pretraining=PretrainingConfig(epochs=2, temperature=0.1),  # to be quick
    )
    run = run_pipeline(options.data, options.out, config, progress=Narration())
    files = export_groups(run, options.out / "devices")

    histories = list(run.history)
    targets = list(run.history_test)
    users = [user for user, target in enumerate(targets) if len(target) and len(histories[user])]
    groups = choose_files(files, [histories[user] for user in users])

    full = measure(files, groups, histories, targets, users, None)
    size = run.full_bytes
    print(f"{len(users)} users whom the model has never seen, {len(files)} files")
    print(f"{'budget':>12} {'Recall@20':>10} {'kept':>7}")
    print(f"{'whole file':>12} {full:>10.4f} {1:>7.1%}")
    for share in SHARES:
        recall = measure(files, groups, histories, targets, users, int(size * share))
        kept = recall / full if full > 0 else float("nan")
        print(f"{int(size * share):>12,} {recall:>10.4f} {kept:>7.1%}")


def export_groups(run: TrainedRun, folder: Path) -> list[Path]:
    """Writes one file a user group. Items go by row, to keep this short."""
    folder.mkdir(exist_ok=True)
    centroids = run.embedding.rotate(torch.from_numpy(run.centroids)).numpy()
    files = [folder / f"group-{group}.peel" for group in range(len(run.centroids))]
    for group, path in enumerate(files):
        run.embedding.export(path, group, fold_in=run.fold_in_settings, centroids=centroids)
    return files


def choose_files(files: list[Path], histories: list[NDArray[np.int64]]) -> list[int]:
    """The user group of each new user, as any of the files tells it from the whole table."""
    with DeviceRecommender.open(files[0]) as whole:
        return [whole.choose_group(whole.fold_in(history)) for history in histories]


def measure(
    files: list[Path],
    groups: list[int],
    histories: list[NDArray[np.int64]],
    targets: list[NDArray[np.int64]],
    users: list[int],
    budget_bytes: int | None,
) -> float:
    """The mean Recall@20 of devices under a budget; None: of devices that hold the whole file."""
    recalls = []
    for group in sorted(set(groups)):
        with DeviceRecommender.open(files[group], budget_bytes) as device:
            for user in (user for user, of in zip(users, groups, strict=True) if of == group):
                items, _ = device.recommend(history=histories[user], n=N)
                found = np.isin(items, targets[user]).sum()
                recalls.append(found / min(N, len(targets[user])))
    return float(np.mean(recalls))


if __name__ == "__main__":
    main()
