from __future__ import annotations

import numpy as np
import pytest

from peel_ext.config import PretrainingConfig, TuningConfig
from peel_ext.data import SyntheticConfig, make_interactions
from peel_ext.train import tuning
from peel_ext.train.held_out import draw_users, hold_out, measure
from peel_ext.train.lists import take_users
from peel_ext.train.pretraining import PretrainedVectors, pretrain
from peel_ext.train.tuning import choose_temperature

SMALL = PretrainingConfig(embedding_dim=8, epochs=3, steps_per_epoch=4)


def make_lists() -> tuple[np.ndarray, np.ndarray, int]:
    made = make_interactions(SyntheticConfig(num_users=120, num_items=150, mean_interactions=12))
    return *made.csr(), made.num_items


def test_the_candidate_that_finds_most_is_taken() -> None:
    indptr, items, num_items = make_lists()
    config = TuningConfig(temperatures=(0.02, 0.2, 1.0), validation_share=0.3, epochs=2)
    temperature, recalls = choose_temperature(indptr, items, num_items, config, SMALL)
    left, held = hold_out(indptr, items, num_items, 0.3, config.seed)
    expected = []
    for candidate in config.temperatures:
        vectors = pretrain(
            *left,
            num_items,
            PretrainingConfig(embedding_dim=8, epochs=2, steps_per_epoch=4, temperature=candidate),
        )
        expected.append(measure(vectors.users, vectors.items, left, held, config.n).recall)
    np.testing.assert_allclose(recalls, expected)
    assert temperature == config.temperatures[int(np.argmax(expected))]


def test_finished_candidates_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    indptr, items, num_items = make_lists()
    config = TuningConfig(temperatures=(0.1, 0.2, 0.4))
    expected = choose_temperature(indptr, items, num_items, config, SMALL)
    saved: list[dict[str, np.ndarray]] = []

    class Memory:
        def load(self) -> dict[str, np.ndarray] | None:
            return saved[1] if saved else None

        def save(self, state) -> None:
            saved.append(dict(state))

    assert (
        choose_temperature(indptr, items, num_items, config, SMALL, checkpoint=Memory())[0]
        == (expected[0])
    )
    trained: list[float | None] = []

    def note(*arguments, **options) -> PretrainedVectors:
        trained.append(arguments[3].temperature)
        return pretrain(*arguments, **options)

    monkeypatch.setattr(tuning, "pretrain", note)
    again = choose_temperature(indptr, items, num_items, config, SMALL, checkpoint=Memory())
    assert trained == [0.4]
    assert again[0] == expected[0]
    assert np.array_equal(again[1], expected[1])


@pytest.mark.parametrize(
    ("lists", "temperatures", "expected"),
    [
        ([[0, 1], [2]], (0.3,), 0.3),  # nothing to choose
        ([[0], [1]], (0.3, 0.4), 0.1),  # nothing to choose by
        ([], (0.3, 0.4), 0.1),
    ],
)
def test_nothing_to_choose(lists: list[list[int]], temperatures, expected: float) -> None:
    indptr = np.cumsum([0, *map(len, lists)])
    items = np.array([item for items in lists for item in items], dtype=np.int64)
    config = TuningConfig(temperatures=temperatures)
    assert choose_temperature(indptr, items, 3, config, SMALL)[0] == expected


def test_progress_runs_over_all_candidates() -> None:
    reports: list[tuple[int, int]] = []
    config = TuningConfig(temperatures=(0.1, 0.2), epochs=2)
    choose_temperature(
        *make_lists(),
        config,
        SMALL,
        on_progress=lambda done, total, _: reports.append((done, total)),
    )
    assert reports == [(done, 16) for done in range(1, 17)]


def test_held_out_items_are_the_rest(seed: int) -> None:
    indptr, items, num_items = make_lists()
    left, held = hold_out(indptr, items, num_items, 0.25, seed)
    for user in range(len(indptr) - 1):
        parts = [lists[1][lists[0][user] : lists[0][user + 1]] for lists in (left, held)]
        assert sorted(np.concatenate(parts)) == items[indptr[user] : indptr[user + 1]].tolist()
        assert len(parts[1]) == min(max(round(0.25 * sum(map(len, parts))), 1), len(parts[0]))


def test_taking_and_drawing_users(seed: int) -> None:
    lists = (np.array([0, 2, 2, 5]), np.array([7, 8, 1, 2, 3]))
    taken = take_users(lists, np.array([2, 0, 1, 2]))
    assert taken[0].tolist() == [0, 3, 5, 5, 8]
    assert taken[1].tolist() == [1, 2, 3, 7, 8, 1, 2, 3]
    assert draw_users(lists, 9, seed).tolist() == [0, 2]
    assert len(draw_users(lists, 1, seed)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"temperatures": ()},
        {"temperatures": (0.1, -1.0)},
        {"validation_share": 1.0},
        {"epochs": 0},
        {"max_users": 0},
    ],
)
def test_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TuningConfig(**change)
