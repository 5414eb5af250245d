"""Makes a folder of data whose validation part is the test part of some of the users.

    python bench/validation_users.py FOLDER OUT [--share 0.1] [--seed 0]

For a test part that is drawn otherwise than at random, where there are no times: what settings are chosen
on is then drawn as the test part is. Those users are not measured on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet


def main() -> None:
    """Reads the command line and writes the three parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="with train.parquet and test.parquet")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--share", type=float, default=0.1, help="of the users of the test part")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of users")
    options = parser.parse_args()
    if not 0 < options.share < 1:
        parser.error(f"--share must lie between 0 and 1, got {options.share}")
    if options.out.exists():
        parser.error(f"OUT must not be there yet, got {options.out}")
    test = pyarrow.parquet.read_table(options.folder / "test.parquet")
    user_of_row = test["user_id"].to_numpy()
    users = np.unique(user_of_row)
    count = round(options.share * len(users))
    drawn = np.random.default_rng(options.seed).choice(users, count, replace=False)
    chosen = np.isin(user_of_row, drawn)
    options.out.mkdir(parents=True)
    shutil.copyfile(options.folder / "train.parquet", options.out / "train.parquet")
    for name, rows in (("valid", chosen), ("test", ~chosen)):
        table = test.filter(pyarrow.array(rows))
        pyarrow.parquet.write_table(table, options.out / f"{name}.parquet")
        print(f"{name}: {len(table)} interactions of {len(np.unique(user_of_row[rows]))} users")


if __name__ == "__main__":
    main()
