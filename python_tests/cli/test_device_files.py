"""peel export, inspect, and recommend from what they make."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call
from servers import Server

from peel_ext.cli.main import main
from peel_ext.device import DeviceRecommender
from peel_ext.train.pipeline import TrainedRun


@pytest.fixture(scope="module")
def run(synthetic_run: Path) -> Path:
    return synthetic_run


@pytest.fixture(scope="module")
def devices(run: Path) -> Path:
    assert main(["export", str(run), "--out", str(run / "devices"), "--quiet"]) == 0
    return run / "devices"


def test_export_writes_a_file_a_group(run: Path, tmp_path: Path, capsys) -> None:
    code, printed, _ = call(capsys, "export", run, "--out", tmp_path / "d")
    assert code == 0
    assert printed.splitlines() == [str(tmp_path / "d" / f"group-{g}.peel") for g in range(3)]
    code, printed, _ = call(
        capsys, "export", run, "--out", tmp_path / "one", "--group", 2, "--no-item-ids", "--json"
    )
    (file,) = json.loads(printed)
    assert file["group"] == 2
    assert Path(file["path"]).stat().st_size == file["bytes"]
    with DeviceRecommender.open(file["path"]) as recommender:
        assert recommender.group == 2
        assert isinstance(recommender.recommend([0])[0], np.ndarray)


def test_a_device_agrees_with_the_run(run: Path, devices: Path) -> None:
    trained = TrainedRun.open(run)
    for group in range(3):
        pee = trained.embedding.generate(group, 20_000)
        with DeviceRecommender.open(devices / f"group-{group}.peel", 20_000) as recommender:
            assert recommender.nbytes == pee.nbytes
            user = trained.embedding.rotate(
                trained.embedding.weight.new_tensor(trained.user_vectors[5])
            ).numpy()
            items, scores = recommender.recommend(user=user, rotated=True, n=9)
            ids, want = pee.score(user[None], 9)
            assert items == trained.items.to_ids(ids[0])
            assert np.array_equal(scores, want[0])
            nearest = int(np.argmax(trained.centroids @ trained.user_vectors[5]))
            assert recommender.choose_group(user) == nearest


def test_inspect_tells_bytes_per_budget(devices: Path, tmp_path: Path, capsys) -> None:
    path = devices / "group-1.peel"
    code, printed, _ = call(capsys, "inspect", path, "--budgets", "5%,9,32KiB", "--json")
    assert code == 0
    facts = json.loads(printed)
    assert (facts["user group"], facts["bytes"]) == (1, path.stat().st_size)
    assert facts["behind them"] == ["item ids", "group centroids"]
    share, small, large = facts["budgets"]
    for row, budget in ((share, 38_400), (large, 32_768)):
        with DeviceRecommender.open(path, budget) as recommender:
            assert (row["bytes"], row["blocks"]) == (recommender.nbytes, recommender.num_blocks)
            items, _ = recommender.recommend(user=np.ones(64), rotated=True, n=10**6)
            assert row["rows"] == len(items)
    assert small["bytes"] is None
    with DeviceRecommender.open(path, small["minimum"]) as recommender:
        assert recommender.nbytes == small["minimum"]
    code, table, _ = call(capsys, "inspect", path)
    assert code == 0
    assert "all sound" in table
    (tmp_path / "torn").write_bytes(path.read_bytes()[:30_000])
    code, table, _ = call(capsys, "inspect", tmp_path / "torn")
    assert code == 0
    assert "of 195, all sound" in table or " of " in table


@pytest.mark.parametrize("who", [("--user", "5"), ("--history", "3,1,40")], ids=["user", "history"])
def test_export_for_one_user(run: Path, tmp_path: Path, capsys, who: tuple[str, str]) -> None:
    code, printed, _ = call(capsys, "export", run, "--out", tmp_path, *who, "--json")
    assert code == 0
    (file,) = json.loads(printed)
    assert file["path"] == str(tmp_path / "user.peel")
    assert Path(file["path"]).stat().st_size == file["bytes"]
    vector = np.load(file["vector"])
    assert vector.shape == (64,)
    prior = TrainedRun.open(run).prior
    assert prior > 0
    assert np.linalg.norm(vector - vector.mean()) == pytest.approx(1, abs=1e-4)
    assert vector.mean() * 8 == pytest.approx(prior, abs=1e-4)
    trained = TrainedRun.open(run)
    full = trained.embedding.rotate(trained.embedding.weight.detach()).numpy() @ vector
    if who[0] == "--history":
        assert file["known_count"] == 3
    else:
        row = trained.users.to_rows([5])[0]
        assert file["known_count"] == len(trained.train[row])
    with DeviceRecommender.open(file["path"], 20_000) as recommender:
        assert recommender.group == file["group"]
        assert recommender.choose_group(vector) == file["group"]
        items, _ = recommender.recommend(user=vector, rotated=True, n=10)
        best = set(trained.items.to_ids(np.argsort(-full)[:60].tolist()))
        assert len(best & set(items)) >= 8
        recommender.resize(2_000)
        assert recommender.nbytes <= 2_000
    code, _, told = call(capsys, "export", run, "--out", tmp_path, "--user", "nobody")
    assert code == 1
    assert "user 'nobody' is not known" in told


@pytest.mark.parametrize("at", [3, 50, 70, 400, 40_000, -100])
def test_inspect_finds_damage(devices: Path, tmp_path: Path, capsys, at: int) -> None:
    data = bytearray((devices / "group-0.peel").read_bytes())
    data[at] ^= 8
    (tmp_path / "bad.peel").write_bytes(data)
    code, printed, told = call(capsys, "inspect", tmp_path / "bad.peel")
    assert (code, printed) == (1, "")
    assert told.startswith(f"peel: {tmp_path / 'bad.peel'}: ")
    assert told.count("\n") == 1


def test_recommend_from_a_file(devices: Path, capsys) -> None:
    path = devices / "group-0.peel"
    arguments = ("recommend", path, "--history", "3,1", "-n", 4)
    code, printed, told = call(capsys, *arguments, "--budget", "10%")
    assert code == 0
    assert len(printed.splitlines()) == 4
    assert "group 0," in told
    code, printed, _ = call(capsys, *arguments, "--budget", "16KiB", "--json")
    answer = json.loads(printed)
    with DeviceRecommender.open(path, 16_384) as recommender:
        items, scores = recommender.recommend([3, 1], n=4)
        assert answer["bytes"] == recommender.nbytes
    assert [item["item"] for item in answer["items"]] == items
    assert [item["score"] for item in answer["items"]] == scores.tolist()


def test_similar_from_a_file(devices: Path, capsys) -> None:
    path = devices / "group-0.peel"
    code, printed, told = call(capsys, "similar", path, 3, "-n", 4, "--budget", "10%")
    assert code == 0
    with DeviceRecommender.open(path, 76_800) as recommender:
        items, scores = recommender.similar(3, n=4)
        held = recommender.nbytes
    lines = [f"{item}\t{score:.4f}" for item, score in zip(items, scores, strict=True)]
    assert printed.splitlines() == lines
    assert told == f"{held:,} bytes held\n"
    code, printed, _ = call(capsys, "similar", path, 3, "--json")
    with DeviceRecommender.open(path) as recommender:
        items, scores = recommender.similar(3)
        assert json.loads(printed) == {
            "bytes": recommender.nbytes,
            "items": [
                {"item": item, "score": score}
                for item, score in zip(items, scores.tolist(), strict=True)
            ],
        }
    with DeviceRecommender.open(path, item_ids=False) as recommender:
        rows, _ = recommender.similar(5, n=3)
    code, printed, _ = call(capsys, "similar", path, 5, "-n", 3, "--no-item-ids", "--json")
    assert [item["item"] for item in json.loads(printed)["items"]] == list(rows)


def test_similar_from_a_run_is_of_the_whole_table(run: Path, capsys) -> None:
    trained = TrainedRun.open(run)
    table = trained.embedding.weight.detach().numpy().astype(float)
    (row,) = trained.items.to_rows([3])
    table -= table.mean(axis=1, keepdims=True)  # the prior, which makes no two items alike
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosines = table @ table[row]
    cosines[row] = -2
    best = np.argsort(-cosines)[:5]
    code, printed, _ = call(capsys, "similar", run, 3, "-n", 5, "--json")
    assert code == 0
    answer = json.loads(printed)
    assert answer["bytes"] == trained.full_bytes
    assert [item["item"] for item in answer["items"]] == trained.items.to_ids(best)
    assert np.allclose([item["score"] for item in answer["items"]], cosines[best], atol=1e-6)
    code, printed, _ = call(capsys, "similar", run, 3, "-n", 10**6)
    assert len(printed.splitlines()) == len(trained.items) - 1


def test_similar_fetches_what_the_budget_has_room_for(devices: Path, capsys) -> None:
    path = devices / "group-0.peel"
    with DeviceRecommender.open(path, 16_384, item_ids=False) as recommender:
        row = recommender.recommend(user=np.ones(recommender.embedding_dim), rotated=True, n=1)[0][
            0
        ]
    server = Server(path.read_bytes())
    try:
        arguments = ("similar", server.url, row, "--no-item-ids", "--budget", "16KiB", "--json")
        code, printed, _ = call(capsys, *arguments)
        assert code == 0
        sent = sum(end - begin for begin, end in server.sent)
        assert sent <= json.loads(printed)["bytes"] + 4096
    finally:
        server.close()


def test_recommend_fetches_what_the_budget_has_room_for(devices: Path, capsys) -> None:
    server = Server((devices / "group-0.peel").read_bytes())
    try:
        for budget in ("16KiB", "2.5%"):
            server.sent.clear()
            arguments = ("recommend", server.url, "--history", "3,1", "-n", 4, "--no-item-ids")
            code, printed, _ = call(capsys, *arguments, "--budget", budget, "--json")
            assert code == 0
            sent = sum(end - begin for begin, end in server.sent)
            assert sent <= json.loads(printed)["bytes"] + 4096
    finally:
        server.close()


def test_a_pair_for_a_user_is_replaced_together(
    run: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(capsys, "export", run, "--out", tmp_path, "--user", 3)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("peel_ext.cli.export.write_atomically", fail)
    code, _, told = call(capsys, "export", run, "--out", tmp_path, "--user", 5)
    assert (code, told.splitlines()[-1]) == (
        1, "peel: cannot write the result: No space left on device",
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("cut", [1, 10_000])
def test_inspect_a_file_whose_end_is_missing(devices: Path, tmp_path: Path, capsys, cut) -> None:
    data = (devices / "group-0.peel").read_bytes()
    (tmp_path / "part.peel").write_bytes(data[:-cut])
    code, printed, _ = call(capsys, "inspect", tmp_path / "part.peel", "--json")
    assert code == 0
    facts = json.loads(printed)
    assert facts["behind them"][-1] == "one that is not all there"
    assert facts["blocks"].endswith("all sound")


def test_recommend_from_the_first_bytes_of_a_file(devices: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "part.peel"
    path.write_bytes((devices / "group-0.peel").read_bytes()[:60_000])
    code, printed, told = call(capsys, "recommend", path, "--history", "3,1", "-n", 4)
    assert (code, printed) == (1, "")
    assert "--no-item-ids" in told
    arguments = ("recommend", path, "--history", "3,1", "-n", 4, "--no-item-ids", "--json")
    code, printed, _ = call(capsys, *arguments)
    assert code == 0
    with DeviceRecommender.open(path, item_ids=False) as recommender:
        items, _ = recommender.recommend([3, 1], n=4)
    assert [item["item"] for item in json.loads(printed)["items"]] == list(items)


def missing_item(path: Path, budget: int) -> int:
    """An item that is not held under a budget."""
    with DeviceRecommender.open(path) as every, DeviceRecommender.open(path, budget) as some:
        user = np.ones(every.embedding_dim)
        (items, _), (held, _) = (
            each.recommend(user=user, rotated=True, n=10**6) for each in (every, some)
        )
        return int(min(set(items) - set(held)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "{devices}/group-0.peel", "--history", "x"), "items of this file are integ"),
        (("recommend", "{devices}/group-0.peel", "--history", "99999"), "item 99999 is not known"),
        (("recommend", "{devices}/group-0.peel", "--user", "1"), "--user needs a run folder"),
        (("recommend", "{devices}/group-0.peel", "--history", "1", "--budget", "9"), "at least"),
        (("recommend", "{devices}/none.peel", "--history", "1"), "cannot be opened: No such file"),
        (("recommend", "{run}/run.json", "--history", "1"), "run.json: not a .peel file"),
        (("recommend", "{devices}/group-0.peel", "--history", "1_0"), "item '1_0' is not known"),
        (
            ("recommend", "{devices}/none.peel", "--history", "1", "--budget", "1%"),
            "none.peel: cannot be opened: No such file",
        ),
        (("similar", "{devices}/group-0.peel", "x"), "item 'x' is not known: items of this file"),
        (("similar", "{devices}/group-0.peel", "99999"), "item 99999 is not known"),
        (("similar", "{devices}/group-0.peel", "1", "--budget", "9"), "this file needs at least"),
        (
            ("similar", "{devices}/group-0.peel", "{missing}", "--budget", "4KiB"),
            "item {missing} is not held: a larger budget may hold it",
        ),
        (("similar", "{devices}/none.peel", "1"), "cannot be opened: No such file"),
        (("similar", "{run}", "x"), "item 'x' is not known: ids of this run are integers"),
        (("similar", "{run}", "99999"), "item id 99999 is not known"),
        (("similar", "{run}", "1", "--budget", "1%"), "--budget is for a .peel file, not for a ru"),
        (("similar", "{run}", "1", "--no-item-ids"), "--no-item-ids is for a .peel file, not for"),
        (("inspect", "{run}/run.json"), "not a .peel file"),
        (("inspect", "{run}"), "cannot be read: Is a directory"),
        (
            ("export", "{run}", "--out", "{run}/x", "--group", "7"),
            "--group must be in [0, 3), got 7",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_1(
    run: Path, devices: Path, capsys, arguments: tuple[str, ...], message: str
) -> None:
    missing = missing_item(devices / "group-0.peel", 4_096)
    filled = [argument.format(run=run, devices=devices, missing=missing) for argument in arguments]
    code, printed, told = call(capsys, *filled)
    assert (code, printed) == (1, "")
    assert message.format(missing=missing) in told
    assert told.count("\n") == 1


def test_a_device_needs_no_torch(devices: Path) -> None:
    code = (
        "import sys\nfrom peel_ext.cli.main import main\n"
        "assert main(['inspect', sys.argv[1]]) == 0\n"
        "assert main(['recommend', sys.argv[1], '--history', '1']) == 0\n"
        "assert main(['similar', sys.argv[1], '1']) == 0\n"
        "heavy = {'torch', 'sklearn', 'pyarrow', 'safetensors', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    path = str(devices / "group-0.peel")
    subprocess.run([sys.executable, "-P", "-c", code, path], check=True, capture_output=True)
