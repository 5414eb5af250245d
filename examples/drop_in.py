"""Make a model nobody here wrote elastic: SASRec of RecTools, with its item embedding replaced.

    pip install 'rectools[torch]'
    python examples/drop_in.py

The model is trained as ever. Then its embedding becomes an elastic one, which learns what its rows are
worth from the lists of the full model. Under a budget the model is called as before. The data are made
up; the last item of every user is to be found. Needs torch and RecTools.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from peel_ext import ElasticEmbedding, replace_embeddings
from peel_ext.data import SyntheticConfig, make_interactions

ITEM_EMBEDDING = "item_model.item_net_blocks.0.ids_emb"
SHARES = (0.2, 0.1, 0.05, 0.025)
N = 20
HISTORY_WEIGHT = 0.3


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args(arguments)

    train, last = make_frames(options.users, options.items)
    dataset = Dataset.construct(train)
    model = train_sasrec(dataset, options.epochs)
    users = last.user_id.to_numpy()
    full = measure(model.recommend(users, dataset, k=N, filter_viewed=True), last)

    embedding = replace_embeddings(model.torch_model, ITEM_EMBEDDING)[ITEM_EMBEDDING]
    lists = model.recommend(users, dataset, k=5 * N, filter_viewed=True)
    embedding.set_row_values(value_rows(lists, dataset, embedding.num_embeddings))
    embedding.fit_rotation()

    size = embedding.num_embeddings * embedding.embedding_dim * 4
    print(f"{'budget':>12} {'bytes held':>12} {'HitRate@20':>10} {'kept':>7}")
    print(f"{'full table':>12} {size:>12,} {full:>10.4f} {1:>7.1%}")
    for share in SHARES:
        budget = int(size * share)
        with embedding.budget(budget):
            lists = model.recommend(
                users, dataset, k=N, filter_viewed=True,
                items_to_recommend=held_items(embedding, dataset),
            )  # fmt: skip
        hits = measure(lists, last)
        kept = hits / full if full > 0 else float("nan")
        held = embedding.generate(0, budget).nbytes
        print(f"{budget:>12,} {held:>12,} {hits:>10.4f} {kept:>7.1%}")


def make_frames(num_users: int, num_items: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made-up interactions in the columns of RecTools, and the last one of every user."""
    made = make_interactions(SyntheticConfig(num_users, num_items))
    frame = pd.DataFrame({"user_id": made.user_rows, "item_id": made.item_rows, "weight": 1.0})
    moments = pd.to_timedelta(np.arange(len(frame)), unit="s")  # they come in the order of time
    frame["datetime"] = pd.Timestamp("2026-01-01") + moments
    is_last = ~frame.duplicated("user_id", keep="last")
    train = frame[~is_last]
    return train, frame[is_last & frame.item_id.isin(train.item_id)]


def train_sasrec(dataset: Dataset, epochs: int) -> SASRecModel:
    """Trains on one core, silently."""
    seed_everything(0, verbose=False)

    def make_trainer() -> Trainer:
        return Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    model = SASRecModel(
        n_factors=64, n_blocks=1, n_heads=2, session_max_len=20, lr=0.005, verbose=0,
        get_trainer_func=make_trainer,
    )  # fmt: skip
    return model.fit(dataset)


def value_rows(lists: pd.DataFrame, dataset: Dataset, num_rows: int) -> torch.Tensor:
    """What every row is worth [1, num_rows]: its exposure in the lists of the full model, and its uses.

    A history is read through the same rows, so those of what users had count, too. The rows before the
    items are RecTools' own, such as padding; they are always held.
    """
    first = num_rows - dataset.item_id_map.size
    values = np.zeros(num_rows)
    np.add.at(values, first + dataset.interactions.df["item_id"], HISTORY_WEIGHT)
    rows = first + dataset.item_id_map.convert_to_internal(lists["item_id"])
    np.add.at(values, rows, 1 / (1 + np.exp((lists["rank"] - N) / 10)))
    values[:first] = values.max() + 1
    return torch.from_numpy(values)[None]


def held_items(embedding: ElasticEmbedding, dataset: Dataset) -> np.ndarray:
    """Ids of the items with a row under the budget in force: no others are candidates."""
    held = (embedding.table(0) != 0).any(dim=1).numpy()
    first = embedding.num_embeddings - dataset.item_id_map.size
    return dataset.item_id_map.convert_to_external(np.flatnonzero(held[first:]))


def measure(lists: pd.DataFrame, last: pd.DataFrame) -> float:
    """The share of users whose last item is in their list."""
    return len(lists.merge(last, on=["user_id", "item_id"])) / len(last)


if __name__ == "__main__":
    main()
