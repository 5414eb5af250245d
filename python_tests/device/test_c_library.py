"""The C library of the package, called as another program would: it answers what Python answers."""

from __future__ import annotations

import ctypes
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tables import LAYOUTS, draw_table

import peel_ext
from peel_ext.device import DeviceRecommender
from peel_ext.errors import DataError, UnknownUserWarning
from peel_ext.format import write_bundle, write_file

ROOT = Path(__file__).parents[2]
ROWS, DIM, BUDGET = 400, 16, 4_000
INTEGERS = [7 * row - 1000 for row in range(ROWS)]
TEXTS = [f"Ärtikel {row * 7919 % ROWS}" for row in range(ROWS)]


class Error(ctypes.Structure):
    _fields_ = [
        ("status", ctypes.c_int),
        ("minimum_bytes", ctypes.c_uint64),
        ("message", ctypes.c_char * 256),
    ]


class PeelError(Exception):
    pass


class Library:
    """Functions of peel.h whose last argument is an error, which is raised."""

    def __init__(self) -> None:
        self.functions = ctypes.CDLL(str(peel_ext.get_library()))
        self.functions.peel_version.restype = ctypes.c_char_p
        self.functions.peel_status_text.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        error = Error()
        if self.functions[name](*arguments, ctypes.byref(error)) != 0:
            raise PeelError(error.message.decode())


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


class Opened:
    """A file of which a budget is held, in C and in Python."""

    def __init__(self, library: Library, path: Path, budget: int | None) -> None:
        self.handle = ctypes.c_void_p()
        self.library = library
        self.python = DeviceRecommender.open(path, budget)
        limit = (1 << 64) - 1 if budget is None else budget
        library.call(
            "peel_open_file", str(path).encode(), ctypes.c_uint64(limit), ctypes.byref(self.handle)
        )

    def call(self, name: str, *arguments: object) -> None:
        self.library.call(name, self.handle, *arguments)

    def close(self) -> None:
        self.library.functions.peel_close(self.handle)
        self.python.close()


@pytest.fixture(params=range(len(LAYOUTS)), ids=lambda at: LAYOUTS[at].__class__.__name__)
def layout(request: pytest.FixtureRequest) -> object:
    return LAYOUTS[request.param]


@pytest.fixture(params=[INTEGERS, INTEGERS[::-1], TEXTS], ids=["ascending", "descending", "text"])
def opened(
    library: Library, layout: object, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Opened]:
    path = tmp_path / "a.peel"
    write_file(
        path, draw_table(layout, np.random.default_rng(0), ROWS, DIM), item_ids=request.param
    )
    budget = BUDGET if path.stat().st_size > 2 * BUDGET else path.stat().st_size // 2
    both = Opened(library, path, budget)
    both.item_ids = request.param  # type: ignore[attr-defined]
    yield both
    both.close()


def pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def size(count: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(count)


def named(opened: Opened, rows: NDArray[np.int64]) -> list[int | str]:
    """The item ids of rows, as the library tells them as text."""
    names: list[int | str] = []
    for row in rows.tolist():
        length = ctypes.c_size_t()
        opened.call("peel_get_item_text", ctypes.c_int64(row), None, size(0), ctypes.byref(length))
        text = ctypes.create_string_buffer(length.value + 1)
        opened.call(
            "peel_get_item_text", ctypes.c_int64(row), text, size(len(text)), ctypes.byref(length)
        )
        name = text.value.decode()
        names.append(int(name) if isinstance(opened.item_ids[0], int) else name)  # type: ignore[attr-defined]
    return names


def best(opened: Opened, ids: NDArray[np.int64]) -> list[int | str]:
    return named(opened, ids[ids >= 0])


def test_item_ids_are_those_of_python(opened: Opened, seed: int) -> None:
    item_ids = opened.item_ids  # type: ignore[attr-defined]
    rows = np.random.default_rng(seed).integers(ROWS, size=50)
    assert named(opened, rows) == [item_ids[row] for row in rows]
    texts = [str(item_ids[row]).encode() for row in rows] + [b"no such item"]
    found = np.empty(len(texts), dtype=np.int64)
    addresses = (ctypes.c_char_p * len(texts))(*texts)
    opened.call("peel_find_rows_by_text", addresses, size(len(texts)), pointer(found))
    assert found.tolist() == [*rows.tolist(), -1]
    if isinstance(item_ids[0], int):
        integers = np.array([item_ids[row] for row in rows] + [5], dtype=np.int64)
        opened.call("peel_find_rows", pointer(integers), size(len(integers)), pointer(found))
        assert found.tolist() == [*rows.tolist(), -1]
        back = np.empty(50, dtype=np.int64)
        opened.call("peel_get_item_ids", pointer(found), size(50), pointer(back))
        assert back.tolist() == integers[:-1].tolist()
    else:
        with pytest.raises(PeelError, match="item ids of this file are text, expected integers"):
            opened.call("peel_find_rows", pointer(found), size(1), pointer(found))


def test_recommendations_are_those_of_python(opened: Opened, seed: int) -> None:
    history = np.random.default_rng(seed).integers(ROWS, size=8)
    ids, scores = np.empty(20, dtype=np.int64), np.empty(20, dtype=np.float32)
    arguments = (pointer(history), size(8), size(20), pointer(ids), pointer(scores))
    names = [opened.item_ids[row] for row in history]  # type: ignore[attr-defined]
    with warnings.catch_warnings():  # none of the history may be held
        warnings.simplefilter("ignore", UnknownUserWarning)
        wanted = opened.python.recommend(names, n=20)
    opened.call("peel_recommend", *arguments)
    assert best(opened, ids) == wanted[0]
    assert scores[ids >= 0].tolist() == wanted[1].tolist()


def test_a_shipped_list_counts_as_in_python(opened: Opened, seed: int) -> None:
    generator = np.random.default_rng(seed)
    user = generator.normal(size=DIM).astype(np.float32)
    rows = generator.permutation(ROWS)[:60].astype(np.int64)
    worth = generator.normal(scale=20, size=60).astype(np.float32)
    left_out = rows[:5].copy()
    item_ids = opened.item_ids  # type: ignore[attr-defined]
    wanted = opened.python.recommend(
        user=user,
        exclude=[item_ids[row] for row in left_out],
        n=30,
        shipped=([item_ids[row] for row in rows], worth),
    )
    ids, scores = np.empty(30, dtype=np.int64), np.empty(30, dtype=np.float32)
    opened.call(
        "peel_score_with_shipped", pointer(user), pointer(left_out), size(5), pointer(rows),
        pointer(worth), size(60), size(30), pointer(ids), pointer(scores),
    )  # fmt: skip
    assert best(opened, ids) == wanted[0]
    assert scores[ids >= 0].tolist() == wanted[1].tolist()


def test_similar_items_are_those_of_python(opened: Opened) -> None:
    ids, scores = np.empty(9, dtype=np.int64), np.empty(9, dtype=np.float32)
    for row in range(0, ROWS, 37):
        arguments = (ctypes.c_int64(row), size(9), pointer(ids), pointer(scores))
        try:
            wanted = opened.python.similar(opened.item_ids[row], 9)  # type: ignore[attr-defined]
        except DataError:
            with pytest.raises(PeelError, match=f"item {row} is not held"):
                opened.call("peel_similar", *arguments)
            continue
        opened.call("peel_similar", *arguments)
        assert best(opened, ids) == wanted[0]
        assert scores[ids >= 0].tolist() == wanted[1].tolist()


def test_a_user_of_a_bundle_has_the_answers_of_its_own_file(
    library: Library, opened: Opened, tmp_path: Path
) -> None:
    files = [(user, tmp_path / "a.peel") for user in (7, "müller")]
    write_bundle(tmp_path / "all.peelb", files)
    budget = ctypes.c_uint64(BUDGET)
    bundle = str(tmp_path / "all.peelb").encode()
    user = np.random.default_rng(0).normal(size=DIM).astype(np.float32)
    wanted = DeviceRecommender.open(tmp_path / "a.peel", BUDGET, item_ids=False).recommend(
        user=user, n=20
    )
    for name in ("7", "müller"):
        handle = ctypes.c_void_p()
        library.call("peel_open_user", bundle, name.encode(), budget, ctypes.byref(handle))
        ids, scores = np.empty(20, dtype=np.int64), np.empty(20, dtype=np.float32)
        arguments = (pointer(user), None, size(0), size(20), pointer(ids), pointer(scores))
        library.call("peel_score", handle, *arguments)
        library.functions.peel_close(handle)
        assert ids[ids >= 0].tolist() == np.asarray(wanted[0]).tolist()
        assert scores[ids >= 0].tolist() == wanted[1].tolist()
    handle = ctypes.c_void_p()
    with pytest.raises(PeelError, match="the bundle has no file of user 'nobody'"):
        library.call("peel_open_user", bundle, b"nobody", budget, ctypes.byref(handle))
    assert library.functions.peel_status_text(9) == b"the bundle has no file of the user"


def test_versions_agree(library: Library) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    header = (peel_ext.get_include() / "peel.h").read_text(encoding="utf-8")
    assert re.findall(r'^#define PEEL_VERSION "(.*)"$', header, re.MULTILINE) == [
        project["version"]
    ]
    assert library.functions.peel_version().decode() == project["version"] == peel_ext.__version__
    assert library.functions.peel_status_text(0) == b"no error"


def test_the_number_of_threads_is_checked(library: Library) -> None:
    with pytest.raises(PeelError, match="num_threads must be between 1 and 1024, got 0"):
        library.call("peel_set_num_threads", ctypes.c_int32(0))
    library.call("peel_set_num_threads", ctypes.c_int32(2))


def test_a_package_without_the_library_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("peel_ext._core.__file__", str(tmp_path / "_core.so"))
    for find in (peel_ext.get_include, peel_ext.get_library):
        with pytest.raises(
            FileNotFoundError, match="is not there: peel_ext was not installed by pip"
        ):
            find()
