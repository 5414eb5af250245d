"""Write the files of all users of a run with Spark.

    pip install pyspark
    python examples/spark_users.py run/ files/

What is written is Parquet with a line for each user: its file, and the vector that its device continues.
Needs Java, the extra `train` wherever Spark runs, and the run folder where every machine can read it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
from pyspark.sql import SparkSession

from peel_ext.scale import export_users
from peel_ext.train.trained_run import TrainedRun

BUDGET = 65_536


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("out", type=Path, help="the folder of Parquet files")
    options = parser.parse_args(arguments)

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    run = str(options.run.resolve())
    known = TrainedRun.open(run).users
    kind = "long" if known.holds_integers else "string"
    spark = SparkSession.builder.appName("users").config("spark.ui.enabled", "false").getOrCreate()
    users = spark.createDataFrame([(user,) for user in known.ids.tolist()], f"user {kind}")

    def make_files(batches: Iterator[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
        for batch in batches:
            yield export_users(batch, run, BUDGET)

    schema = f"user {kind}, group long, known_count long, vector array<float>, file binary"
    files = users.mapInArrow(make_files, schema)
    files.write.mode("overwrite").parquet(str(options.out.resolve()))
    print(f"{options.out}: the files of {spark.read.parquet(str(options.out)).count()} users")
    spark.stop()


if __name__ == "__main__":
    main()
