"""Sequences, and that a held-out video is nowhere but where it may be."""

import numpy as np
import polars as pl
import pytest
from benchmarks.leave_one_out.protocol import Sequences, histories_of, leave_one_out


def lists(histories: Sequences) -> list[list[int]]:
    return [part.tolist() for part in np.split(histories.rows, histories.starts[1:-1])]


def test_the_last_tests_the_one_before_validates_the_rest_trains():
    split = leave_one_out(Sequences.of([[0, 1, 2, 3], [4, 5], [6, 7, 8], [9]], videos=10))
    assert lists(split.train) == [[0, 1], [4, 5], [6], [9]]
    assert lists(split.before_test) == [[0, 1, 2], [4, 5], [6, 7], [9]]
    assert split.viewers.tolist() == [0, 2]
    assert (split.valid.tolist(), split.test.tolist()) == ([2, 7], [3, 8])


def test_without_three_videos_nobody_is_held_out():
    with pytest.raises(ValueError, match="none of 2 viewers has three videos"):
        leave_one_out(Sequences.of([[0, 1], [2]], videos=3))


def test_a_row_outside_the_catalogue_is_named():
    with pytest.raises(ValueError, match=r"rows 0 to 3, expected rows 0 to 2"):
        Sequences.of([[0, 3]], videos=3)


def test_padded_shows_the_last_places_oldest_first():
    histories = Sequences.of([[0, 1, 2, 3], [], [4]], videos=5)
    rows, lengths = histories.padded(np.array([2, 0, 1]), places=3)
    assert rows.tolist() == [[4, 5, 5], [1, 2, 3], [5, 5, 5]]
    assert lengths.tolist() == [1, 3, 0]
    nobody, _ = Sequences.of([[], []], videos=5).padded(np.array([0, 1]), places=3)
    assert (nobody == 5).all()


def test_counts():
    assert Sequences.of([[0, 1, 1], [1]], videos=3).counts.tolist() == [1, 3, 0]


def test_a_log_becomes_histories_in_the_order_of_last_impressions():
    log = pl.DataFrame(
        {"user_id": ["b", "a", "b", "a", "c"], "video_id": ["y", "x", "z", "y", "z"], "time_ms": [5, 1, 2, 6, 3]}
    )
    histories, ids = histories_of(log)
    assert ids.to_list() == ["x", "y", "z"]
    assert lists(histories) == [[2], [2, 1], [0, 1]]  # c at 3, b at 5, a at 6
