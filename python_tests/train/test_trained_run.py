"""A finished run: what opening it reads and refuses, and what it recommends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from peel_ext.config import ClusteringConfig, PipelineConfig, PretrainingConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.errors import BudgetError, DataError, DependencyError, RunError
from peel_ext.train import trained_run
from peel_ext.train.pipeline import TrainedRun, run_pipeline
from peel_ext.train.run_folder import RunFolder

CONFIG = PipelineConfig(
    pretraining=PretrainingConfig(embedding_dim=16, epochs=2, steps_per_epoch=4),
    clustering=ClusteringConfig(num_groups=3),
)


@pytest.fixture(scope="module")
def pairs() -> set[tuple[str, int]]:
    """Everything there is in the data: 150 users, whose ids are strings, and 200 items."""
    made = make_interactions(SyntheticConfig(num_users=150, num_items=200, mean_interactions=12))
    rows = {*zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)}
    rows |= {(item % 150, item) for item in range(200)}
    return {(f"u{user}", 7 * item) for user, item in rows}


@pytest.fixture(scope="module")
def folder(pairs: set[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serving")
    lines = "".join(f"{user},{item}\n" for user, item in sorted(pairs))
    (place / "shop.csv").write_text("user,item\n" + lines)
    run_pipeline(place / "shop.csv", place / "run", CONFIG)
    return place / "run"


@pytest.fixture
def run(folder: Path) -> TrainedRun:
    return TrainedRun.open(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A run whose files a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_stage(folder: Path, stage: str, change=dict, documents=None) -> None:
    """Saves a stage anew with what a function makes of its tensors, and documents with it."""
    run = RunFolder(folder)
    facts = {name: fact for name, fact in run.stages[stage].items() if name != "sha256"}
    for name, value in (documents or {}).items():
        run.write_document(name, value)
    run.finish(stage, change(run.load(stage)), facts)


# ---- opening ----


def test_the_full_table_is_the_weight(run: TrainedRun) -> None:
    assert np.array_equal(run.item_vectors, run.embedding.weight.detach().numpy())
    assert run.full_bytes == run.item_vectors.nbytes


def test_recommending_without_a_budget_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\nfrom peel_ext.train.trained_run import TrainedRun\n"
        "run = TrainedRun.open(sys.argv[1])\n"
        "assert (run.recommend(['u3', 'u5'], 4).items >= 0).all()\n"
        "assert len(run.seen([0]).items) and run.users and run.new_users is not None\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'pandas', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(folder)], check=True)


@pytest.mark.parametrize("name", ["pretraining.safetensors", "users.json", "new_users.json"])
def test_a_missing_file_is_refused_at_once(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(RunError, match=f"{name}: not readable: No such file"):
        TrainedRun.open(copy)


@pytest.mark.parametrize(
    ("stage", "part"),
    [
        ("pretraining", "user_vectors"),
        ("pretraining", "item_vectors"),
        ("clustering", "user_group"),
        ("data", "train"),
        ("block_weights", "embedding"),
    ],
)
def test_a_damaged_part_is_refused_when_it_is_read(copy: Path, stage: str, part: str) -> None:
    path = copy / f"{stage}.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    opened = TrainedRun.open(copy)
    with pytest.raises(RunError, match=f"{stage}.safetensors: damaged"):
        getattr(opened, part)


def test_a_part_of_a_later_training_is_refused(copy: Path) -> None:
    opened = TrainedRun.open(copy)
    edit_stage(copy, "clustering", lambda made: {**made, "centroids": -made["centroids"]})
    assert len(opened.user_vectors) == len(opened.users)
    with pytest.raises(RunError, match=r"clustering.safetensors: damaged"):
        _ = opened.centroids


def test_names_of_items(copy: Path) -> None:
    assert TrainedRun.open(copy).item_names is None
    names = [None, *(f"Item {row}" for row in range(1, 200))]
    edit_stage(copy, "data", documents={"item_names.json": names})
    assert TrainedRun.open(copy).item_names == names
    edit_stage(copy, "data", documents={"item_names.json": names[1:]})
    with pytest.raises(RunError, match=r"item_names.json: expected a list of 200 names"):
        _ = TrainedRun.open(copy).item_names


def test_names_go_with_the_data_they_were_of(copy: Path, tmp_path: Path) -> None:
    edit_stage(copy, "data", documents={"item_names.json": ["x"] * 200})
    (tmp_path / "other.csv").write_text("user,item\n1,a\n1,b\n2,b\n2,c\n")
    run = run_pipeline(tmp_path / "other.csv", copy, CONFIG, redo=True)
    assert len(run.items) == 3
    assert run.item_names is None


# ---- what users had ----


def test_everything_a_user_had_is_seen(run: TrainedRun, pairs: set[tuple[str, int]]) -> None:
    rows = np.array([7, 0, 7, 149])
    seen = run.seen(rows)
    for at, row in enumerate(rows):
        (user,) = run.users.to_ids([row])
        assert run.items.to_ids(seen[at]) == sorted(item for name, item in pairs if name == user)
    assert len(run.seen([])) == len(run.seen([]).items) == 0
    for bad in (-1, 150):
        with pytest.raises(IndexError, match=rf"user_rows contain {bad}, expected rows in \[0, 15"):
            run.seen([0, bad])


def test_what_was_neither_trained_on_nor_a_target_is_seen_too(copy: Path, folder: Path) -> None:
    def keep_from_training(data):
        """Moves the last training item of every user to the other ones, and adds a new one."""
        indptr, items = data["train_indptr"], data["train_items"]
        last = indptr[1:] - 1
        other = np.stack([items[last], np.full(len(last), 199)], axis=1)
        counts = np.arange(len(indptr), dtype=np.int64)
        return data | {
            "train_items": np.delete(items, last),
            "train_indptr": indptr - counts,
            "other_indptr": 2 * counts,
            "other_items": np.sort(other, axis=1).ravel(),
        }

    before = TrainedRun.open(folder)
    assert len(before.other.items) == 0
    assert before.other.counts.tolist() == [0] * 150
    edit_stage(copy, "data", keep_from_training)
    after = TrainedRun.open(copy)
    for row in range(150):
        want = np.union1d(before.seen([row]).items, [199])
        assert after.seen([row]).items.tolist() == want.tolist()
        found = after.recommend(after.users.to_ids([row]), 200).items
        assert not set(after.items.to_ids(want)) & set(found[found >= 0].tolist())


# ---- recommending ----


@pytest.mark.parametrize("budget", [None, 2000])
def test_lists_are_those_of_a_plain_ranking(
    run: TrainedRun, budget: int | None, monkeypatch
) -> None:
    monkeypatch.setattr(trained_run, "_BATCH_CELLS", 60)  # several batches
    users = [f"u{row}" for row in (9, 140, 9, 31, 77, 2, 101, 58)]
    found = run.recommend(users, 12, budget)
    assert found.users.tolist() == users
    assert found.scores.dtype == np.float32
    for at, user in enumerate(users):
        (row,) = run.users.to_rows([user])
        if budget is None:
            scores = run.item_vectors @ run.user_vectors[row]
            ids, held = np.argsort(-scores, kind="stable"), range(200)
        else:
            pee = run.embedding.generate(int(run.user_group[row]), budget)
            vector = run.embedding.rotate(run.embedding.weight.new_tensor(run.user_vectors[row]))
            ids, scores = (part[0] for part in pee.score(vector.numpy()[None], 200))
            held = pee.row_ids.tolist()
            assert len(held) < 200
        seen = set(run.seen([row]).items.tolist())
        want = [each for each in ids.tolist() if each in held and each not in seen][:12]
        assert found.items[at, : len(want)].tolist() == run.items.to_ids(want)
        assert (found.items[at, len(want) :] == -1).all()
        assert (found.scores[at] > -np.inf).sum() == len(want)


def test_what_is_left_out_is_for_the_caller_to_say(run: TrainedRun) -> None:
    users = ["u4", "u8"]
    everything = run.recommend(users, 200, exclude=None)
    assert (np.sort(everything.items, axis=1) == run.items.ids).all()
    best = everything.items[:, :3]
    for given in (best, best.tolist(), [tuple(best[0].tolist()), best[1][::-1]]):
        rest = run.recommend(users, 200, exclude=given)
        assert np.array_equal(rest.items[:, :197], everything.items[:, 3:])
        assert (rest.items[:, 197:] == -1).all()
        assert (rest.scores[:, 197:] == -np.inf).all()
    uneven = run.recommend(users, 2, exclude=[[], best[1]])
    assert uneven.items[0].tolist() == everything.items[0, :2].tolist()
    assert uneven.items[1].tolist() == everything.items[1, 3:5].tolist()


def test_users_come_in_any_sequence(run: TrainedRun) -> None:
    want = run.recommend(["u4", "u8"], 5)
    for users in (("u4", "u8"), np.array(["u4", "u8"]), np.array(["u4", "u8"], dtype=object)):
        assert np.array_equal(run.recommend(users, 5).items, want.items)
    none = run.recommend([], 5)
    assert none.items.shape == none.scores.shape == (0, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"users": ["u4", "u4000"]}, DataError, "user id 'u4000' is not known"),
        ({"users": [4]}, DataError, "user id 4 is not known: ids are strings"),
        ({"users": "u4"}, TypeError, "users must be a sequence of ids, got 'u4'"),
        ({"users": 4}, TypeError, "users must be a sequence of ids, got 4"),
        ({"users": [["u4"]]}, DataError, "ids must be all integers or all strings, got list"),
        ({"n": 0}, ValueError, "n must be an integer from 1 to 2147483647, got 0"),
        ({"n": 2.0}, ValueError, "n must be an integer from 1"),
        ({"budget_bytes": 9}, BudgetError, "needs at least"),
        ({"budget_bytes": 2e4}, TypeError, "budget_bytes must be an integer, got 20000.0"),
        ({"exclude": "all"}, ValueError, 'exclude must be "seen", None or lists of items, got \'a'),
        (
            {"exclude": [[7]]},
            ValueError,
            "exclude must have a list of items for each of 2 users, g",
        ),
        (
            {"exclude": 7},
            ValueError,
            "exclude must have a list of items for each of 2 users, got 7",
        ),
        ({"exclude": [[7], [8]]}, DataError, "exclude item id 8 is not known"),
        ({"exclude": [[7], 7]}, TypeError, "exclude items must be a sequence of ids, got 7"),
    ],
)
def test_mistakes_are_named(run: TrainedRun, arguments, error: type[Exception], named: str) -> None:
    with pytest.raises(error) as caught:
        run.recommend(**{"users": ["u4", "u8"], **arguments})
    assert named in str(caught.value)


def test_a_frame_has_a_line_for_every_item(run: TrainedRun) -> None:
    pandas = pytest.importorskip("pandas")
    found = run.recommend(["u8", "u4"], 3, exclude=[[], run.items.ids[:198]])
    frame = found.to_frame()
    assert list(frame) == ["user_id", "item_id", "rank", "score"]
    assert frame["user_id"].tolist() == ["u8"] * 3 + ["u4"] * 2
    assert frame["rank"].tolist() == [1, 2, 3, 1, 2]
    assert frame["item_id"].tolist() == [*found.items[0].tolist(), *found.items[1, :2].tolist()]
    assert frame["score"].tolist() == [*found.scores[0].tolist(), *found.scores[1, :2].tolist()]
    assert pandas.api.types.is_integer_dtype(frame["item_id"])


def test_a_frame_without_pandas(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run.recommend(["u8"], 3)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match="needs pandas: install it with pip install pandas"):
        found.to_frame()


def test_missing_items_with_names_are_none(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user,item\n1,a\n1,b\n2,b\n2,c\n")
    run = run_pipeline(tmp_path / "train.csv", tmp_path / "run", CONFIG)
    found = run.recommend([2, 1], 3)
    assert found.users.tolist() == [2, 1]
    assert found.items.tolist() == [["a", None, None], ["c", None, None]]
    assert found.to_frame()["item_id"].tolist() == ["a", "c"]
