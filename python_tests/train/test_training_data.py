"""What of the data a run is trained on, and what is refused before training."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peel_ext.config import PipelineConfig, PretrainingConfig, ReadingConfig, SplitConfig
from peel_ext.data import (
    ItemLists,
    SyntheticConfig,
    make_interactions,
    read_interactions,
    read_split,
)
from peel_ext.device.item_prior import part_tastes
from peel_ext.errors import DataWarning, RunError
from peel_ext.metrics import rank_quality
from peel_ext.train.pipeline import TrainedRun, run_pipeline
from peel_ext.train.tuning import Tuned

SMALL = PipelineConfig(pretraining=PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4))


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    made = make_interactions(SyntheticConfig(num_users=150, num_items=200, mean_interactions=12))
    path = tmp_path / "shop.csv"
    pairs = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    path.write_text("user,item\n" + "".join(f"u{user},{7 * item}\n" for user, item in pairs))
    return path


# ---- what is trained on ----


def pairs_of(lists: ItemLists) -> set[tuple[int, int]]:
    return set(zip(lists.owners().tolist(), lists.items.tolist(), strict=True))


def test_a_test_share_of_0_trains_on_everything(data_file: Path, tmp_path: Path) -> None:
    whole = read_interactions(data_file)
    config = dataclasses.replace(SMALL, split=SplitConfig(test_share=0))
    run = run_pipeline(data_file, tmp_path / "run", config)
    assert pairs_of(run.train) == pairs_of(whole.csr())
    assert len(run.test.items) == 0
    assert run.folder.stages["data"]["split"] == "none"
    # The temperature is chosen all the same, on interactions held out for the choice alone.
    assert len(run.folder.load("tuning")["qualities"]) >= 3


def make_parts(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = sorted({(int(u), int(i)) for u, i in rng.integers(0, (30, 40), (900, 2))})
    for name, part in (("train", rows[::2]), ("valid", rows[1::4]), ("test", rows[3::4])):
        lines = "".join(f"{user},{item}\n" for user, item in part)
        (folder / f"{name}.csv").write_text("user,item\n" + lines)


def test_a_given_validation_part_is_what_settings_are_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_parts(tmp_path / "data")
    parts = read_split(tmp_path / "data")
    assert parts.validation is not None
    assert parts.test is not None
    given = {}

    def choose(data: Any, *_: Any, validation: Any, **others: Any) -> Any:
        given["train"], given["validation"] = data.lists, validation
        return Tuned(0.1, 16, (0.025,), np.zeros(0))

    monkeypatch.setattr("peel_ext.train.stages.choose_settings", choose)
    run = run_pipeline(tmp_path / "data", tmp_path / "run", SMALL)
    assert pairs_of(given["validation"]) == pairs_of(parts.validation.csr())
    assert pairs_of(given["train"]) == pairs_of(parts.train.csr())
    assert pairs_of(run.test) == pairs_of(parts.test.csr())
    # It is neither trained on nor recommended.
    assert pairs_of(run.other) == pairs_of(parts.validation.csr())
    config = dataclasses.replace(SMALL, split=SplitConfig(target="validation"))
    run = run_pipeline(tmp_path / "data", tmp_path / "second", config)
    assert given["validation"] is None
    assert pairs_of(run.test) == pairs_of(parts.validation.csr())
    assert pairs_of(run.other) == pairs_of(parts.test.csr())
    config = dataclasses.replace(SMALL, split=SplitConfig(test_share=0))
    run = run_pipeline(tmp_path / "data", tmp_path / "third", config)
    everything = [pairs_of(part.csr()) for part in (parts.train, parts.validation, parts.test)]
    assert pairs_of(run.train) == set.union(*everything)


def test_a_given_validation_part_judges_the_vectors_themselves(tmp_path: Path) -> None:
    made = make_interactions(SyntheticConfig(num_users=200, num_items=100, mean_interactions=20))
    part, pairs = np.arange(len(made)) % 10, list(zip(made.user_rows, made.item_rows, strict=True))
    (tmp_path / "data").mkdir()
    for name, chosen in (("train", part < 6), ("valid", part == 7), ("test", part > 7)):
        lines = "".join(f"{user},{item}\n" for user, item in compress(pairs, chosen))
        (tmp_path / "data" / f"{name}.csv").write_text("user,item\n" + lines)
    long = dataclasses.replace(SMALL.pretraining, epochs=10)
    config = dataclasses.replace(SMALL, pretraining=long)
    run = run_pipeline(tmp_path / "data", tmp_path / "run", config)
    stages = run.folder.stages
    tried = SMALL.tuning.temperatures  # and no training more, for the prior
    assert 2 <= len(run.folder.load("tuning")["qualities"]) <= len(tried)
    (chosen,) = stages["pretraining"]["prior_weights"]
    assert chosen != stages["tuning"]["prior"][0]  # where the search began
    users, items = part_tastes(run.user_vectors), part_tastes(run.item_vectors)
    held_out, counts = run.other, np.bincount(run.train.items, minlength=len(run.items))

    def quality(weight: float) -> float:
        scores = users @ items.T + weight * np.log(counts.clip(1))
        scores[run.train.owners(), run.train.items] = -np.inf
        lists = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        return rank_quality(lists, held_out.indptr, held_out.items).ndcg

    best = quality(chosen)
    assert best > quality(stages["tuning"]["prior"][0])
    # What the search takes for noise, and what rounding adds.
    assert all(quality(chosen + step) < best * 1.004 for step in (-0.1, -0.025, 0.025, 0.1))
    # The rows have it.
    prior = run.item_vectors @ run.user_vectors[0] - items @ users[0]
    others = chosen * np.log(counts.clip(1))
    np.testing.assert_allclose(prior - prior.mean(), others - others.mean(), atol=1e-5)
    given = dataclasses.replace(SMALL, pretraining=dataclasses.replace(long, prior=(0.3,)))
    run = run_pipeline(tmp_path / "data", tmp_path / "given", given)
    assert "prior_weights" not in run.folder.stages["pretraining"]
    assert run.folder.stages["tuning"]["prior"] == [0.3]


def test_what_is_rated_low_is_had_and_not_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = sorted({(int(u), int(i)) for u, i in rng.integers(0, (30, 40), (900, 2))})
    lines = "".join(f"{user},{item},{(user + item) % 5 + 1}\n" for user, item in rows)
    (tmp_path / "a.csv").write_text("user,item,rating\n" + lines)
    config = dataclasses.replace(SMALL, reading=ReadingConfig(min_rating=4))
    with pytest.warns(DataWarning, match="interactions are rated below 4"):
        run = run_pipeline(tmp_path / "a.csv", tmp_path / "run", config)
    low = {(user, item) for user, item in rows if (user + item) % 5 + 1 < 4}
    assert pairs_of(run.other) == low
    trained = pairs_of(run.train)
    assert trained | pairs_of(run.test) == set(rows) - low


def test_weights_reach_the_loss(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = sorted({(int(u), int(i)) for u, i in rng.integers(0, (30, 40), (900, 2))})

    def train(name: str, weight: Callable[[int, int], float], scale: str = "log") -> TrainedRun:
        lines = "".join(f"{user},{item},{weight(user, item)}\n" for user, item in rows)
        (tmp_path / f"{name}.csv").write_text("user,item,plays\n" + lines)
        config = dataclasses.replace(
            SMALL,
            reading=ReadingConfig(weight_column="plays"),
            pretraining=dataclasses.replace(SMALL.pretraining, weight_scale=scale),
        )
        return run_pipeline(tmp_path / f"{name}.csv", tmp_path / name, config)

    alike = train("alike", lambda user, item: 7)
    skewed = train("skewed", lambda user, item: 1 + 99 * (item % 2))
    linear = train("linear", lambda user, item: 1 + 99 * (item % 2), "linear")
    (tmp_path / "plain.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in rows))
    plain = run_pipeline(tmp_path / "plain.csv", tmp_path / "plain", SMALL)
    np.testing.assert_allclose(alike.user_vectors, plain.user_vectors, atol=1e-3)

    def likes_odd(run: TrainedRun) -> float:
        scores = run.user_vectors @ run.embedding.weight.detach().numpy().T
        return float(scores[:, 1::2].mean() - scores[:, ::2].mean())

    assert likes_odd(plain) < likes_odd(skewed) < likes_odd(linear)


def test_frames_and_interactions_train_as_files_do(data_file: Path, tmp_path: Path) -> None:
    import pandas as pd

    expected = run_pipeline(data_file, tmp_path / "file", SMALL)
    frame = pd.read_csv(data_file)
    for name, data in (("frame", frame), ("interactions", read_interactions(data_file))):
        run = run_pipeline(data, tmp_path / name, SMALL)
        assert np.array_equal(run.user_vectors, expected.user_vectors)
        run_pipeline(data, tmp_path / "file", SMALL)  # the same data, and so the same run
    with pytest.raises(TypeError, match="data must be a path, several paths, a frame"):
        run_pipeline(7, tmp_path / "x", SMALL)


# ---- what is refused before it costs time ----


def test_an_environment_variable_out_of_range(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEEL_NUM_THREADS", "all")
    code = (
        "import sys; from peel_ext.train.pipeline import run_pipeline; "
        "run_pipeline(*sys.argv[1:], progress=lambda *_: print('began'))"
    )
    command = [sys.executable, "-P", "-c", code, str(data_file), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "ValueError: PEEL_NUM_THREADS is 'all', expected an integer" in done.stderr
    assert not done.stdout


def test_a_folder_that_cannot_be_written(data_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot be made: .*file is a file"):
            run_pipeline(tmp_path / "none.csv", out, SMALL)


def test_names_of_items_are_kept_and_may_come_later(data_file: Path, tmp_path: Path) -> None:
    run = run_pipeline(data_file, tmp_path / "run", SMALL)
    with pytest.raises(RunError):
        run.folder.read_document("item_names.json")
    ids = run.items.to_ids(range(len(run.items)))
    (tmp_path / "names.csv").write_text("item,title\n" + "".join(f"{i},the {i}\n" for i in ids))
    run = run_pipeline(data_file, tmp_path / "run", SMALL, item_names=tmp_path / "names.csv")
    assert run.folder.read_document("item_names.json") == [f"the {item}" for item in ids]


def test_other_ids_of_the_same_rows_are_other_data(data_file: Path, tmp_path: Path) -> None:
    run_pipeline(data_file, tmp_path / "run", SMALL)
    data_file.write_text(data_file.read_text().replace("u", "v").replace("vser", "user"))
    with pytest.raises(RunError, match="other data"):
        run_pipeline(data_file, tmp_path / "run", SMALL)


def test_settings_of_reading_need_something_to_read(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, reading=ReadingConfig(min_rating=4))
    with pytest.raises(ValueError, match="settings of reading are for data that is yet to be read"):
        run_pipeline("synthetic", tmp_path / "run", config)


def test_repeated_pairs_are_counted_and_their_weights_added(tmp_path: Path) -> None:
    rows = "".join(f"{user},{item},2\n" for user in range(20) for item in range(10))
    (tmp_path / "a.csv").write_text("user,item,plays\n" + rows + "0,0,5\n0,0,1\n")
    config = dataclasses.replace(
        SMALL,
        reading=ReadingConfig(weight_column="plays"),
        split=SplitConfig(test_share=0),
    )
    run = run_pipeline(tmp_path / "a.csv", tmp_path / "run", config)
    assert run.folder.stages["data"]["repeats_merged"] == 2
    assert run.folder.load("data")["train_weights"].tolist() == [8.0] + [2.0] * 199


def test_a_split_beside_a_given_test_part_says_what_it_is_for(tmp_path: Path) -> None:
    make_parts(tmp_path / "data")
    config = dataclasses.replace(SMALL, split=SplitConfig(method="last"))
    with pytest.warns(DataWarning, match="split 'last' is only how interactions are held"):
        run_pipeline(tmp_path / "data", tmp_path / "run", config)
    with pytest.raises(TypeError, match="config must be a PipelineConfig, got dict"):
        run_pipeline(tmp_path / "data", tmp_path / "other", {"epochs": 1})  # type: ignore[arg-type]
