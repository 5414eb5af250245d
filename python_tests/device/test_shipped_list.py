"""What a device makes of the list that a server shipped beside a user's vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tables import LAYOUTS, draw_table

from peel_ext.device import DeviceRecommender
from peel_ext.errors import DataError
from peel_ext.format import write_file

ROWS, DIM, BUDGET = 600, 16, 4_000
NAMES = [f"item-{row}" for row in range(ROWS)]


@pytest.fixture(params=range(len(LAYOUTS)), ids=lambda at: LAYOUTS[at].__class__.__name__)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    table = draw_table(LAYOUTS[request.param], np.random.default_rng(0), ROWS, DIM)
    write_file(tmp_path / "a.peel", table, item_ids=NAMES)
    return tmp_path / "a.peel"


def budget_of(path: Path) -> int:
    """A budget that holds some rows and not others, for any layout."""
    return BUDGET if path.stat().st_size > 2 * BUDGET else path.stat().st_size // 2


def test_what_is_not_held_competes_with_the_score_it_was_shipped_with(
    path: Path, seed: int
) -> None:
    user = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    with DeviceRecommender.open(path) as server:
        items, scores = server.recommend(user=user, n=40)
    with DeviceRecommender.open(path, budget_of(path)) as device:
        everything, own = device.recommend(user=user, n=ROWS)
        known = [items[1], items[2], everything[0]]
        best = dict(zip(items, scores, strict=True)) | dict(zip(everything, own, strict=True))
        wanted = sorted(
            (name for name in best if name not in known),
            key=lambda name: (-best[name], NAMES.index(name)),
        )[:20]
        got, got_scores = device.recommend(
            known[:1], user=user, exclude=known[1:], shipped=(items, scores)
        )
        assert got == wanted
        assert got_scores.tolist() == [best[name] for name in wanted]
        # Columns hold a part of every row here; then there is nothing to add.
        assert any(name not in everything for name in got) == (len(everything) < ROWS)
        # A table that holds all of the list needs none.
        device.resize(None)
        assert device.recommend(user=user, shipped=(items, scores))[0] == items[:20]
        assert device.recommend(user=user, shipped=([], []))[0] == items[:20]


def test_a_list_alone_is_enough_where_little_is_held(path: Path) -> None:
    user = np.ones(DIM, dtype=np.float32)
    with DeviceRecommender.open(path, budget_of(path)) as device:
        held, _ = device.recommend(user=user, n=ROWS)
        missing = [name for name in NAMES if name not in held][:5]  # none in columns
        items, scores = device.recommend(
            user=user, n=ROWS, shipped=(missing, np.arange(len(missing), 0, -1) * 1e3)
        )
        assert items == missing + held
        assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("shipped", "error", "named"),
    [
        ((["nobody"], [1.0]), DataError, "item 'nobody' is not known"),
        (
            (NAMES[:2], [1.0]),
            ValueError,
            "a score for each of its 2 items, got scores of shape (1,)",
        ),
        ((NAMES[:2], [1.0, np.inf]), ValueError, "must be finite, that of item 1 is inf"),
        (([NAMES[3], NAMES[1], NAMES[3]], [1, 2, 3]), ValueError, "its items 0 and 2 are one"),
        (NAMES[:2], TypeError, "shipped must be items and their scores, got ['item-0'"),
        (("item-0", [1.0]), TypeError, "shipped must be a sequence of items, got 'item-0'"),
    ],
)
def test_rejects(shipped, error: type[Exception], named: str, path: Path) -> None:
    with DeviceRecommender.open(path) as device:
        with pytest.raises(error) as caught:
            device.recommend([NAMES[0]], shipped=shipped)
        assert named in str(caught.value)
