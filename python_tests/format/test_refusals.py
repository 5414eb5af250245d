"""What both readers refuse though every checksum is right: what the bytes say is wrong."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from tables import LAYOUTS, draw_table

from peel_ext import _core
from peel_ext.device import DeviceRecommender
from peel_ext.errors import FormatError
from peel_ext.format import GroupTable, Layout, pack_prefix, read_blocks, read_header
from peel_ext.format import unpack_embedding as read_slowly
from peel_ext.format.appendix import (
    GROUP_CENTROIDS,
    ITEM_IDS,
    ROTATION,
    Section,
    centroid_section,
    pack_section,
    read_sections,
)
from peel_ext.format.header import header_checksum

ROWS, DIM = 45, 10
PLANES, COLUMNS, INT8 = LAYOUTS[0], LAYOUTS[2], LAYOUTS[3]


def open_natively(data: bytes) -> _core.PeelFile:
    aligned = np.zeros(len(data) // 8 + 1, np.uint64).view(np.uint8)[: len(data)]
    aligned[:] = np.frombuffer(data, np.uint8)
    return _core.PeelFile.open_buffer(aligned)


def make_table(layout: Layout, seed: int, listed: bool = False) -> GroupTable:
    return draw_table(layout, np.random.default_rng(seed), ROWS, DIM, listed)


def sealed(good: bytes, changes: dict[int, bytes]) -> bytes:
    """A file with bytes changed at some places, and its checksums made right again."""
    blocks = list(read_blocks(good))
    section = read_header(good).layout.item_group_section_bytes(
        read_header(good).num_item_groups, ROWS, good[8] == 1
    )
    data = bytearray(good)
    for at, new in changes.items():
        data[at : at + len(new)] = new
    data[60:64] = struct.pack("<I", zlib.crc32(data[:60]))
    own = header_checksum(bytes(data))
    if section:
        data[64:68] = struct.pack("<I", zlib.crc32(data[68 : 64 + section], own))
    for number, block in enumerate(blocks):
        page = blocks[number - number % 8].begin - 64
        entry = page + number % 8 * 8
        checksum = zlib.crc32(
            data[block.begin : block.end], zlib.crc32(data[entry + 4 : entry + 8], own)
        )
        data[entry : entry + 4] = struct.pack("<I", checksum)
    assert read_blocks(bytes(data))
    return bytes(data)


def check_refused(data: bytes, says: str) -> None:
    for read in (read_slowly, open_natively):
        with pytest.raises(FormatError, match=says):
            read(data)


def first_block(good: bytes, layer: int | None = None) -> tuple[int, int, int]:
    """Begin, end and rows of the first block of those with most rows, all or of a layer."""
    blocks = [block for block in read_blocks(good) if layer is None or block.layer == layer]
    block = max(blocks, key=lambda block: block.num_rows)
    return block.begin, block.end, block.num_rows


# ---- header ----


@pytest.mark.parametrize(
    ("layout", "at", "new", "says"),
    [
        (PLANES, 52, struct.pack("<f", np.inf), "fold-in out of range"),
        (PLANES, 52, struct.pack("<f", np.nan), "fold-in out of range"),
        (PLANES, 52, struct.pack("<f", -0.1), "fold-in out of range"),
        (COLUMNS, 48, struct.pack("<f", np.inf), "fold-in out of range"),
        (PLANES, 56, struct.pack("<f", 1), "prior out of range"),
        (PLANES, 11, b"\1", "reserved bytes are not zero"),
        (PLANES, 7, b"\0", "value type 0 does not fit the planes layout"),
        (PLANES, 7, b"\1", "value type 1 does not fit the planes layout"),
        (PLANES, 7, b"\3", "value type 3 does not fit the planes layout"),
        (COLUMNS, 7, b"\3", "unknown value type 3"),
        (COLUMNS, 9, b"\4", "id_bytes does not fit num_embeddings"),
        (PLANES, 9, b"\4", "id_bytes does not fit num_embeddings"),
        (PLANES, 5, b"\x08", "unknown features"),
        (COLUMNS, 5, b"\4", "rotated rows without planes"),
    ],
)
def test_a_header_that_says_what_cannot_be(layout: Layout, at: int, new: bytes, says: str) -> None:
    good = pack_prefix(make_table(layout, 0)).tobytes()
    data = good[:at] + new + good[at + len(new) :]
    check_refused(data[:60] + struct.pack("<I", zlib.crc32(data[:60])) + data[64:], says)


# ---- blocks ----


def test_a_row_in_two_item_groups_of_planes(seed: int) -> None:
    good = pack_prefix(make_table(LAYOUTS[1], seed)).tobytes()  # item groups of 7 rows
    opened = [block for block in read_blocks(good) if block.layer == 0 and block.num_rows == 7]
    one, other = opened[0], opened[-1]
    twice = sealed(good, {other.begin: good[one.begin : one.begin + 14]})
    check_refused(twice, "a row in two item groups")


def test_growing_into_a_row_that_is_held_already_is_refused(seed: int) -> None:
    good = pack_prefix(make_table(LAYOUTS[1], seed)).tobytes()
    opened = [block for block in read_blocks(good) if block.layer == 0 and block.num_rows == 7]
    one, other = opened[0], opened[-1]
    twice = sealed(good, {other.begin: good[one.begin : one.begin + 2 * other.num_rows]})
    aligned = np.frombuffer(twice, np.uint8).copy()
    file = _core.PeelFile.open_buffer(aligned, other.held_bytes - 1)
    held = file.pee().nbytes
    with pytest.raises(FormatError, match="a row in two item groups"):
        file.resize(None)
    assert file.pee().nbytes == held


def test_few_rows_of_a_table_that_claims_to_be_large(seed: int) -> None:
    """Where the header claims billions of rows, nothing of that size is allocated to find a row twice."""
    table = make_table(LAYOUTS[1], seed)
    store = np.zeros((70_000, table.rows.store.shape[1]), np.uint8)
    scales = np.ones((70_000, 1), np.float16)
    large = dataclasses.replace(
        table, rows=dataclasses.replace(table.rows, store=store, scales=scales)
    )
    good = pack_prefix(large).tobytes()  # 4 bytes an id
    claimed = {24: struct.pack("<I", 0xFFFFFFFF)}
    file = open_natively(sealed(good, claimed))
    assert file.pee().num_embeddings == 0xFFFFFFFF
    opened = [block for block in read_blocks(good) if block.layer == 0 and block.num_rows == 7]
    one, other = opened[0], opened[-1]
    ids = good[one.begin : one.begin + 4 * other.num_rows]
    check_refused(sealed(good, {**claimed, other.begin: ids}), "a row in two item groups")


@pytest.mark.parametrize("layout", [COLUMNS, INT8], ids=str)
def test_a_row_in_two_item_groups_of_columns(layout: Layout, seed: int) -> None:
    table = make_table(layout, seed, listed=True)
    good = pack_prefix(table).tobytes()
    begin = 64 + (4 + 4 * len(table.item_groups) + 7) // 8 * 8
    small, large = table.item_groups[0], table.item_groups[1]
    ids = small[: len(large)].astype("<u2").tobytes()
    check_refused(sealed(good, {begin + 2 * len(small): ids}), "a row in two item groups")


@pytest.mark.parametrize("layout", [PLANES, INT8], ids=str)
@pytest.mark.parametrize("scale", [-1.0, -0.0, np.inf, -np.inf, np.nan])
def test_a_scale_that_is_negative_or_not_finite(layout: Layout, scale: float, seed: int) -> None:
    good = pack_prefix(make_table(layout, seed)).tobytes()
    begin, _, rows = first_block(good, 0)
    if layout.nested:
        begin += (2 * rows + 7) // 8 * 8
    bad = struct.pack("<e", scale)
    check_refused(
        sealed(good, {begin + 2 * (rows - 1): bad}), "a scale that is negative or not finite"
    )


def last_of_block(good: bytes, layer: int | None) -> int:
    return first_block(good, layer)[1] - 1


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        (LAYOUTS[1], lambda good: last_of_block(good, 0)),
        (LAYOUTS[1], lambda good: last_of_block(good, 1)),
        (COLUMNS, lambda good: last_of_block(good, None)),
        (INT8, lambda good: last_of_block(good, None)),
        # Behind the ids, and behind the scales, of an item group of 7 rows.
        (LAYOUTS[1], lambda good: first_block(good, 0)[0] + 2 * first_block(good, 0)[2]),
        (LAYOUTS[1], lambda good: first_block(good, 0)[0] + 16 + 2 * first_block(good, 0)[2]),
    ],
)
def test_padding_of_a_block_that_is_not_zero(
    layout: Layout, place: Callable[[bytes], int], seed: int
) -> None:
    good = pack_prefix(make_table(layout, seed)).tobytes()
    assert good[place(good)] == 0
    check_refused(sealed(good, {place(good): b"\1"}), "padding that is not zero")


@pytest.mark.parametrize("layer", [0, 4])
def test_bits_beyond_the_last_coordinate_that_are_not_zero(layer: int, seed: int) -> None:
    good = pack_prefix(make_table(PLANES, seed)).tobytes()
    begin, _, rows = first_block(good, layer)
    if layer == 0:
        begin += 2 * ((2 * rows + 7) // 8 * 8)
    # The second byte of the second plane, of the last row of the first tile: coordinates 8 to 15.
    tile = min(rows, 32)
    at = begin + 3 * tile + tile - 1
    check_refused(sealed(good, {at: bytes([good[at] | 0x80])}), "padding that is not zero")
    assert read_slowly(sealed(good, {at: bytes([good[at] ^ 2])})).num_blocks


@pytest.mark.parametrize("listed", [False, True])
def test_padding_of_the_item_groups_that_is_not_zero(listed: bool, seed: int) -> None:
    table = make_table(INT8, seed, listed)  # 7 item groups and a checksum: 32 bytes; 90 of ids
    good = pack_prefix(table).tobytes()
    end = 64 + read_header(good).layout.item_group_section_bytes(7, ROWS, listed)
    for at in (end - 1, 64 + 32 + 90) if listed else (end - 1, 64 + 32):
        check_refused(sealed(good, {at: b"\1"}), "padding that is not zero")


# ---- behind the blocks ----


def ask_for_sections(data: bytes) -> list[Callable[[], object]]:
    return [
        lambda: read_sections(data, read_header(data)),
        lambda: open_natively(data).section(GROUP_CENTROIDS),
        lambda: open_natively(data).find_section(ITEM_IDS),
    ]


@pytest.mark.parametrize(
    ("behind", "says"),
    [
        (bytes(64), "what follows the blocks is no section"),
        (b"\1" * 64, "what follows the blocks is no section"),
        (b"x" * 640, "what follows the blocks is no section"),
        (b"x", "cut short"),
        (bytes(63), "cut short"),
    ],
)
def test_bytes_behind_the_end(behind: bytes, says: str, seed: int) -> None:
    good = pack_prefix(make_table(PLANES, seed)).tobytes()
    centroids = centroid_section(np.ones((2, DIM)), DIM)
    whole = good + pack_section(centroids, header_checksum(good))
    for data in (good + behind, whole + behind):
        # A device needs nothing behind the blocks, and does not look there unasked.
        assert open_natively(data).pee().num_blocks == read_slowly(data).num_blocks
        asks = ask_for_sections(data)
        # The centroids of a torn file that are whole can be had.
        for ask in [asks[0], asks[2]] if data == whole + behind and says == "cut short" else asks:
            with pytest.raises(FormatError, match=says):
                ask()
        with DeviceRecommender.open(data) as recommender, pytest.raises(FormatError, match=says):
            recommender.recommend(user=np.ones(DIM))


def test_a_section_twice_is_refused(seed: int) -> None:
    good = pack_prefix(make_table(PLANES, seed)).tobytes()
    one = pack_section(centroid_section(np.ones((2, DIM)), DIM), header_checksum(good))
    other = pack_section(Section(77, 1, 1, b"unknown"), header_checksum(good))
    for sections in (one + one, one + other + one, other + one + other):
        for ask in ask_for_sections(good + sections):
            with pytest.raises(FormatError, match="a section twice"):
                ask()
    data = good + other + one
    assert open_natively(data).section(GROUP_CENTROIDS)[0] == 2
    assert [section.kind for section in read_sections(data, read_header(data))] == [77, 1]


def test_of_a_torn_file_the_whole_sections_can_be_had(seed: int) -> None:
    good = pack_prefix(make_table(PLANES, seed)).tobytes()
    one = pack_section(centroid_section(np.ones((2, DIM)), DIM), header_checksum(good))
    torn = good + one + pack_section(Section(ITEM_IDS, 1, 1, b"1" * 99), header_checksum(good))[:-1]
    assert open_natively(torn).section(GROUP_CENTROIDS)[0] == 2
    with pytest.raises(FormatError, match="cut short"):
        open_natively(torn).find_section(ITEM_IDS)
    sections = read_sections(torn, read_header(torn), cut_short=True)
    assert [section.kind for section in sections] == [GROUP_CENTROIDS]


def test_padding_and_reserved_bytes_of_a_section(seed: int) -> None:
    good = pack_prefix(make_table(PLANES, seed)).tobytes()
    payload = np.ones((1, DIM), "<f4").tobytes()  # 40 bytes of 64
    for at, says in ((64 + 40, "padding that is not zero"), (63, "is no section"), (28, "is no")):
        body = struct.pack("<IQQI36x", GROUP_CENTROIDS, len(payload), 1, DIM) + payload.ljust(
            64, b"\0"
        )
        changed = bytearray(body)
        changed[at - 4] = 1
        own = struct.pack("<I", zlib.crc32(changed, header_checksum(good)))
        for ask in ask_for_sections(good + own + changed)[:2]:
            with pytest.raises(FormatError, match=says):
                ask()


def test_a_rotation_that_is_not_finite_is_refused(seed: int) -> None:
    good = pack_prefix(dataclasses.replace(make_table(PLANES, seed), rotated=True)).tobytes()
    section = Section(ROTATION, DIM, DIM, np.full((DIM, DIM), np.inf, "<f4").tobytes())
    data = good + pack_section(section, header_checksum(good))
    with DeviceRecommender.open(data) as recommender:
        for _ in range(2):
            with pytest.raises(FormatError, match="a rotation that is not finite"):
                recommender.rotate(np.ones(DIM))


def test_centroids_that_are_not_finite_are_refused(seed: int) -> None:
    good = pack_prefix(make_table(PLANES, seed)).tobytes()
    section = Section(GROUP_CENTROIDS, 1, DIM, np.full(DIM, np.nan, "<f4").tobytes())
    data = good + pack_section(section, header_checksum(good))
    with DeviceRecommender.open(data) as recommender:
        for call in (
            lambda: recommender.choose_group(np.ones(DIM)),
            lambda: recommender.recommend([]),
        ):
            with pytest.raises(FormatError, match="a centroid that is not finite"):
                call()
