"""Bundles: writer, plain reader, native reader and the page of the format agree; damage is reported."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext import _core
from peel_ext.device import DeviceRecommender, sources
from peel_ext.device.bundle_starts import BundleStarts
from peel_ext.errors import BudgetError, DataError, FormatError, NoUserError, SourceError
from peel_ext.format import write_file
from peel_ext.format.bundle import BundleIndex, user_key, write_bundle

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_USERS = {"7": "prior", "ünal": "columns", "-3": "planes"}

#: Two pages, and ids as long as blocks of a digest.
USERS: list[int | str] = [*range(-10, 50), *(f"müller {i}" for i in range(8)), "x" * 55, "y" * 64]
ROWS, DIM = 40, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of all users, and their bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    files = []
    for i, user in enumerate(USERS):
        table = draw_table(LAYOUTS[i % len(LAYOUTS)], np.random.default_rng(i), ROWS, DIM)
        write_file(folder / f"{i}.peel", table, item_ids=[f"item {row}" for row in range(ROWS)])
        files.append((user, folder / f"{i}.peel"))
    size = write_bundle(folder / "all.peelb", files)
    assert size == (folder / "all.peelb").stat().st_size
    return folder


def answer(recommender: DeviceRecommender) -> tuple[object, ...]:
    with recommender:
        items, scores = recommender.recommend(user=np.ones(DIM), n=9)
        return recommender.nbytes, list(items), scores.tolist()


def find_by_the_page(data: bytes, user: str) -> bytes:
    """A user's file, by docs/format.md alone."""
    assert data[:8] == b"PEEB\1\0\0\0"
    _, num_pages, entries, size = struct.unpack_from("<QIIQ", data, 8)
    assert size == len(data)
    assert struct.unpack_from("<I", data, 60)[0] == zlib.crc32(data[:60])
    key = hashlib.sha256(user.encode()).digest()[:16]
    number = int.from_bytes(key[:4], "big") * num_pages >> 32
    width = -(-(32 + 40 * entries) // 64) * 64
    page = data[64 + number * width :][:width]
    checksum, count, told = struct.unpack_from("<III", page)
    assert told == number
    assert checksum == zlib.crc32(page[4:], zlib.crc32(data[:60]))
    for at in range(32, 32 + 40 * count, 40):
        own, offset, bytes_, blocks_end, checksum = struct.unpack_from("<16sQQII", page, at)
        if own == key:
            file = data[offset : offset + bytes_]
            assert struct.unpack_from("<I", file, 44)[0] == blocks_end
            assert struct.unpack_from("<I", file, 60)[0] == checksum
            return file
    raise KeyError(user)


def test_every_user_gets_its_own_file_wherever_the_bundle_is(folder: Path) -> None:
    path = folder / "all.peelb"
    data = path.read_bytes()
    index = BundleIndex(io.BytesIO(data))
    assert index.num_pages == 2
    for i, user in enumerate(USERS):
        alone = folder / f"{i}.peel"
        assert find_by_the_page(data, str(user)) == alone.read_bytes()
        found = _core.find_user(lambda at, count: data[at : at + count], len(data), str(user))
        assert index.find(user) == found
        budget = [None, alone.stat().st_size // 2][i % 2]
        wanted = answer(DeviceRecommender.open(alone, budget))
        for bundle in (path, data, io.BytesIO(data), memoryview(b"x" + data)[1:]):
            assert answer(DeviceRecommender.open(bundle, budget, user=user)) == wanted


def test_an_integer_is_its_decimal_text(folder: Path) -> None:
    index = BundleIndex(io.BytesIO((folder / "all.peelb").read_bytes()))
    assert index.find(-7) == index.find("-7") == index.find(np.int64(-7))
    files = [(7, folder / "0.peel"), ("7", folder / "1.peel")]
    with pytest.raises(DataError, match=r"user '?7'? has two files, .*\.peel and .*: expected one"):
        write_bundle(folder / "twice.peelb", files)
    assert not (folder / "twice.peelb").exists()


def test_once_a_bundle_is_known_a_user_takes_two_ranges(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(sources, "BUNDLE_STARTS", BundleStarts())

    def bundle_of(users: range, file: int) -> bytes:
        write_bundle(tmp_path / "some.peelb", [(user, folder / f"{file}.peel") for user in users])
        return (tmp_path / "some.peelb").read_bytes()

    alone = [folder / f"{file}.peel" for file in range(4)]
    wanted = [answer(DeviceRecommender.open(path, item_ids=False)) for path in alone]
    large = bundle_of(range(300), 0)
    index = BundleIndex(io.BytesIO(large))
    # Of its five pages of 3 KB the last are not within the first 8 KB.
    first, *others = (user for user in range(300) if user_key(user)[0] >= 200)
    server = Server(large)

    def ask(user: int, file: int = 0) -> list[tuple[int, int]]:
        server.sent.clear()
        recommender = DeviceRecommender.open(server.url, user=user, item_ids=False)
        assert answer(recommender) == wanted[file]
        return server.sent

    try:
        assert len(ask(first)) == 3
        for user in (first, *others[:3]):
            offset, _, end, _ = index.find(user)
            sent = ask(user)
            assert len(sent) == 2
            assert sent[1] == (offset, offset + end)
        # Another one in its place is told, and the user found anew.
        for file, users in enumerate((range(400, 700), range(600, 900), range(700, 701)), 1):
            server.data, server.tag = bundle_of(users, file), str(users)
            ask(users[0], file)
            with pytest.raises(NoUserError):
                DeviceRecommender.open(server.url, user=-1)
        # One that tags nothing is asked for the header every time.
        server.data, server.tag = large, ""
        assert [len(ask(user)) for user in (first, first)] == [3, 3]
    finally:
        server.close()


def test_a_user_on_a_server_takes_the_index_and_one_range(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    data = (folder / "all.peelb").read_bytes()
    server = Server(data)
    try:
        for user in (5, "müller 3"):
            offset, size, end, _ = BundleIndex(io.BytesIO(data)).find(user)
            alone = data[offset : offset + size]
            for budget in (None, end - 1):
                monkeypatch.setattr(sources, "BUNDLE_STARTS", BundleStarts())
                server.sent.clear()
                with DeviceRecommender.open(
                    server.url, budget, user=user, item_ids=False
                ) as recommender:
                    # The first bytes have most of so small an index.
                    assert server.sent[0] == (0, 8192)
                    assert server.sent[-1] == (offset, offset + min(end, budget or end))
                    assert len(server.sent) <= 3
                    recommender.resize(None)
                    held = answer(recommender)
                assert held == answer(DeviceRecommender.open(alone, item_ids=False))
        # A cache has the first bytes of the user's file: they come once.
        offset, _, end, _ = BundleIndex(io.BytesIO(data)).find(5)
        blocks = []
        for _ in range(2):
            server.sent.clear()
            recommender = DeviceRecommender.open(server.url, user=5, cache=tmp_path / "cache.peel")
            recommender.close()
            blocks.append(sum(last == offset + end for _, last in server.sent))
        assert blocks == [1, 0]
        assert (tmp_path / "cache.peel").read_bytes() == data[offset : offset + end]
        with pytest.raises(NoUserError, match="the bundle has no file of user 'nobody'"):
            DeviceRecommender.open(server.url, user="nobody")
    finally:
        server.close()


def test_bundles_written_before_open_as_ever(tmp_path: Path) -> None:
    golden = (GOLDEN / "v1-bundle.peelb").read_bytes()
    files = [(user, GOLDEN / f"v1-{name}.peel") for user, name in GOLDEN_USERS.items()]
    write_bundle(tmp_path / "again.peelb", files)
    assert (tmp_path / "again.peelb").read_bytes() == golden
    for user, name in GOLDEN_USERS.items():
        alone = (GOLDEN / f"v1-{name}.peel").read_bytes()
        assert find_by_the_page(golden, user) == alone
        with DeviceRecommender.open(golden, user=user) as recommender:
            assert recommender.nbytes == DeviceRecommender.open(alone).nbytes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two users of 10 rows."""
    folder = tmp_path_factory.mktemp("tiny")
    for i in range(2):
        table = draw_table(LAYOUTS[0], np.random.default_rng(i), rows=10, dim=4)
        write_file(folder / f"{i}.peel", table)
    write_bundle(folder / "all", [(i, folder / f"{i}.peel") for i in range(2)])
    return (folder / "all").read_bytes()


def test_a_flip_of_any_byte_is_reported(tiny: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = BundleIndex(io.BytesIO(tiny))
    begins = [index.find(user)[0] for user in range(2)]
    for at in range(len(tiny)):
        data = bytearray(tiny)
        data[at] ^= 1 << int(rng.integers(8))
        if at < min(begins):
            with pytest.raises(FormatError):
                BundleIndex(io.BytesIO(bytes(data)))
        refused = 0
        for user in range(2):
            try:
                DeviceRecommender.open(data, user=user).close()
            except FormatError:
                refused += 1
        assert refused == (2 if at < min(begins) else 1)


def test_a_torn_bundle_has_what_has_arrived(tiny: bytes) -> None:
    offset, _, end, _ = BundleIndex(io.BytesIO(tiny)).find(1)
    most = 0
    for size in range(len(tiny) + 1):
        try:
            with DeviceRecommender.open(tiny[:size], user=1, item_ids=False) as recommender:
                held = recommender.num_blocks
        except FormatError:
            held = 0
        assert held >= most
        assert held == 0 or size >= offset + 128
        most = held
        if size < offset:
            with pytest.raises(FormatError):
                BundleIndex(io.BytesIO(tiny[: min(size, 191)]))
    with DeviceRecommender.open(tiny[: offset + end], user=1) as recommender:
        assert recommender.num_blocks == most


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "all.peelb"
    with pytest.raises(FormatError, match="but a bundle of many: open it with the id of a user"):
        DeviceRecommender.open(path)
    with pytest.raises(FormatError, match="not a bundle of users' files"):
        DeviceRecommender.open(folder / "0.peel", user=1)
    with pytest.raises(NoUserError, match="the bundle has no file of user '1000'"):
        DeviceRecommender.open(path, user=1000)
    with pytest.raises(BudgetError):
        DeviceRecommender.open(path, 1, user=1)
    for user in (1.5, True, b"1", None):
        with pytest.raises(TypeError, match="user must be an integer or text"):
            write_bundle(tmp_path / "out", [(user, folder / "0.peel")])  # type: ignore[list-item]
    for text in ("", "a\0b", "\ud800"):
        with pytest.raises(ValueError, match="user must be text that"):
            DeviceRecommender.open(path, user=text)
    with pytest.raises(DataError, match="at least one user's file"):
        write_bundle(tmp_path / "out", [])
    (tmp_path / "torn.peel").write_bytes((folder / "1.peel").read_bytes()[:500])
    (tmp_path / "out").write_bytes(b"old")
    for bad, what in (("torn.peel", "cut short: 500 bytes"), ("out", "not a .peel file")):
        with pytest.raises(FormatError, match=what):
            write_bundle(tmp_path / "out", [(1, folder / "0.peel"), (2, tmp_path / bad)])
    with pytest.raises(SourceError, match=r"none\.peel: cannot be read: No such file"):
        write_bundle(tmp_path / "out", [(1, folder / "0.peel"), (2, tmp_path / "none.peel")])
    assert (tmp_path / "out").read_bytes() == b"old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "torn.peel"]
    with pytest.raises(SourceError):
        DeviceRecommender.open(tmp_path / "none.peelb", user=1)
