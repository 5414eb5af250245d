"""The .peel format: writer, plain reader and native reader agree, whatever happens to the bytes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import LAYOUTS, draw_table

from peel_ext import _core
from peel_ext.device import DeviceRecommender, PersonalizedElasticEmbedding
from peel_ext.device.item_ids import ItemIds
from peel_ext.errors import BudgetError, FormatError
from peel_ext.format import (
    EncodedRows,
    FoldInSettings,
    GroupTable,
    Layout,
    pack_prefix,
    read_blocks,
    read_header,
    unpack_embedding,
    write_file,
)
from peel_ext.format.appendix import GROUP_CENTROIDS, ITEM_IDS, ROTATION, read_sections
from peel_ext.format.quantizer import level_table

GOLDEN = Path(__file__).parent / "golden"
SUPPORT = Path(__file__).parents[1] / "support"


def native(data: bytes, budget_bytes: int | None = None) -> _core.Pee:
    aligned = np.zeros(len(data) // 8 + 1, np.uint64).view(np.uint8)[: len(data)]
    aligned[:] = np.frombuffer(data, np.uint8)
    return _core.PeelFile.open_buffer(aligned, budget_bytes).pee()


def rows_of(pee: _core.Pee) -> np.ndarray:
    ids = np.arange(pee.num_embeddings, dtype=np.int64)
    rows = np.empty((len(ids), pee.dim), np.float32)
    address = [array.__array_interface__["data"][0] for array in (ids, rows)]
    assert pee.lookup(len(ids), *address)[0] == 0
    return rows


def refusal(read: Callable[[], object]) -> tuple[type[Exception], int] | None:
    """How a reader refuses: the type of its error and the minimum it names."""
    try:
        read()
    except (FormatError, BudgetError) as error:
        return type(error), getattr(error, "minimum_bytes", 0)
    return None


def check_agreement(data: bytes, budget_bytes: int | None = None) -> None:
    """Both readers refuse alike, or both hold the same."""
    refused = refusal(lambda: unpack_embedding(data, budget_bytes))
    assert refused == refusal(lambda: native(data, budget_bytes))
    if refused:
        return
    plain = unpack_embedding(data, budget_bytes)
    pee = native(data, budget_bytes)
    assert (pee.num_blocks, pee.nbytes) == (plain.num_blocks, plain.nbytes)
    assert budget_bytes is None or pee.nbytes <= budget_bytes
    want = np.zeros((plain.num_embeddings, plain.rows.shape[1]), np.float32)
    want[plain.ids] = plain.rows
    assert np.array_equal(rows_of(pee), want)


# ---- R1 to R5, R8: what the bytes are ----


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    rows=st.sampled_from([0, 1, 31, 33, 200]),
    dim=st.sampled_from([6, 8, 17]),
    listed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0, 1.1),
)
def test_round_trip(
    layout: Layout, rows: int, dim: int, listed: bool, seed: int, share: float
) -> None:
    table = draw_table(layout, np.random.default_rng(seed), rows, dim, listed)
    data = pack_prefix(table).tobytes()
    assert read_header(data).blocks_end == len(data)
    assert read_header(data).layout.block_dim == layout.block_dim
    plain = unpack_embedding(data)
    assert plain.num_blocks == len(table.order)
    everything = (1 << table.num_layers) - 1
    want = layout.decode(table.rows.store, table.rows.scales, everything, dim)
    assert np.array_equal(plain.rows, want[plain.ids])
    check_agreement(data)
    check_agreement(data, int(share * plain.nbytes))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_r2_a_flip_of_any_byte_is_reported(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(pack_prefix(draw_table(layout, rng, rows=20, dim=6)).tobytes())
    for at in range(len(data)):
        bit = 1 << int(rng.integers(8))
        data[at] ^= bit
        for read in (unpack_embedding, native):
            with pytest.raises(FormatError):
                read(bytes(data))
        data[at] ^= bit


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_r3_a_torn_file_is_the_best_model_of_its_length(layout: Layout, seed: int) -> None:
    table = draw_table(layout, np.random.default_rng(seed), rows=40, dim=8)
    data = pack_prefix(table).tobytes()
    least = read_header(data).least_blocks
    ends = [block.end for block in read_blocks(data)]
    for size in range(len(data)):
        blocks = sum(end <= size for end in ends)
        if blocks < least:
            with pytest.raises(FormatError, match=r"cut short|does not begin"):
                native(data[:size])
            continue
        pee = native(data[:size])
        assert pee.num_blocks == blocks
        if size in ends:
            assert pack_prefix(table, blocks).tobytes() == data[:size]
            check_agreement(data[:size])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_r4_bytes_never_exceed_the_budget(layout: Layout, seed: int) -> None:
    table = draw_table(layout, np.random.default_rng(seed), rows=60, dim=8)
    data = pack_prefix(table).tobytes()
    whole = unpack_embedding(data)
    sizes = np.array([len(ids) for ids in table.item_groups])
    costs = layout.block_costs(sizes, 8, 60).reshape(-1)[table.order]
    overhead = layout.overhead_bytes(len(sizes), 60, False)
    exact = overhead + np.cumsum(costs) + -np.arange(1, len(costs) + 1) % 8 * 8
    assert exact[-1] == whole.nbytes
    for budget in range(0, whole.nbytes + 2, 3):
        blocks = int((exact <= budget).sum())
        if blocks < whole.header.least_blocks:
            with pytest.raises(BudgetError) as caught:
                native(data, budget)
            assert caught.value.minimum_bytes == exact[whole.header.least_blocks - 1]
        else:
            pee = native(data, budget)
            assert (pee.num_blocks, pee.nbytes) == (blocks, exact[blocks - 1])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_r5_resizing_is_opening_anew(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = pack_prefix(draw_table(layout, rng, rows=300, dim=16))
    file = _core.PeelFile.open_buffer(data)
    least = 1 + unpack_embedding(data.tobytes()).header.least_blocks * 300
    for budget in rng.integers(least + 2000, len(data) + 3000, 12):
        file.resize(int(budget))
        fresh = native(data.tobytes(), int(budget))
        assert file.pee().nbytes == fresh.nbytes
        assert np.array_equal(rows_of(file.pee()), rows_of(fresh))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_r1_hostile_bytes_are_refused_by_both_readers_or_by_none(layout: Layout, seed: int) -> None:
    """Entries and header rewritten, their checksums right: only what they say is wrong."""
    rng = np.random.default_rng(seed)
    table = draw_table(layout, rng, rows=40, dim=8)
    good = pack_prefix(table).tobytes()
    page = 64 + layout.item_group_section_bytes(len(table.item_groups), 40, table.listed)
    checksum = int.from_bytes(good[60:64], "little")
    blocks = list(read_blocks(good))
    for _ in range(300):
        data = bytearray(good)
        if rng.random() < 0.5:
            data[rng.integers(4, 60)] = int(rng.integers(256))
            data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
        else:
            number = int(rng.integers(min(8, len(blocks))))
            word = int(rng.integers(1 << 32)) if rng.random() < 0.5 else int(rng.integers(1 << 12))
            entry = page + 8 * number
            block = blocks[number]
            own = zlib.crc32(
                data[block.begin : block.end], zlib.crc32(word.to_bytes(4, "little"), checksum)
            )
            data[entry : entry + 8] = own.to_bytes(4, "little") + word.to_bytes(4, "little")
        check_agreement(bytes(data))


def test_r1_counts_beyond_all_bounds_allocate_nothing() -> None:
    data = bytearray(pack_prefix(draw_table(LAYOUTS[2], np.random.default_rng(0))).tobytes())
    for at in (24, 28, 32, 44):
        for value in (0, 1 << 31, (1 << 32) - 1):
            hostile = data.copy()
            hostile[at : at + 4] = value.to_bytes(4, "little")
            hostile[60:64] = zlib.crc32(hostile[:60]).to_bytes(4, "little")
            with pytest.raises(FormatError):
                native(bytes(hostile))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a .peel file"),
        (b"PEE1" + bytes(100), "not a .peel file"),
        (b"PE", "cut short: 2 bytes"),
        (b"PEEL" + bytes(30), "cut short: 34 bytes"),
        (b"PEEL\x02" + bytes(100), "version 2 of the .peel format, this reads version 1"),
        (b"PEEL\x01" + bytes(100), "the checksum of the header does not match"),
    ],
)
def test_r8_other_files_are_named(data: bytes, says: str) -> None:
    for read in (unpack_embedding, native):
        with pytest.raises(FormatError) as caught:
            read(data)
        assert says in str(caught.value)


def test_tables_too_large_for_the_format_are_refused() -> None:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), rows=1, dim=8)
    wide = dataclasses.replace(table, dim=1 << 16)
    with pytest.raises(ValueError, match=r"too large for a \.peel file"):
        _ = wide.outline.header
    with pytest.raises(ValueError, match="steps must be between 0 and 255, got 256"):
        FoldInSettings(steps=256)
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got nan"):
        FoldInSettings(temperature=float("nan"))


def test_the_native_quantiser_is_that_of_the_format() -> None:
    assert np.array_equal(np.array(_core.levels(), np.float32), level_table())


# ---- behind the blocks ----


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("ids", [[f"ü{row}" for row in range(40)], [7 - row for row in range(40)]])
def test_centroids_and_ids_come_back(ids: list, as_array: bool, tmp_path: Path) -> None:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), rows=40, dim=8)
    centroids = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    path = tmp_path / "a.peel"
    given = np.array(ids) if as_array else ids
    write_file(path, table, fold_in=FoldInSettings(3), centroids=centroids, item_ids=given)
    data = path.read_bytes()
    header = read_header(data)
    assert header.fold_in.steps == 3
    sections = read_sections(data, header)
    assert [section.kind for section in sections] == [ITEM_IDS, GROUP_CENTROIDS]
    assert sections[1].payload == centroids.tobytes()
    payload = sections[0].payload
    items = ItemIds(40, bool(sections[0].width), lambda at, count: payload[at : at + count])
    assert items.to_ids(range(40)) == ids
    assert items.to_rows(ids[::-1]).tolist() == list(range(40))[::-1]
    file = _core.PeelFile.open_path(str(path))
    assert file.section(GROUP_CENTROIDS) == (3, 8, centroids.tobytes())
    assert file.section(ITEM_IDS)[2] == sections[0].payload
    user = centroids[2] + 1
    assert file.choose_group(user.__array_interface__["data"][0]) == np.argmax(centroids @ user)
    for at in range(header.blocks_end, len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 4
        with pytest.raises(FormatError):
            read_sections(bytes(flipped), header)
    for end, whole in ((len(data), 2), (len(data) - 1, 1), (header.blocks_end + 70, 0)):
        assert read_sections(data[:end], header, cut_short=True) == sections[:whole]
    with pytest.raises(FormatError, match="cut short"):
        read_sections(data[:-1], header)
    cut = np.frombuffer(data[: header.blocks_end + 70], np.uint8).copy()
    with pytest.raises(FormatError, match="cut short"):
        _core.PeelFile.open_buffer(cut).section(GROUP_CENTROIDS)


@pytest.mark.parametrize(
    ("extras", "error", "named"),
    [
        ({"centroids": np.ones((2, 7))}, ValueError, "centroids must be finite and have shape"),
        ({"centroids": np.full((2, 8), np.nan)}, ValueError, "centroids must be finite"),
        ({"item_ids": ["a"]}, ValueError, "item_ids must hold 20 ids, got 1"),
        ({"item_ids": ["a"] * 20}, ValueError, "item_ids must be distinct"),
        ({"item_ids": [1.5] * 20}, TypeError, "item_ids must be all integers or all text"),
        ({"rotation": np.eye(8)}, ValueError, "rotation is for a table whose rows are rotated"),
    ],
)
def test_extras_that_do_not_fit(extras, error, named: str, tmp_path: Path) -> None:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), rows=20, dim=8)
    with pytest.raises(error) as caught:
        write_file(tmp_path / "a.peel", table, **extras)
    assert named in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_header_tells_of_a_rotation_and_the_file_may_carry_it(tmp_path: Path) -> None:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), rows=40, dim=8)
    rotated = dataclasses.replace(table, rotated=True)
    assert not read_header(pack_prefix(table).tobytes()).rotated
    assert read_header(pack_prefix(rotated, 1).tobytes()).rotated
    rotation = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    path = tmp_path / "a.peel"
    write_file(path, rotated, rotation=rotation, item_ids=range(40))
    data = path.read_bytes()
    check_agreement(data)
    behind = read_sections(data, read_header(data))
    assert [section.kind for section in behind] == [ITEM_IDS, ROTATION]
    file = _core.PeelFile.open_path(str(path))
    assert file.rotated
    assert file.section(ROTATION) == (8, 8, rotation.tobytes())
    assert not _core.PeelFile.open_buffer(pack_prefix(table)).rotated
    for wrong in (np.eye(7), np.full((8, 8), np.inf)):
        with pytest.raises(ValueError, match="rotation must be finite and have shape"):
            write_file(path, rotated, rotation=wrong)
    assert path.read_bytes() == data


def test_columns_are_not_rotated() -> None:
    table = draw_table(LAYOUTS[2], np.random.default_rng(0), rows=40, dim=8)
    data = pack_prefix(dataclasses.replace(table, rotated=True)).tobytes()
    check_agreement(data)
    with pytest.raises(FormatError, match="rotated rows without planes"):
        native(data)


# ---- R6: writing ----


def test_a_link_stays_and_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), rows=20, dim=8)
    (tmp_path / "there").mkdir()
    (tmp_path / "a.peel").symlink_to(tmp_path / "there" / "b.peel")
    write_file(tmp_path / "a.peel", table)
    assert (tmp_path / "a.peel").is_symlink()
    assert (tmp_path / "there" / "b.peel").read_bytes().startswith(b"PEEL")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        write_file(tmp_path / "pipe", table)
    assert (tmp_path / "pipe").is_fifo()


_WRITE_FOR_EVER = """
import sys
import numpy as np
from peel_ext.format import write_file
from tables import LAYOUTS, draw_table
tables = [draw_table(LAYOUTS[0], np.random.default_rng(seed), 2000, 32) for seed in (0, 1)]
print("ready", flush=True)
while True:
    for table in tables:
        write_file(sys.argv[1], table)
"""


@pytest.mark.slow
def test_r6_killed_while_writing_leaves_the_old_or_the_new_file(tmp_path: Path, seed: int) -> None:
    tables = [draw_table(LAYOUTS[0], np.random.default_rng(s), 2000, 32) for s in (0, 1)]
    legal = {pack_prefix(table).tobytes() for table in tables}
    path = tmp_path / "a.peel"
    write_file(path, tables[0])
    rng = np.random.default_rng(seed)
    for _ in range(10):
        command = [sys.executable, "-c", _WRITE_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=SUPPORT) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.1))
            os.kill(p.pid, signal.SIGKILL)
        assert path.read_bytes() in legal


# ---- files of every version are kept for ever ----


@pytest.mark.parametrize("name", ["planes", "columns", "prior", "rotated"])
def test_golden_files_open_as_ever(name: str) -> None:
    data = (GOLDEN / f"v1-{name}.peel").read_bytes()
    expected = np.load(GOLDEN / f"v1-{name}.npz")
    plain = unpack_embedding(data)
    assert np.array_equal(plain.ids, expected["ids"])
    assert np.array_equal(plain.held, expected["held"])
    assert np.array_equal(plain.rows, expected["rows"])
    check_agreement(data)
    pee = PersonalizedElasticEmbedding(data)
    ids, scores = pee.score(expected["users"], 5)
    assert np.array_equal(ids, expected["best"])
    assert np.allclose(scores, expected["scores"], rtol=1e-5)
    if "folded" in expected:
        with DeviceRecommender.open(data) as recommender:
            assert np.allclose(recommender.fold_in([3, 50, 97]), expected["folded"], atol=1e-5)
    if "shipped" in expected:
        with DeviceRecommender.open(data) as recommender:
            assert np.allclose(
                recommender.rotate(expected["users"]), expected["shipped"], atol=1e-5
            )
    assert pack_prefix(golden_table(name)).tobytes() == data[: read_header(data).blocks_end]


def golden_table(name: str) -> GroupTable:
    """What the golden files were made of, without a random generator that may change."""
    layout = LAYOUTS[3] if name == "columns" else LAYOUTS[0]
    rows, dim = 100, 20
    weight = np.sin(np.arange(rows * dim, dtype=np.float64) * 7.3).reshape(rows, dim)
    encoded = layout.encode((weight * 2).astype(np.float32))
    sizes = layout.item_group_sizes(rows)
    ids = np.argsort(np.arange(rows) * 37 % rows) if layout.nested else np.arange(rows)
    groups = [np.sort(part) for part in np.split(ids, np.cumsum(sizes)[:-1])]
    layers = layout.num_layers(dim)
    order = [c * layers + layer for layer in range(layers) for c in range(len(sizes))]
    fold_in = FoldInSettings(prior=0.4) if name == "prior" else FoldInSettings()
    return GroupTable(
        layout, dim, EncodedRows(*encoded), groups, np.array(order), group=1, fold_in=fold_in,
        rotated=name == "rotated",
    )  # fmt: skip
