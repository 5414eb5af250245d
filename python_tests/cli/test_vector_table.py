"""``peel export --item-embeddings``: vectors of any model in, one file for similarity search out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from peel_ext.cli.main import main
from peel_ext.device import DeviceRecommender

pytest.importorskip("torch")


def write_vectors(folder: Path, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((300, 24)).astype(np.float32)
    np.save(folder / "items.npy", vectors)
    np.save(folder / "queries.npy", vectors[:50] + 0.1)
    return vectors


def test_a_file_of_vectors_is_searched_by_its_ids(seed, tmp_path: Path, capsys) -> None:
    vectors = write_vectors(tmp_path, seed)
    names = [f"word {row}" for row in range(300)]
    (tmp_path / "ids.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    code = main(
        [
            "export", "--item-embeddings", str(tmp_path / "items.npy"),
            "--query-embeddings", str(tmp_path / "queries.npy"), "--metric", "cosine",
            "--item-ids", str(tmp_path / "ids.txt"), "--out", str(tmp_path / "out"), "--json",
        ]
    )  # fmt: skip
    assert code == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == Path(facts["path"]).stat().st_size
    with DeviceRecommender.open(facts["path"]) as device:
        best, _ = device.recommend(user=vectors[7], rotated=False, n=1)
    assert best == ["word 7"]
    assert main(["similar", facts["path"], "word 7", "-n", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_integer_ids_and_row_numbers(seed, tmp_path: Path) -> None:
    write_vectors(tmp_path, seed)
    export = ["export", "--item-embeddings", str(tmp_path / "items.npy"), "--out", str(tmp_path)]
    assert main(export) == 0
    with DeviceRecommender.open(tmp_path / "items.peel") as device:
        assert 7 in device.similar(3, n=299)[0]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(1000, 1300))), encoding="utf-8")
    assert main([*export, "--item-ids", str(tmp_path / "ids.txt")]) == 0
    with DeviceRecommender.open(tmp_path / "items.peel") as device:
        assert 1007 in device.similar(1003, n=299)[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected a run folder or --item-embeddings, got neither"),
        (["run", "--item-embeddings", "items.npy"], "got both"),
        (["run", "--metric", "ip"], "--metric is for --item-embeddings, got it with a run folder"),
        (["--item-embeddings", "items.npy", "--group", "0"], "--group is for a run folder"),
        (["--item-embeddings", "none.npy"], "none.npy: not readable"),
        (["--item-embeddings", "items.npy", "--item-ids", "ids.txt"], "expected 300 ids.*found 1 lines"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(options, said, tmp_path: Path, capsys, monkeypatch) -> None:
    write_vectors(tmp_path, 0)
    (tmp_path / "ids.txt").write_text("1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["export", *options, "--out", "out"]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert re.search(said, told), told
