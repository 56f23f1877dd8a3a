"""The rings of watches and of watched names, by hand."""

import numpy as np
import pytest

from watchnext.features.state import history


def ring(watches: int, slots: int = 3) -> np.ndarray:
    """`watches` watches of the rows 10, 11, ... a second apart, behind one number that is not the ring's."""
    record = np.zeros(2 + slots * history.WATCH)
    for i in range(watches):
        history.push(record, 1, slots, 10 + i, 1000.0 * (i + 1), 500.0 * (i + 1), float(i))
    return record


def read(record, as_of=10_000.0, slots: int = 3):
    rows, values = np.full(slots, 99, np.int32), np.full((slots, 3), 99.0)
    history.read(record, 1, slots, as_of, rows, values)
    return rows.tolist(), values.tolist()


def test_latest_first_and_empty_behind():
    assert read(ring(0)) == ([-1, -1, -1], [[0.0] * 3] * 3)
    assert read(ring(2)) == ([11, 10, -1], [[8.0, 1.0, 1.0], [9.0, 0.5, 0.0], [0.0] * 3])


def test_the_oldest_watch_is_overwritten():
    assert read(ring(5))[0] == [14, 13, 12]
    assert ring(5)[0] == 0.0


def test_a_watch_after_the_read_is_no_time_ago():
    assert read(ring(1), as_of=400.0)[1][0] == [0.0, 0.5, 0.0]


def test_a_name_is_written_once_and_the_one_that_was_seen_longest_ago_is_forgotten():
    record = np.zeros(1 + 3)
    for row in (5, 0, 5, 9, 0):
        history.push_seen(record, 0, 3, row)
    assert record.tolist() == [3.0, 6.0, 10.0, 1.0]
    history.push_seen(record, 0, 3, 7)
    assert history.seen(record, 0, 3).tolist() == [0, 7, 9]


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_the_names_are_those_of_the_last_distinct_videos_whatever_came_again(slots):
    random = np.random.default_rng(slots)
    record, latest = np.zeros(1 + slots), []
    for row in random.integers(0, 9, 300).tolist():
        history.push_seen(record, 0, slots, row)
        latest = [row, *(each for each in latest if each != row)][:slots]
        assert history.seen(record, 0, slots).tolist() == sorted(latest)


def test_outcomes_become_bits():
    outcomes = {name: np.array([False, True, i == 2]) for i, name in enumerate(history.OUTCOME_BITS)}
    assert history.outcome_bits(outcomes).tolist() == [0.0, 127.0, 4.0]
