"""Ids of the items: read from the file when asked for, never held."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext.device import DeviceRecommender
from peel_ext.errors import DataError, FormatError
from peel_ext.format import pack_prefix, read_header, write_file
from peel_ext.format.appendix import ITEM_IDS, Section, pack_section, read_sections
from peel_ext.format.header import header_checksum
from peel_ext.format.layout import ALIGNMENT

ROWS, DIM = 600, 16
TEXT = sorted(f"ü{row}" for row in range(ROWS))


def write_named(path: Path, names: list, rows: int = ROWS) -> Path:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), rows, DIM)
    write_file(path, table, item_ids=names)
    return path


class Recording(io.BytesIO):
    """A file that adds up what is read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize(
    "names",
    [TEXT, TEXT[::-1], list(range(-300, 300)), list(range(ROWS, 0, -1)), ["", *TEXT[1:]]],
    ids=["text", "text, descending", "integers", "integers, descending", "one empty"],
)
def test_every_id_is_that_of_its_row(names: list, tmp_path: Path) -> None:
    path = write_named(tmp_path / "a.peel", names)
    with (
        DeviceRecommender.open(path) as named,
        DeviceRecommender.open(path, item_ids=False) as plain,
    ):
        user = np.ones(DIM)
        rows, _ = plain.recommend(user=user, n=ROWS)
        items, _ = named.recommend(user=user, n=ROWS)
        assert items == [names[row] for row in rows]
        assert np.array_equal(
            named.score_items(names, user=user), plain.score_items(np.arange(ROWS), user=user)
        )
        unknown = ["nobody", "", "ü", 5.0, None] if isinstance(names[0], str) else ["1", 601, -301]
        for item in unknown:
            if item not in names:
                with pytest.raises(DataError, match="is not known"):
                    named.recommend([names[0], item])


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    names = list(range(0, 60_000, 10))
    file = Recording(write_named(tmp_path / "a.peel", names, 6_000).read_bytes())
    with DeviceRecommender.open(file, 20_000) as recommender:
        assert file.taken < 20_200  # what is held, and where the ids are
        recommender.recommend(user=np.ones(DIM))
        file.taken = 0
        recommender.recommend([10, 59_990, 30_000], user=np.ones(DIM), n=20)
        assert file.taken < 2_000


def test_a_damaged_id_is_reported(tmp_path: Path) -> None:
    data = write_named(tmp_path / "a.peel", TEXT).read_bytes()
    begin = read_header(data).blocks_end
    for at in range(begin, len(data), 97):
        damaged = bytearray(data)
        damaged[at] ^= 4
        with pytest.raises(FormatError):
            DeviceRecommender.open(bytes(damaged)).recommend([TEXT[3]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"count": 3}, "3 item ids, expected 4"),
        ({"payload": b"\0" * 19}, "cut short"),
        ({"ends": [0, 2, 1, 4, 4]}, "overlap"),
        ({"ends": [1, 2, 3, 4, 4]}, "overlap"),
        ({"ends": [0, 1, 2, 3, 5]}, "overlap"),
        ({"ends": [0, 1, 2, 3, 2**32 - 1]}, "overlap"),
        ({"names": b"\xff\xff\xff\xff"}, "is no text"),
        ({"names": b"1x23", "width": 1}, "is no integer"),
    ],
)
def test_ids_that_make_no_sense(change: dict, told: str) -> None:
    data = pack_prefix(draw_table(LAYOUTS[0], np.random.default_rng(0), 4, DIM)).tobytes()
    ends = np.array(change.get("ends", range(5)), "<u4").tobytes()
    payload = change.get("payload", ends + change.get("names", b"abcd"))
    section = Section(ITEM_IDS, change.get("count", 4), change.get("width", 0), payload)
    recommender = DeviceRecommender.open(data + pack_section(section, header_checksum(data)))
    with pytest.raises(FormatError, match=told):
        recommender.recommend(user=np.ones(DIM))


def test_ids_overwritten_after_they_were_checked_are_reported(tmp_path: Path) -> None:
    path = write_named(tmp_path / "a.peel", TEXT)
    begin = read_header(path.read_bytes()).blocks_end + ALIGNMENT
    with DeviceRecommender.open(path) as recommender:
        recommender.recommend([TEXT[3]])
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(bytes(range(255, 0, -1)) * 8)
        with pytest.raises(FormatError, match="have changed"):
            recommender.recommend([TEXT[3]])


def test_ids_come_from_a_server_once(tmp_path: Path) -> None:
    data = write_named(tmp_path / "a.peel", TEXT).read_bytes()
    server = Server(data)
    with DeviceRecommender.open(server.url, 5_000) as recommender:
        server.sent.clear()
        items, _ = recommender.recommend([TEXT[5]])
        begin = read_header(data).blocks_end
        assert sum(end - at for at, end in server.sent) <= len(data) - begin + 128
        server.sent.clear()
        recommender.recommend([*items, TEXT[100]])
        assert server.sent == []
    server.close()


_GROWTH = """
import sys
import numpy as np
from peel_ext.device import DeviceRecommender

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

with DeviceRecommender.open(sys.argv[1], 100_000) as small:
    small.recommend([30], user=np.ones(16), n=10)
recommender = DeviceRecommender.open(sys.argv[2], 100_000)
before = peak()
items, _ = recommender.recommend([1_999_990, 30], user=np.ones(16), n=10)
recommender.recommend(items, user=np.ones(16))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.once
def test_memory_does_not_grow_with_the_ids(tmp_path: Path) -> None:
    few = write_named(tmp_path / "few.peel", list(range(0, 10_000, 10)), 1_000)
    many = write_named(tmp_path / "many.peel", list(range(0, 2_000_000, 10)), 200_000)
    data = many.read_bytes()
    assert sum(len(part.payload) for part in read_sections(data, read_header(data))) > 2_000_000
    command = [sys.executable, "-P", "-c", _GROWTH, str(few), str(many)]
    grown = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert grown < 1 << 20


@pytest.mark.once
@pytest.mark.parametrize("names", [TEXT[::-1], list(range(ROWS, 0, -1))], ids=["text", "integers"])
def test_ids_in_any_order_are_all_looked_at_once(names: list, tmp_path: Path) -> None:
    file = Recording(write_named(tmp_path / "a.peel", names).read_bytes())
    whole = len(file.getvalue()) - read_header(file.getvalue()).blocks_end
    unknown: list = ["nobody"] if isinstance(names[0], str) else [-5]
    with DeviceRecommender.open(file, 5_000) as recommender:
        recommender.recommend(user=np.ones(DIM), n=1)  # they have been checked
        file.taken = 0
        recommender.recommend(names[5:7], user=np.ones(DIM), n=1)
        assert file.taken > whole - 200
        file.taken = 0
        for name in (names[0], names[300], names[-1]):
            assert recommender.score_items([name], user=np.ones(DIM)).shape == (1,)
        with pytest.raises(DataError, match="is not known"):
            recommender.recommend(unknown)
        assert file.taken < 200
    with DeviceRecommender.open(tmp_path / "a.peel", item_ids=False) as plain:
        want = plain.score_items(np.arange(ROWS), user=np.ones(DIM))
    with DeviceRecommender.open(tmp_path / "a.peel") as named:
        got = [named.score_items([name], user=np.ones(DIM))[0] for name in names]
    assert np.array_equal(got, want)


@pytest.mark.once
def test_ids_that_ascend_are_looked_at_once_for_one_that_is_not_there(tmp_path: Path) -> None:
    file = Recording(write_named(tmp_path / "a.peel", TEXT).read_bytes())
    with DeviceRecommender.open(file, 5_000) as recommender:
        for most in (1 << 20, 500):
            with pytest.raises(DataError, match="item 'nobody' is not known"):
                recommender.recommend([TEXT[0], "nobody"])
            assert file.taken < most
            file.taken = 0
        assert recommender.recommend([TEXT[7]], user=np.ones(DIM))[0]


@pytest.mark.once
def test_ids_of_one_hash_are_told_apart(tmp_path: Path) -> None:
    prime = 4_294_967_291  # by which remainders are taken
    names = [row * prime + 7 for row in range(ROWS, 0, -1)]
    path = write_named(tmp_path / "a.peel", names)
    with (
        DeviceRecommender.open(path) as named,
        DeviceRecommender.open(path, item_ids=False) as plain,
    ):
        want = plain.score_items(np.arange(0, ROWS, 50), user=np.ones(DIM))
        assert np.array_equal(named.score_items(names[::50], user=np.ones(DIM)), want)
        with pytest.raises(DataError, match="item 7 is not known"):
            named.recommend([7])
