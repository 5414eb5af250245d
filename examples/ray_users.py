"""Write the files of all users of a run with Ray Data, on as many machines as Ray has.

    pip install "ray[data]"
    python examples/ray_users.py run/ files/

What is written is Parquet with a line for each user: its file, and the vector that its device continues.
Needs the extra `train` wherever Ray runs, and the run folder where every machine can read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import ray

from peel_ext.scale import export_users
from peel_ext.train.trained_run import TrainedRun

BUDGET = 65_536


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("out", type=Path, help="the folder of Parquet files")
    options = parser.parse_args(arguments)

    ray.init(include_dashboard=False, object_store_memory=200_000_000)
    users = ray.data.from_arrow(pyarrow.table({"user": TrainedRun.open(options.run).users.ids}))
    files = users.map_batches(
        export_users,
        batch_format="pyarrow",
        batch_size=256,
        fn_kwargs={"run": str(options.run.resolve()), "budget_bytes": BUDGET},
    )
    files.write_parquet(str(options.out.resolve()))
    print(f"{options.out}: the files of {ray.data.read_parquet(str(options.out)).count()} users")


if __name__ == "__main__":
    main()
