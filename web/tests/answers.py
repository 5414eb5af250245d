"""Writes what the native library answers, for the JavaScript tests to compare with bit for bit.

Its instruction set is the portable one, whose sums are those of WebAssembly.

Usage: PEEL_ISA=portable python web/tests/answers.py build/web/answers.json
"""

from __future__ import annotations

import base64
import json
import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peel_ext.device import DeviceRecommender
from peel_ext.errors import BudgetError, DataError, FormatError
from peel_ext.format.header import header_checksum, read_header
from peel_ext.format.layout import ALIGNMENT, HEADER_BYTES, ColumnsLayout
from peel_ext.format.reader import read_blocks

GOLDEN = Path(__file__).resolve().parents[2] / "python_tests" / "format" / "golden"
PAGE_ENTRIES, ENTRY_BYTES = 8, 8
MALFORMED_OF_EACH = 150


def bits(values: Any) -> str:
    """Floats as the bytes of float32."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def answer(f: Callable[[], Any]) -> dict[str, Any]:
    """What a call returns, or the status and the message of its error."""
    try:
        return {"value": f()}
    except BudgetError as error:
        return {"status": 4, "message": str(error), "minimum": error.minimum_bytes}
    except FormatError as error:
        return {"status": 2, "message": str(error)}
    except DataError as error:
        return {"status": 8 if "not held" in str(error) else 5}


def scored(found: tuple[Any, Any]) -> dict[str, Any]:
    """Items and scores."""
    items, scores = found
    return {
        "items": [getattr(item, "item", lambda item=item: item)() for item in items],
        "scores": bits(scores),
    }


def golden_answers(path: Path, chance: random.Random) -> list[dict[str, Any]]:
    """Calls on a golden file under some budgets, and their answers."""
    data = path.read_bytes()
    cases: list[dict[str, Any]] = []
    with DeviceRecommender.open(data) as whole:
        dim, count, full = whole.embedding_dim, whole.num_embeddings, whole.nbytes
        names, _ = whole.recommend(user=np.zeros(dim), rotated=True, n=count)
        items = [item if isinstance(item, str) else int(item) for item in names]
    for budget in [None, 0, *(chance.randrange(64, full) for _ in range(6))]:
        case: dict[str, Any] = {"file": path.name, "budget": budget, "calls": []}
        cases.append(case)
        opened = answer(lambda budget=budget: DeviceRecommender.open(data, budget))
        if "status" in opened:
            case["error"] = opened
            continue
        recommender: DeviceRecommender = opened["value"]
        case["nbytes"], case["blocks"] = recommender.nbytes, recommender.num_blocks
        for _ in range(8):
            known = chance.choices(items, k=chance.randrange(0, 6))
            left_out = chance.sample(items, k=chance.randrange(0, 4))
            n = chance.randrange(1, 2 * count)
            user = np.array([chance.gauss(0, 1) for _ in range(dim)], np.float32)
            vector = [float(value) for value in user]
            calls = {
                "recommend": (
                    [{"history": known, "exclude": left_out, "n": n}],
                    lambda r, known=known, left_out=left_out, n=n: scored(
                        r.recommend(known, exclude=left_out, n=n)
                    ),
                ),
                "score": (
                    [vector, {"n": n, "exclude": left_out}],
                    lambda r, user=user, left_out=left_out, n=n: scored(
                        r.recommend(user=user, rotated=True, exclude=left_out, n=n)
                    ),
                ),
                "scoreItems": (
                    [left_out, {"history": known}],
                    lambda r, known=known, left_out=left_out: bits(
                        r.score_items(left_out, history=known)
                    ),
                ),
                "foldIn": ([known], lambda r, known=known: bits(r.fold_in(known))),
                "continueVector": (
                    [vector, 7, known],
                    lambda r, user=user, known=known: bits(r.continue_vector(user, 7, known)),
                ),
                "similar": (
                    [items[0], {"n": n}],
                    lambda r, n=n: scored(r.similar(items[0], n)),
                ),
            }
            for method, (arguments, call) in calls.items():
                result = answer(lambda call=call, r=recommender: call(r))
                case["calls"].append({"method": method, "arguments": arguments, **result})
        shipped = chance.sample(items, k=9)
        worth = [float(np.float32(chance.gauss(1, 1))) for _ in shipped]
        case["calls"].append(
            {
                "method": "recommend",
                "arguments": [
                    {
                        "history": [],
                        "user": vector,
                        "rotated": True,
                        "n": 12,
                        "shipped": {"items": shipped, "scores": worth},
                    }
                ],
                **answer(
                    lambda r=recommender, user=user, shipped=shipped, worth=worth: scored(
                        r.recommend([], user=user, rotated=True, n=12, shipped=(shipped, worth))
                    )
                ),
            }
        )
    return cases


def seal(data: bytearray) -> None:
    """Makes every checksum right, as far as the bytes make sense; what they say may be anything."""
    if len(data) < HEADER_BYTES:
        return
    data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
    try:
        header = read_header(bytes(data))
        seed = header_checksum(bytes(data))
        at = HEADER_BYTES
        if isinstance(header.layout, ColumnsLayout):
            size = header.layout.item_group_section_bytes(
                header.num_item_groups, header.num_embeddings, header.row_ids == 1
            )
            data[at : at + 4] = zlib.crc32(data[at + 4 : at + size], seed).to_bytes(4, "little")
            at += size
        for number, block in enumerate(read_blocks(bytes(data))):
            if block.end > len(data):
                break
            if number % PAGE_ENTRIES == 0:
                page = block.begin - ALIGNMENT
            entry = page + number % PAGE_ENTRIES * ENTRY_BYTES
            checksum = zlib.crc32(
                data[block.begin : block.end], zlib.crc32(data[entry + 4 : entry + 8], seed)
            )
            data[entry : entry + 4] = checksum.to_bytes(4, "little")
    except FormatError:
        pass


def malformed(chance: random.Random) -> list[dict[str, Any]]:
    """Torn, damaged and hostile bytes, and what opening and asking them gives."""
    cases = []
    for path in sorted(GOLDEN.glob("*.peel")):
        whole = path.read_bytes()
        for number in range(MALFORMED_OF_EACH):
            data = bytearray(whole)
            if number % 3 == 0:
                del data[chance.randrange(len(data)) :]
            for _ in range(chance.randrange(0, 4)):
                near = chance.choice([64, 200, len(data)])
                if data:
                    data[chance.randrange(min(near, len(data)))] = chance.choice(
                        [0, 1, 255, chance.randrange(256)]
                    )
            if number % 2:
                seal(data)
            budget = chance.choice([None, None, 500, 1500])
            case: dict[str, Any] = {
                "bytes": base64.b64encode(data).decode(),
                "budget": budget,
            }
            cases.append(case)
            opened = answer(
                lambda data=data, budget=budget: DeviceRecommender.open(
                    bytes(data), budget, item_ids=False
                )
            )
            if "status" in opened:
                case["error"] = opened
                continue
            recommender: DeviceRecommender = opened["value"]
            case["nbytes"] = recommender.nbytes
            user = np.full(recommender.embedding_dim, 0.5, np.float32)
            case["top"] = scored(recommender.recommend(user=user, rotated=True, n=5))
            case["folded"] = bits(recommender.fold_in([0, recommender.num_embeddings - 1]))
    return cases


def oversized() -> list[dict[str, Any]]:
    """Files whose numbers, or products of them, wrap in 32 bits, and the error that tells of it.

    Every checksum is right. Natively sizes have 64 bits; where words have 32, they must not be smaller.
    """
    cases = []
    for path in sorted(GOLDEN.glob("*.peel")):
        whole = path.read_bytes()
        for at in (24, 28, 32, 44):  # rows, item groups, blocks, the end of the blocks
            for value in (1 << 30, 1 << 31, (1 << 32) - 64, (1 << 32) - 1, 0x04000001, 0x40000001):
                data = bytearray(whole)
                data[at : at + 4] = value.to_bytes(4, "little")
                if at == 24:
                    data[8] = {1: 1, 2: 2}[data[6]]  # ids are listed in columns
                    data[9] = 4
                seed = zlib.crc32(data[:60])
                data[60:64] = seed.to_bytes(4, "little")
                if data[6] == 1:  # as whoever reads the ids as wrapped would want it
                    ids = value * 4 if at == 24 else 100 * data[9] * data[8]
                    groups = 4 + 4 * (value if at == 28 else 20)
                    size = sum(-(-part % 2**32 // 8) * 8 for part in (groups, ids))
                    body = data[68 : 64 + -(-size // 64) * 64]
                    data[64:68] = zlib.crc32(body, seed).to_bytes(4, "little")
                cases.append((path.name, data))
        behind = read_header(whole).blocks_end
        for at in (8, 16):  # bytes and count of the first section
            for value in ((1 << 32) - 64, 1 << 32, (1 << 32) + 2200, (1 << 64) - 64, (1 << 64) - 1):
                data = bytearray(whole)
                data[behind + at : behind + at + 8] = value.to_bytes(8, "little")
                seed = zlib.crc32(data[behind + 4 :], header_checksum(whole))
                data[behind : behind + 4] = seed.to_bytes(4, "little")
                if len(whole) > behind:
                    cases.append((path.name, data))
    return [
        {"file": name, "bytes": base64.b64encode(data).decode(), **answer_all(bytes(data))}
        for name, data in cases
    ]


def answer_all(data: bytes) -> dict[str, Any]:
    """The error of opening a file, or else that of asking it for items and a group."""
    opened = answer(lambda: DeviceRecommender.open(data))
    if "status" in opened:
        return {"error": opened}
    recommender: DeviceRecommender = opened["value"]
    user = np.ones(recommender.embedding_dim, np.float32)

    def ask() -> int:
        recommender.recommend(user=user, rotated=True, n=5)
        return recommender.choose_group(user)

    return {"asked": answer(ask)}


def main() -> None:
    """Writes the answers to the path given."""
    seed = int(os.environ.get("PEEL_TEST_SEED") or random.randrange(2**31))
    chance = random.Random(seed)
    answers = {
        "seed": seed,
        "golden": [
            case for path in sorted(GOLDEN.glob("*.peel")) for case in golden_answers(path, chance)
        ],
        "malformed": malformed(chance),
        "oversized": oversized(),
    }
    Path(sys.argv[1]).write_text(json.dumps(answers))
    print(f"{sys.argv[1]}: seed {seed}")


if __name__ == "__main__":
    main()
