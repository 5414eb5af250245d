"""What a run serves: lists of one user and of many, and vectors for other programs."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from commands import call

from peel_ext.cli.main import main
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train import trained_run
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.trained_run import TrainedRun

FAST = ("--epochs", "1", "--temperature", "0.1", "--groups", "3", "--quiet")


def user_id(user: int) -> str:
    """Ids that a csv file must quote."""
    return f'u{user}, "x"' if user % 10 == 3 else f"u{user}"


@pytest.fixture(scope="module")
def pairs() -> set[tuple[str, int]]:
    made = make_interactions(SyntheticConfig(num_users=100, num_items=150, mean_interactions=15))
    rows = zip(made.user_rows.tolist(), made.item_rows.tolist(), strict=True)
    return {(user_id(user), 7 * item) for user, item in rows}


@pytest.fixture(scope="module")
def run(pairs: set[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serving")
    with (place / "shop.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item"), *sorted(pairs)])
    assert main(["train", str(place / "shop.csv"), "--out", str(place / "run"), *FAST]) == 0
    return place / "run"


@pytest.fixture
def named(run: Path, tmp_path: Path) -> Path:
    """The same run with names of items, the first of which has none."""
    copy = Path(shutil.copytree(run, tmp_path / "named"))
    names = [None, *(f"Film {7 * row}" for row in range(1, len(TrainedRun.open(run).items)))]
    folder = RunFolder(copy)
    facts = {name: fact for name, fact in folder.stages["data"].items() if name != "sha256"}
    folder.write_document("item_names.json", names)
    folder.finish("data", folder.load("data"), facts)
    return copy


def one(capsys: pytest.CaptureFixture[str], run: Path, user: str, *more: object) -> dict:
    """What is recommended to one user."""
    return json.loads(call(capsys, "recommend", run, "--user", user, "--json", *more)[1])


def read_long(path: Path) -> list[tuple[str, int, int, float]]:
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        assert list(map(str, table.schema.types)) == ["string", "int64", "int32", "float"]
        assert table.schema.names == ["user_id", "item_id", "rank", "score"]
        return [tuple(row.values()) for row in table.to_pylist()]
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["user_id", "item_id", "rank", "score"]
    return [(user, int(item), int(rank), float(score)) for user, item, rank, score in rows]


# ---- what a user had ----


def test_nothing_a_user_had_is_recommended(run: Path, pairs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "lists.jsonl"
    assert call(capsys, "recommend", run, "--users", "all", "--out", out, "-n", 200)[0] == 0
    answers = list(map(json.loads, out.read_text().splitlines()))
    items = {item for _, item in pairs}
    assert [answer["user"] for answer in answers] == sorted({user for user, _ in pairs})
    for answer in answers:
        found = [item["item"] for item in answer["items"]]
        assert len(found) == len(set(found))
        assert set(found) == items - {item for user, item in pairs if user == answer["user"]}


@pytest.mark.parametrize("target", ["test", "validation"])
def test_what_was_rated_low_or_for_validation_is_known_too(
    pairs, tmp_path: Path, capsys, target: str
) -> None:
    rows = sorted(pairs)
    parts = {"train": rows[::2], "valid": rows[1::4], "test": rows[3::4]}
    folder = tmp_path / "data"
    folder.mkdir()
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rated = [(*pair, 1 + at % 5) for at, pair in enumerate(part)]
            csv.writer(file).writerows([("user", "item", "rating"), *rated])
    films = "".join(f"{item},Film {item}\n" for item in {item for _, item in pairs})
    (tmp_path / "films.csv").write_text("item,title\n" + films)
    options = ("--min-rating", "3", "--target", target, "--item-names", tmp_path / "films.csv")
    out = tmp_path / "run"
    assert call(capsys, "train", folder, "--out", out, *options, *FAST)[0] == 0
    assert len(TrainedRun.open(out).other.items)
    lists = tmp_path / "lists.jsonl"
    assert call(capsys, "recommend", out, "--users", "all", "--out", lists, "-n", 200)[0] == 0
    for answer in map(json.loads, lists.read_text().splitlines()):
        found = {item["item"] for item in answer["items"]}
        assert found
        assert not found & {item for user, item in pairs if user == answer["user"]}
        assert all(item["name"] == f"Film {item['item']}" for item in answer["items"])


def test_a_file_for_one_user_leaves_out_what_it_had(
    run: Path, pairs, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peel_ext.train import blending

    given = []
    before = blending.blend_for_users

    def note(*arguments):
        given.append(arguments[2])
        return before(*arguments)

    monkeypatch.setattr(blending, "blend_for_users", note)
    code, printed, _ = call(capsys, "export", run, "--out", tmp_path, "--user", "u4", "--json")
    assert code == 0
    trained = TrainedRun.open(run)
    (row,) = trained.users.to_rows(["u4"])
    (lists,) = given
    (seen,) = lists
    assert trained.items.to_ids(seen) == sorted(item for user, item in pairs if user == "u4")
    known = len(trained.train[row])
    assert json.loads(printed)[0]["known_count"] == known < len(seen)


NOTE = "peel: note: trained without the 20% kept for 'peel evaluate'; train with --test-share 0 to serve"


def test_it_says_what_the_run_was_not_trained_on(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "lists.csv"
    for verb in (
        ("recommend", run, "--user", "u4"),
        ("recommend", run, "--history", 7),
        ("recommend", run, "--users", "all", "--out", out),
        ("export", run, "--out", tmp_path / "devices", "--group", 0),
    ):
        code, printed, told = call(capsys, *verb)
        assert code == 0
        assert told.splitlines()[-1] == NOTE
        assert "note" not in printed
        code, printed, told = call(capsys, *verb, "--json")
        assert code == 0
        assert json.loads(printed)
        code, _, told = call(capsys, *verb, "--quiet")
        assert (code, told) == (0, "")


def test_a_run_of_everything_has_no_note(tmp_path: Path, capsys) -> None:
    (tmp_path / "train.csv").write_text("user,item\n1,1\n1,2\n2,2\n2,3\n")
    (tmp_path / "test.csv").write_text("user,item\n1,3\n")
    whole = [*FAST, "--test-share", "0"]
    for out, options, has_note in (("run", FAST, True), ("whole", whole, False)):
        assert main(["train", str(tmp_path), "--out", str(tmp_path / out), *options]) == 0
        code, printed, told = call(capsys, "recommend", tmp_path / out, "--user", 1)
        assert (code, printed) == (0, "")  # there is no item the user had not
        assert (NOTE in told) == has_note


# ---- many users ----


@pytest.mark.parametrize("budget", [None, "20%"])
def test_many_get_what_one_gets(
    run: Path, tmp_path: Path, capsys, budget: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_run, "_BATCH_CELLS", 70)  # batches of ten
    limits = ("-n", 7) if budget is None else ("-n", 7, "--budget", budget)
    whole = {}
    for suffix in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"lists.{suffix}"
        arguments = ("recommend", run, "--users", "all", "--out", out, *limits)
        assert call(capsys, *arguments)[:2] == (0, f"{out}\n")
        whole[suffix] = out
    answers = list(map(json.loads, whole["jsonl"].read_text().splitlines()))
    users, lists = [answer.pop("user") for answer in answers], copy.deepcopy(answers)
    trained = TrainedRun.open(run)
    if budget is None:
        assert users == trained.users.ids.tolist()
    else:
        groups = [answer["group"] for answer in answers]
        assert groups == sorted(groups)
        assert sorted(users) == trained.users.ids.tolist()
    for at in (0, 3, 41, 99):
        alone = one(capsys, run, users[at], *limits)
        scores = [[item.pop("score") for item in each["items"]] for each in (alone, lists[at])]
        # A budget turns users into the space of the blocks, many at once: that rounds as it likes.
        assert scores[1] == (scores[0] if budget is None else pytest.approx(scores[0], abs=1e-6))
        assert lists[at] == alone
    want = [
        (user, item["item"], rank, np.float32(item["score"]))
        for user, answer in zip(users, answers, strict=True)
        for rank, item in enumerate(answer["items"], start=1)
    ]
    assert read_long(whole["parquet"]) == want
    assert [(*row[:3], np.float32(row[3])) for row in read_long(whole["csv"])] == want


def test_users_come_from_a_file_or_standard_input(
    run: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ["u9", user_id(13), "u2"]
    text = "\ufeff" + "\r\n".join([*users, "", "u9"]) + "\n\n"
    (tmp_path / "users.txt").write_text(text, encoding="utf-8", newline="")
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    out = tmp_path / "lists.csv"
    for source in (tmp_path / "users.txt", "-"):
        arguments = ("recommend", run, "--users", source, "--out", out, "-n", 2, "--json")
        code, printed, told = call(capsys, *arguments)
        assert code == 0
        assert json.loads(printed) == {"path": str(out), "users": 3, "items": 6}
        assert told.startswith("recommend     3 users, 6 items, ")
        assert [row[0] for row in read_long(out)] == [user for user in users for _ in range(2)]
        out.unlink()


def test_integer_ids_stay_integers(tmp_path: Path, capsys) -> None:
    lines = "".join(f"{user},i{item}\n" for user in range(6) for item in range(user, user + 4))
    (tmp_path / "a.csv").write_text("user,item\n" + lines)
    run, out = tmp_path / "run", tmp_path / "lists.parquet"
    assert main(["train", str(tmp_path / "a.csv"), "--out", str(run), *FAST]) == 0
    (tmp_path / "users").write_text(" 4\n04\n2\n")
    code, _, _ = call(capsys, "recommend", run, "--users", tmp_path / "users", "--out", out)
    assert code == 0
    table = pyarrow.parquet.read_table(out)
    assert list(map(str, table.schema.types)) == ["int64", "string", "int32", "float"]
    assert list(dict.fromkeys(table["user_id"].to_pylist())) == [4, 2]
    (tmp_path / "users").write_text("4\n1_0\nx\n99\n7" + "0" * 30 + "\n")
    code, _, told = call(capsys, "recommend", run, "--users", tmp_path / "users", "--out", out)
    assert code == 1
    assert "4 of 5 users are not known: '1_0', 'x', '99', ..." in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--users", "{tmp}/unknown", "--out", "{tmp}/a.csv"),
            "unknown: 2 of 3 users are not known",
        ),
        (("--users", "{tmp}/unknown", "--out", "{tmp}/a.csv"), "not known: 'nobody', '7'"),
        (("--users", "{tmp}/none", "--out", "{tmp}/a.csv"), "none: not readable: No such file"),
        (("--users", "{tmp}", "--out", "{tmp}/a.csv"), "not readable: Is a directory"),
        (("--users", "{tmp}/empty", "--out", "{tmp}/a.csv"), "expected one id of a user a line"),
        (("--users", "{tmp}/latin", "--out", "{tmp}/a.csv"), "latin:2: not UTF-8 text"),
        (("--users", "all", "--out", "{tmp}/x/a.csv"), "x/a.csv cannot be written: No such file"),
        (("--users", "all", "--out", "/proc/a.csv"), "--out /proc/a.csv cannot be written: "),
        (
            ("--users", "all", "--out", "{tmp}/folder.csv"),
            "folder.csv cannot be written: not a file",
        ),
        (("--users", "all", "--out", "{tmp}/a.csv", "--budget", "9"), "needs at least"),
        (("--users", "all"), "--users and --out must be given together"),
        (("--user", "u4", "--out", "{tmp}/a.csv"), "--users and --out must be given together"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    run: Path, tmp_path: Path, capsys, monkeypatch, arguments: tuple[str, ...], message: str
) -> None:
    def work(*_: object) -> None:
        pytest.fail("work was begun")

    monkeypatch.setattr(TrainedRun, "rank", work)
    (tmp_path / "unknown").write_text("u4\nnobody\n7\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"u4\nu\xff\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a.csv").write_text("what was there")
    before = sorted(tmp_path.iterdir())
    code, printed, told = call(
        capsys, "recommend", run, *(each.format(tmp=tmp_path) for each in arguments)
    )
    assert (code, printed) == (1, "")
    assert message in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "a.csv").read_text() == "what was there"


@pytest.mark.parametrize("name", ["lists.txt", "lists", ".csv", "lists.CSV"])
def test_other_suffixes_are_usage_errors(run: Path, capsys, name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["recommend", str(run), "--users", "all", "--out", name])
    assert caught.value.code == 2
    assert f"{name!r} has no suffix that is known: expected .parquet" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_what_is_interrupted_leaves_the_old_file(
    run: Path, tmp_path: Path, capsys, monkeypatch, suffix: str
) -> None:
    monkeypatch.setattr(trained_run, "_BATCH_CELLS", 70)
    before, calls = TrainedRun.rank, []

    def stop(self: TrainedRun, *arguments: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return before(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainedRun, "rank", stop)
    out = tmp_path / f"lists.{suffix}"
    out.write_text("what was there")
    arguments = ("recommend", run, "--users", "all", "--out", out, "-n", 7, "--quiet")
    code, printed, told = call(capsys, *arguments)
    assert (code, printed, told) == (130, "", "peel: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "what was there"


def test_a_device_file_knows_no_users(run: Path, tmp_path: Path, capsys) -> None:
    assert call(capsys, "export", run, "--out", tmp_path, "--group", 0)[0] == 0
    arguments = ("recommend", tmp_path / "group-0.peel", "--users", "all", "--out", "a.csv")
    code, printed, told = call(capsys, *arguments)
    assert (code, printed) == (1, "")
    assert told == (
        "peel: --users needs a run folder: a .peel file knows no users, give --history, and of a "
        "bundle --bundle-user\n"
    )


def test_without_a_budget_nothing_heavy_is_imported(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom peel_ext.cli.main import main\n"
        "run, out = sys.argv[1:]\n"
        "assert main(['recommend', run, '--user', 'u4']) == 0\n"
        "assert main(['recommend', run, '--history', '7,14']) == 0\n"
        "assert main(['vectors', run, '--out', out]) == 0\n"
        "assert main(['similar', run, '7']) == 0\n"
        "assert main(['recommend', run, '--users', 'all', '--out', out + '/a.jsonl']) == 0\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'pandas', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert main(['recommend', run, '--users', 'all', '--out', out + '/a.csv']) == 0\n"
        "heavy = {'torch', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-P", "-c", code, str(run), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)


# ---- on a terminal, and names ----


def test_a_table_where_somebody_looks(run: Path, named: Path, capsys, monkeypatch) -> None:
    found = one(capsys, named, "u4", "-n", 12)["items"]
    plain = one(capsys, run, "u4", "-n", 12)["items"]
    assert [{**item, "name": None} for item in plain] == [{**item, "name": None} for item in found]
    assert [item["name"] for item in found] == [f"Film {item['item']}" for item in found]
    piped = call(capsys, "recommend", named, "--user", "u4", "-n", 12)[1]
    assert piped == "".join(f"{item['item']}\t{item['score']:.4f}\n" for item in plain)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = call(capsys, "recommend", named, "--user", "u4", "-n", 12)[1].splitlines()
    assert shown[0].split() == ["rank", "item", "name", "score"]
    for rank, (line, item) in enumerate(zip(shown[1:], found, strict=True), start=1):
        score = f"{item['score']:.4f}"
        assert line.split() == [str(rank), str(item["item"]), *item["name"].split(), score]
    assert len({len(line) for line in shown}) == 1
    assert len({line.index("Film") for line in shown[1:]} | {shown[0].index("name")}) == 1
    bare = call(capsys, "recommend", run, "--user", "u4", "-n", 12)[1].splitlines()
    assert bare[0].split() == ["rank", "item", "score"]
    monkeypatch.setenv("COLUMNS", "24")
    cut = call(capsys, "recommend", named, "--user", "u4", "-n", 12)[1].splitlines()
    assert {len(line) for line in cut} == {28}  # as narrow as eight columns of a name allow
    assert "…" not in cut[1]


def test_an_item_without_a_name(named: Path, capsys) -> None:
    trained = TrainedRun.open(named)
    (user,) = next(
        users for users in ([each] for each in trained.users.ids)
        if 0 not in trained.seen(trained.users.to_rows(users)).items
    )  # fmt: skip
    items = one(capsys, named, user, "-n", 200)["items"]
    assert [item["name"] for item in items if item["item"] == 0] == [None]
    out = named.parent / "lists.jsonl"
    assert call(capsys, "recommend", named, "--users", "all", "--out", out, "-n", 200)[0] == 0
    lines = list(map(json.loads, out.read_text().splitlines()))
    assert next(line for line in lines if line["user"] == user)["items"] == items


def test_cells_of_any_text_are_aligned(capsys, monkeypatch) -> None:
    from peel_ext.cli.tables import format_table

    monkeypatch.setenv("COLUMNS", "80")
    (head, line) = format_table(["a", "b"], [["z" * 90, "1"]], right=[1], shorten=0)
    assert (len(head), line) == (80, "z" * 76 + "…  1")
    lines = format_table(
        ["a", "b"], [["x\x1b[2J\n", "1"], ["日本", "22"], ["e\u0301", "3"]], right=[1], shorten=0
    )
    assert lines == ["a        b", "x\ufffd[2J\ufffd   1", "日本    22", "e\u0301        3"]


# ---- vectors ----


def test_vectors_rank_as_recommend_does(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "vectors"
    names = ["item_vectors", "user_vectors", "item_ids", "user_ids"]
    code, printed, _ = call(capsys, "vectors", run, "--out", out)
    assert (code, printed.splitlines()) == (0, [str(out / f"{name}.npy") for name in names])
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.npy" for name in names)
    items, users, item_ids, user_ids = (np.load(out / f"{name}.npy") for name in names)
    assert (items.dtype, users.dtype, item_ids.dtype) == (np.float32, np.float32, np.int64)
    assert user_ids.dtype.kind == "U"
    trained = TrainedRun.open(run)
    for row in (0, 13, 99):
        scores = items @ users[row]
        scores[trained.seen([row]).items] = -np.inf
        want = one(capsys, run, str(user_ids[row]), "-n", 5)["items"]
        order = np.argsort(-scores, kind="stable")[:5]
        assert item_ids[order].tolist() == [item["item"] for item in want]
        np.testing.assert_allclose(scores[order], [item["score"] for item in want], rtol=1e-5)
    code, printed, _ = call(capsys, "vectors", run, "--out", out, "--json")
    assert json.loads(printed)[0] == {
        "path": str(out / "item_vectors.npy"), "shape": list(items.shape), "dtype": "float32",
    }  # fmt: skip


def test_ids_that_a_file_of_arrays_cannot_keep(tmp_path: Path, capsys) -> None:
    users = [user for user in range(4) for _ in range(3)]
    items = [item for user in range(4) for item in ("a\0", "b", f"c{user}")]
    table = pyarrow.table({"user": users, "item": items})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "a.parquet"), "--out", str(out), *FAST]) == 0
    code, _, told = call(capsys, "vectors", out, "--out", tmp_path / "v")
    assert code == 1
    assert "item 'a\\x00' cannot be kept in a .npy file" in told
    assert not (tmp_path / "v").exists()


def test_vectors_are_replaced_together(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    assert call(capsys, "vectors", run, "--out", tmp_path)[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    save, calls = np.save, []

    def fail(*arguments, **options) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(np, "save", fail)
    code, printed, told = call(capsys, "vectors", run, "--out", tmp_path)
    assert (code, printed) == (1, "")
    assert told == "peel: cannot write the result: No space left on device\n"
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    code, _, told = call(capsys, "vectors", run, "--out", run / "run.json")
    assert (code, told.split(": ", 1)[1]) == (
        1, f"--out {run / 'run.json'} cannot be made: File exists\n",
    )  # fmt: skip


# ---- settings ----


@pytest.mark.parametrize("verb", ["recommend", "evaluate", "export", "vectors"])
def test_settings_that_cannot_be_had_are_refused_first(verb: str, tmp_path: Path) -> None:
    more = {"recommend": ["--user", "1"], "evaluate": []}.get(verb, ["--out", str(tmp_path / "x")])
    command = [sys.executable, "-P", "-m", "peel_ext.cli.main", verb, str(tmp_path), *more]
    for name, value in (("PEEL_NUM_THREADS", "all"), ("PEEL_ISA", "abacus")):
        finished = subprocess.run(
            command, env={**os.environ, name: value}, capture_output=True, text=True, check=False
        )
        assert (finished.returncode, finished.stdout) == (1, "")
        assert re.fullmatch(rf"peel: {name} is '{value}', .*\n", finished.stderr)
        assert list(tmp_path.iterdir()) == []
