"""docs/format.md is enough to write a reader from: here is one, which uses nothing of the package."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import LAYOUTS, draw_table

from peel_ext.device import DeviceRecommender
from peel_ext.format import FoldInSettings, Layout, unpack_embedding, write_file
from peel_ext.format.quantizer import level_table

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


def read_levels() -> dict[int, np.ndarray]:
    """The table of the page: float32 [2^bits] for each number of bits."""
    upper: dict[int, list[float]] = {}
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    for bits, numbers in re.findall(r"^\| (\d) \| ([\d. ]+) \|$", page, re.MULTILINE):
        if "." in numbers:
            upper.setdefault(int(bits), []).extend(map(float, numbers.split()))
    levels = {}
    for bits, half in upper.items():
        values = np.array(half, dtype=np.float32)
        levels[bits] = np.concatenate([-values[::-1], values])
    return levels


def round_up(count: int, to: int) -> int:
    return -(-count // to) * to


class Reader:
    """Rows, sections and fold-in of a file, by the page alone."""

    def __init__(self, data: bytes) -> None:
        self.data, self.levels = data, read_levels()
        self.read_header()
        at = 64
        self.groups: list[list[int]] = []
        self.pieces: dict[tuple[int, int], tuple[Any, Any]] = {}
        if self.layout == 1:
            at = self.read_item_groups()
        for number in range(self.num_blocks):
            if number % 8 == 0:
                page, at = data[at : at + 64], at + 64
                assert not any(page[8 * min(8, self.num_blocks - number) :])
            checksum, word = struct.unpack_from("<II", page, number % 8 * 8)
            at = self.read_block(at, checksum, word)
        assert at == self.end

    def read_header(self) -> None:
        data = self.data
        assert data[:5] == b"PEEL\1"
        assert data[5] < 8
        assert data[11] == 0
        self.prior_bit = data[5] >> 1 & 1
        self.layout, self.value_type, self.id_kind, self.id_bytes, self.steps = data[6:11]
        self.layer_bits = [bits for bits in data[12:20] if bits]
        self.dim, self.block_dim = struct.unpack_from("<HH", data, 20)
        self.num_rows, self.num_groups, self.num_blocks, self.group = struct.unpack_from(
            "<IIII", data, 24
        )
        self.end = 64 * struct.unpack_from("<I", data, 44)[0]
        self.step_size, self.temperature, self.prior = struct.unpack_from("<fff", data, 48)
        (self.own,) = struct.unpack_from("<I", data, 60)
        assert zlib.crc32(data[:60]) == self.own
        self.id_type = f"<u{self.id_bytes}"

    def read_item_groups(self) -> int:
        ids_begin = round_up(4 + 4 * self.num_groups, 8)
        size = ids_begin + (round_up(self.id_bytes * self.num_rows, 8) if self.id_kind == 1 else 0)
        part = self.data[64 : 64 + round_up(size, 64)]
        assert zlib.crc32(part[4:], self.own) == struct.unpack_from("<I", part)[0]
        ends = np.frombuffer(part, "<u4", self.num_groups, 4)
        ids = np.arange(self.num_rows)
        if self.id_kind == 1:
            ids = np.frombuffer(part, self.id_type, self.num_rows, ids_begin)
        self.groups = [part.tolist() for part in np.split(ids, ends[:-1])]
        return 64 + len(part)

    def read_block(self, at: int, checksum: int, word: int) -> int:
        layer, rest = word & 63, word >> 6
        opens = self.layout == 2 and layer == 0
        group, rows = (len(self.groups), rest) if opens else (rest, 0)
        rows = rows or len(self.groups[group])
        place, scales = at, None
        if opens:
            self.groups.append(np.frombuffer(self.data, self.id_type, rows, place).tolist())
            place += round_up(self.id_bytes * rows, 8)
        if opens or (self.layout == 1 and self.value_type == 2):
            scales = np.frombuffer(self.data, "<f2", rows, place).astype(np.float32)
            place += round_up(2 * rows, 8)
        kind = "u1"
        if self.layout == 2:
            width = self.layer_bits[layer] * -(-self.dim // 8)
        else:
            width = min(self.block_dim, self.dim - layer * self.block_dim)
            kind = ("<f4", "<f2", "i1")[self.value_type]
        values = np.frombuffer(self.data, kind, rows * width, place)
        tiles = [values[r * width : min(r + 32, rows) * width] for r in range(0, rows, 32)]
        pieces = np.concatenate([tile.reshape(width, -1).T for tile in tiles])
        end = at + round_up(place + rows * width * values.itemsize - at, 64)
        own = zlib.crc32(struct.pack("<I", word), self.own)
        assert zlib.crc32(self.data[at:end], own) == checksum
        assert (group, layer) not in self.pieces
        self.pieces[group, layer] = (pieces, scales)
        return end

    def decode(self) -> np.ndarray:
        """All rows float32 [num_rows, dim]."""
        rows = np.zeros((self.num_rows, self.dim), np.float32)
        for group, ids in enumerate(self.groups):
            if self.layout == 2:
                rows[ids] = self.decode_planes(group)
                continue
            for layer in range(-(-self.dim // self.block_dim)):
                pieces, scales = self.pieces.get((group, layer), (None, None))
                if pieces is None:
                    continue
                values = pieces.astype(np.float32)
                begin = layer * self.block_dim
                rows[ids, begin : begin + values.shape[1]] = (
                    values if scales is None else values * scales[:, None]
                )
        return rows

    def decode_planes(self, group: int) -> np.ndarray:
        width, codes, bits = -(-self.dim // 8), 0, 0
        for layer, more in enumerate(self.layer_bits):
            if (group, layer) not in self.pieces:
                break
            for plane in range(more):
                part = self.pieces[group, layer][0][:, plane * width : (plane + 1) * width]
                d = np.arange(self.dim)
                codes = 2 * codes + (part[:, d // 8] >> d % 8 & 1).astype(int)
            bits += more
        scales = self.pieces[group, 0][1]
        return self.levels[bits][codes] * scales[:, None]

    def sections(self) -> dict[int, tuple[int, int, bytes]]:
        at, found = self.end, {}
        while at < len(self.data):
            checksum, kind, size, count, width = struct.unpack_from("<IIQQI", self.data, at)
            end = at + 64 + round_up(size, 64)
            assert zlib.crc32(self.data[at + 4 : end], self.own) == checksum
            found[kind] = (count, width, self.data[at + 64 : at + 64 + size])
            at = end
        return found

    def fold_in(self, history: list[int]) -> np.ndarray:
        """A user's vector, in float64."""
        rows = self.decode().astype(np.float64)
        held = [
            row
            for group, ids in enumerate(self.groups)
            for row in ids
            if any(key[0] == group for key in self.pieces)
        ]
        if self.prior_bit:
            rows -= rows.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        units = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
        n, first = len(held), 1024 if self.layout == 2 else 0
        sample, weights = np.array(held), np.ones(n)
        if n > 2048:
            count = (2048 - first) // 16
            begins = [first + (2 * k + 1) * (n - first) // (2 * count) - 8 for k in range(count)]
            places = [*range(first), *(b + i for b in begins for i in range(16))]
            sample = sample[places]
            weights = np.where(np.arange(2048) < first, 1, (n - first) / (2048 - first))
        known = [row for row in history if lengths[row] > 0]
        mean = units[known].mean(axis=0)
        user = mean / np.linalg.norm(mean)
        for _ in range(self.steps):
            shares = weights * np.exp(units[sample] @ user / self.temperature)
            expected = shares @ units[sample] / shares.sum()
            user = user - self.step_size * (expected - mean) / self.temperature
            user /= np.linalg.norm(user)
        return user + (self.prior / np.sqrt(self.dim) if self.prior_bit else 0)


def test_the_levels_of_the_page_are_those_of_the_readers() -> None:
    levels = read_levels()
    assert list(levels) == list(range(1, 9))
    assert np.array_equal(np.concatenate(list(levels.values())), level_table())


@pytest.mark.parametrize("name", ["planes", "columns", "prior", "rotated"])
def test_the_reader_of_the_page_reads_golden_files(name: str) -> None:
    reader = Reader((GOLDEN / f"v1-{name}.peel").read_bytes())
    expected = np.load(GOLDEN / f"v1-{name}.npz")
    want = np.zeros((reader.num_rows, reader.dim), np.float32)
    want[expected["ids"]] = expected["rows"]
    assert np.array_equal(reader.decode(), want)


@pytest.mark.parametrize("num_rows", [45, 2_500])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_reader_of_the_page_agrees_with_the_others(
    layout: Layout, listed: bool, num_rows: int, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    table = draw_table(layout, rng, num_rows, 10, listed)
    names = [f"ü {row}" for row in range(num_rows)]
    centroids = rng.normal(size=(3, 10)).astype(np.float32)
    settings = FoldInSettings(steps=7, prior=0.3 if listed else 0.0)
    write_file(tmp_path / "a.peel", table, fold_in=settings, centroids=centroids, item_ids=names)
    data = (tmp_path / "a.peel").read_bytes()
    reader, plain = Reader(data), unpack_embedding(data)
    want = np.zeros((num_rows, 10), np.float32)
    want[plain.ids] = plain.rows
    assert np.array_equal(reader.decode(), want)
    sections = reader.sections()
    assert sections[1] == (3, 10, centroids.tobytes())
    ends = np.frombuffer(sections[2][2], "<u4", num_rows + 1)
    text = sections[2][2][4 * (num_rows + 1) :]
    cut = [text[begin:end].decode() for begin, end in itertools.pairwise(ends)]
    assert cut == names
    history = rng.choice(num_rows, 6).tolist()
    with DeviceRecommender.open(data, item_ids=False) as recommender:
        assert np.allclose(recommender.fold_in(history), reader.fold_in(history), atol=2e-5)
