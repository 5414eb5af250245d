"""peel bundle, and inspect, recommend and similar of what it makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import call
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext.cli.main import main
from peel_ext.device import DeviceRecommender
from peel_ext.format import write_file

pytestmark = pytest.mark.once
NAMES = {"7": "7.peel", "a/b c": "a%2Fb c.peel", "ünal": "ünal.peel"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of three users, and what is none."""
    folder = tmp_path_factory.mktemp("users")
    for i, name in enumerate(NAMES.values()):
        table = draw_table(LAYOUTS[0], np.random.default_rng(i), 50, 8)
        write_file(folder / name, table, item_ids=list(range(100, 150)))
    (folder / ".8.peel.123.tmp").write_bytes(b"not finished")
    (folder / ".9.peel").write_bytes(b"hidden")
    (folder / "7.npy").write_bytes(b"a vector")
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "all.peelb"
    assert main(["bundle", str(out), str(folder), "--json"]) == 0
    return out


def test_ids_are_names_of_files(folder: Path, bundle: Path, tmp_path: Path, capsys) -> None:
    for user, name in NAMES.items():
        with DeviceRecommender.open(bundle, user=user) as recommender:
            assert recommender._file.read(0, 64) == (folder / name).read_bytes()[:64]
    paths = [folder / name for name in sorted(NAMES.values())]
    code, printed, _ = call(capsys, "bundle", tmp_path / "files.peelb", *paths, "--json")
    size = bundle.stat().st_size
    facts = {"path": str(tmp_path / "files.peelb"), "users": 3, "bytes": size}
    assert (code, json.loads(printed)) == (0, facts)
    assert (tmp_path / "files.peelb").read_bytes() == bundle.read_bytes()
    code, printed, _ = call(capsys, "bundle", tmp_path / "one.peelb", paths[0])
    assert (code, printed) == (0, f"{tmp_path / 'one.peelb'}\n")


def test_inspect_tells_of_the_bundle_and_of_one_file(folder: Path, bundle: Path, capsys) -> None:
    code, printed, _ = call(capsys, "inspect", bundle, "--json")
    facts = json.loads(printed)
    assert (code, facts["users"], facts["bytes"]) == (0, 3, bundle.stat().st_size)
    assert "users           3\n" in call(capsys, "inspect", bundle)[1]
    one = json.loads(call(capsys, "inspect", bundle, "--bundle-user", "a/b c", "--json")[1])
    alone = json.loads(call(capsys, "inspect", folder / "a%2Fb c.peel", "--json")[1])
    assert {**one, "file": ""} == {**alone, "file": ""}


def test_a_user_of_a_bundle_is_asked_as_a_file_is(folder: Path, bundle: Path, capsys) -> None:
    server = Server(bundle.read_bytes())
    try:
        for words in (("recommend", "{}", "--history", "101,102"), ("similar", "{}", "103")):
            for budget in ((), ("--budget", "60%")):
                rest = [*words[2:], *budget, "-n", "5", "--json"]
                wanted = call(capsys, words[0], folder / "7.peel", *rest)
                assert wanted[0] == 0
                for source in (bundle, server.url):
                    asked = (words[0], source, *rest, "--bundle-user", "7")
                    assert call(capsys, *asked)[:2] == wanted[:2]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "{bundle}", "--history", "101"), "open it with the id of a user"),
        (
            ("recommend", "{bundle}", "--history", "101", "--bundle-user", "8"),
            "no file of user '8'",
        ),
        (("inspect", "{bundle}", "--bundle-user", "8"), "no file of user '8'"),
        (("recommend", "{folder}/7.peel", "--history", "1", "--bundle-user", "7"), "not a bundle"),
        (("recommend", "{bundle}", "--user", "7"), "and of a bundle --bundle-user"),
        (("bundle", "{folder}/x", "{folder}/none"), "none: no such file or folder"),
        (("bundle", "{folder}/x", "{empty}"), "no .peel files in this folder"),
        (("bundle", "{folder}/x", "{folder}/7.npy"), "'7.npy' is no user's id, expected ID.peel"),
        (("bundle", "{folder}/x", "{folder}", "{folder}/7.peel"), "user '7' has two files"),
        (("bundle", "{folder}/x", "{folder}/.9.peel"), ".9.peel: not a .peel file"),
        (("bundle", "{folder}/none/x", "{folder}"), "cannot write the result"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(
    folder: Path, bundle: Path, tmp_path: Path, capsys, arguments: tuple[str, ...], message: str
) -> None:
    filled = [each.format(folder=folder, bundle=bundle, empty=tmp_path) for each in arguments]
    code, printed, told = call(capsys, *filled)
    assert (code, printed) == (1, "")
    assert message in told
    assert told.count("\n") == 1
    assert not (folder / "x").exists()
