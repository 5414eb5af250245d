from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from peel_ext.errors import RunError
from peel_ext.train import run_folder
from peel_ext.train.run_files import fingerprint, write_atomically, write_tensors
from peel_ext.train.run_folder import RunFolder

DEPENDS = {"first": ("x",), "second": ("y",), "third": ("z",)}
TENSORS = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.zeros((0, 4), np.float32)}


def test_a_finished_stage_comes_back(tmp_path: Path) -> None:
    (tmp_path / "new" / "run").mkdir(parents=True)
    folder = RunFolder(tmp_path / "new" / "run")
    folder.begin({"x": 1}, "data", DEPENDS)
    folder.finish("first", {**TENSORS, "c": TENSORS["a"].T}, {"seconds": 1.5})
    again = RunFolder(tmp_path / "new" / "run")
    assert again.config == {"x": 1}
    assert list(again.stages) == ["first"]
    assert again.stages["first"]["seconds"] == 1.5
    # Who may read the index may read the stage.
    modes = {entry.stat().st_mode for entry in again.path.iterdir()}
    assert len(modes) == 1
    assert len(list(again.path.iterdir())) == 2
    loaded = again.load("first")
    for name, array in {**TENSORS, "c": TENSORS["a"].T}.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


def test_only_finished_stages_load(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="holds no run"):
        folder.load("first")
    folder.begin({}, "data", DEPENDS)
    with pytest.raises(RunError, match="stage 'first' is not finished"):
        folder.load("first")


def test_other_settings_name_what_they_make_invalid(tmp_path: Path) -> None:
    settings = {"x": {"size": 1, "kind": "a"}, "y": 2}
    RunFolder(tmp_path).begin(settings, "data", DEPENDS)
    folder = RunFolder(tmp_path)
    for stage in DEPENDS:
        folder.finish(stage, TENSORS, {})
    folder.checkpoint("third").save(TENSORS)  # left behind by a process that was killed
    RunFolder(tmp_path).begin(settings, "data", DEPENDS)
    assert not folder.checkpoint("third").path.exists()
    with pytest.raises(RunError, match=r"\(y 3 instead of 2\), which make second, third invalid"):
        RunFolder(tmp_path).begin({**settings, "y": 3}, "data", DEPENDS)
    with pytest.raises(
        RunError, match=r"\(x\.size 7 instead of 1\), which make first, second, third invalid"
    ):
        RunFolder(tmp_path).begin({**settings, "x": {"size": 7, "kind": "a"}}, "data", DEPENDS)
    with pytest.raises(RunError, match=r"\(other data\), which make first, second, third invalid"):
        RunFolder(tmp_path).begin(settings, "others", DEPENDS)
    with pytest.raises(RunError, match=r"with other settings \(split 1 instead of None\), which"):
        RunFolder(tmp_path).begin({**settings, "split": 1}, "others", DEPENDS)
    with pytest.raises(RunError, match=r"\(z 5 instead of None\), which make third invalid"):
        RunFolder(tmp_path).begin({**settings, "z": 5}, "data", DEPENDS)
    assert list(RunFolder(tmp_path).stages) == list(DEPENDS)


def test_redo_drops_what_is_invalid(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"y": 2}, "data", DEPENDS)
    folder.finish("first", TENSORS, {})
    folder.checkpoint("second").save(TENSORS)
    with pytest.raises(RunError, match="which make second invalid"):
        RunFolder(tmp_path).begin({"y": 3}, "data", DEPENDS)
    again = RunFolder(tmp_path)
    again.begin({"y": 3}, "data", DEPENDS, redo=True)
    assert (list(again.stages), again.config) == (["first"], {"y": 3})
    assert again.checkpoint("second").load() is None
    again.begin({"y": 3}, "others", DEPENDS, redo=True)
    assert list(RunFolder(tmp_path).stages) == []


def test_settings_that_nothing_begun_has_read_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"x": 1, "y": 2}, "data", DEPENDS)
    folder.finish("first", TENSORS, {})
    RunFolder(tmp_path).begin({"x": 1, "y": 5}, "data", DEPENDS)
    assert RunFolder(tmp_path).config == {"x": 1, "y": 5}


def test_a_checkpoint_comes_back_until_its_stage_is_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, "data", DEPENDS)
    checkpoint = folder.checkpoint("first")
    assert checkpoint.load() is None
    checkpoint.save(TENSORS)
    found = RunFolder(tmp_path).checkpoint("first").load()
    assert found is not None
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert list(RunFolder(tmp_path).stages) == []
    folder.finish("first", TENSORS, {})
    assert checkpoint.load() is None


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, "data", DEPENDS)
    checkpoint = folder.checkpoint("first")
    checkpoint.save(TENSORS)
    whole = checkpoint.path.read_bytes()
    for length in range(len(whole)):
        flipped = whole[:length] + bytes([whole[length] ^ 16]) + whole[length + 1 :]
        for damaged in (whole[:length], flipped):
            checkpoint.path.write_bytes(damaged)
            with pytest.raises(RunError, match="damaged: remove it"):
                checkpoint.load()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "\xff", "null", "3"])
def test_a_damaged_index_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"run\.json"):
        RunFolder(tmp_path)


def test_an_index_of_other_bytes_is_an_error(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin({"x": {"size": 10}}, "data", DEPENDS)
    path = tmp_path / "run.json"
    whole = path.read_bytes()
    assert RunFolder(tmp_path).config == {"x": {"size": 10}}
    for at in range(len(whole.rstrip())):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            try:
                if json.loads(damaged) == json.loads(whole):  # white space
                    continue
            except ValueError:
                pass
            path.write_bytes(damaged)
            with pytest.raises(RunError, match=r"run\.json: (damaged|not readable|expected)"):
                RunFolder(tmp_path)


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "train.log").write_text("")
    names = ("a.json", "b.safetensors", "items.json", "users.json")
    for name in names:
        (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match=r"found a\.json, b\.safetensors, items\.json, \.\.\."):
        RunFolder(tmp_path).begin({}, "data", DEPENDS)
    for name in names:
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
    RunFolder(tmp_path).begin({}, "data", DEPENDS)


def test_a_damaged_stage_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, "data", DEPENDS)
    folder.finish("first", TENSORS, {})
    path = tmp_path / "first.safetensors"
    whole = path.read_bytes()
    for length in range(len(whole)):
        flipped = whole[:length] + bytes([whole[length] ^ 16]) + whole[length + 1 :]
        for damaged in (whole[:length], flipped):
            path.write_bytes(damaged)
            with pytest.raises(RunError, match=r"first\.safetensors: damaged"):
                folder.load("first")
    path.unlink()
    with pytest.raises(RunError, match="not readable"):
        folder.load("first")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = run_folder.os if call == "fsync" else Path
    monkeypatch.setattr(target, call, fail)
    with pytest.raises(RunError, match=r"file: cannot be written: No space left on device"):
        write_atomically(path, b"new and longer")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_stage_is_marked_after_its_tensors(tmp_path: Path, monkeypatch) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, "data", DEPENDS)
    written: list[str] = []

    def noting(before: Callable[..., Any]) -> Callable[..., Any]:
        def note(path: Path, content: Any) -> Any:
            written.append(path.name)
            return before(path, content)

        return note

    for name in ("write_tensors", "write_atomically"):
        monkeypatch.setattr(run_folder, name, noting(getattr(run_folder, name)))
    folder.finish("first", TENSORS, {})
    assert written == ["first.safetensors", "run.json"]


def test_a_stage_takes_no_memory_beside_its_tensors(tmp_path: Path) -> None:
    """Another process, whose peak is its own."""
    script = (
        "import numpy as np, resource, sys\n"
        "from peel_ext.train.run_folder import RunFolder\n"
        "folder = RunFolder(sys.argv[1]); folder.begin({}, 'data', {'first': ()})\n"
        "tensors = {'rows': np.ones(1 << 25, np.float32)}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "folder.finish('first', tensors, {})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path)]
    more = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert more < 1 << 15  # KiB, of 1 << 17


@pytest.mark.parametrize("size", [0, 1 << 21])
def test_tensors_that_cannot_be_written_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"rows": np.arange(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(RunError, match=r"a\.safetensors: cannot be written: File too large"):
            write_tensors(path, {"rows": np.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_file(path)["rows"].tolist() == [0, 1, 2]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin({}, "data", DEPENDS)
    for name in (".first.safetensors.4711.tmp", ".tmpa1B2c3"):
        (tmp_path / name).write_bytes(b"half")
    RunFolder(tmp_path).begin({}, "data", DEPENDS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_a_document_counts_with_the_next_stage(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, "data", DEPENDS)
    folder.write_document("ids.json", ["a", "\u00e4"])
    with pytest.raises(RunError, match="damaged"):
        RunFolder(tmp_path).read_document("ids.json")
    folder.finish("first", TENSORS, {})
    assert RunFolder(tmp_path).read_document("ids.json") == ["a", "\u00e4"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="cannot be made"), folder.lock():
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").lock():
        other = RunFolder(tmp_path / "run")
        with pytest.raises(RunError, match="another process is training here"), other.lock():
            pass
    with RunFolder(tmp_path / "run").lock():
        pass


def test_fingerprints_tell_contents_shapes_and_names_apart() -> None:
    base = {"a": np.arange(6), "b": np.arange(2)}
    prints = [
        fingerprint(base),
        fingerprint({**base, "a": np.arange(6)[::-1]}),
        fingerprint({**base, "a": np.arange(6).reshape(2, 3)}),
        fingerprint({**base, "a": np.arange(6, dtype=np.int32)}),
        fingerprint({"a": np.arange(6), "c": np.arange(2)}),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(dict(reversed(base.items()))) == prints[0]
