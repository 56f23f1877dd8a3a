"""One decayed counter, by hand."""

import math

import numpy as np
import pytest

from watchnext.features.state import counters

HALF_LIVES_MS = np.array([1000.0, 4000.0])
BOTH = np.array([True, True])


def block() -> np.ndarray:
    """[last, a@1s, a@4s, b@1s, b@4s] after one event (4, 8) at 10 s."""
    record = np.zeros(5)
    counters.add(record, 0, 10_000.0, np.array([4.0, 8.0]), BOTH, HALF_LIVES_MS)
    return record


def read(record, as_of) -> list[float]:
    out = np.zeros(4)
    counters.read(record, 0, as_of, HALF_LIVES_MS, out)
    return out.tolist()


def test_a_first_event_is_counted_whole():
    assert block().tolist() == [10_000.0, 4.0, 4.0, 8.0, 8.0]


def test_a_value_halves_every_half_life():
    assert read(block(), 14_000.0) == pytest.approx([0.25, 2.0, 0.5, 4.0], rel=1e-15)


def test_a_read_before_the_last_event_does_not_grow_and_none_writes():
    record = block()
    assert read(record, 9_000.0) == [4.0, 4.0, 8.0, 8.0]
    assert record.tolist() == block().tolist()


def test_a_later_event_decays_what_was_there():
    record = block()
    counters.add(record, 0, 12_000.0, np.array([1.0, 1.0]), BOTH, HALF_LIVES_MS)
    assert record.tolist() == pytest.approx([12_000.0, 2.0, 4 * math.sqrt(0.5) + 1, 3.0, 8 * math.sqrt(0.5) + 1], rel=1e-15)


def test_a_late_event_decays_itself_and_leaves_the_time():
    record = block()
    counters.add(record, 0, 9_000.0, np.array([1.0, 2.0]), BOTH, HALF_LIVES_MS)
    assert record[0] == 10_000.0
    assert record[[1, 3]].tolist() == [4.5, 9.0]


def test_an_amount_of_zero_still_decays():
    record = block()
    counters.add(record, 0, 11_000.0, np.array([100.0, 1.0]), np.array([False, True]), HALF_LIVES_MS)
    assert record[[1, 3]].tolist() == [2.0, 5.0]


def test_reads_add_up():
    out = np.ones(4)
    counters.read(block(), 0, 10_000.0, HALF_LIVES_MS, out)
    assert out.tolist() == [5.0, 5.0, 9.0, 9.0]


def test_a_full_table_gives_up_its_least_recently_updated_slot():
    record = np.zeros(2 * 3)  # two slots of [key + 1, last, value]
    for key, last in ((7, 5.0), (0, 9.0)):
        at = counters.claim(record, 0, 2, 3, key)
        record[at + 1 : at + 3] = (last, 1.0)
    assert counters.find(record, 0, 2, 3, 7) == 0
    assert counters.claim(record, 0, 2, 3, 0) == 3
    assert counters.claim(record, 0, 2, 3, 4) == 0
    assert record.tolist() == [5.0, 0.0, 0.0, 1.0, 9.0, 1.0]
    assert counters.find(record, 0, 2, 3, 7) == -1


def test_amounts_by_hand():
    outcomes = {
        "watch_ms": [0, 9_000, 5_000],
        "duration_ms": [10_000, 6_000, 0],
        "click": [False, True, True],
        "hide": [1, 0, 0],
    }
    found = counters.amounts(
        ("impression", "click", "hide", "watch_s", "watch_ratio"), {k: np.array(v) for k, v in outcomes.items()}
    )
    assert found.tolist() == [[1, 0, 1, 0, 0], [1, 1, 0, 9, 1], [1, 1, 0, 5, 0]]
    assert found.dtype == np.float64


def test_a_count_that_does_not_exist_is_named():
    with pytest.raises(KeyError, match="counts 'clicks', expected some of impression, click"):
        counters.amounts(("clicks",), {"watch_ms": np.zeros(1), "duration_ms": np.zeros(1)})
