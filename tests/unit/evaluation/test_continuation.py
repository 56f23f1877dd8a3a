import numpy as np
import pytest

from watchnext.evaluation.selection.continuation import continuation_of


def columns(requests):
    """Columns of a log, from requests of (user, time, position > watched seconds)."""
    rows = [(user, time, slot, seconds) for user, time, slots in requests for slot, seconds in slots.items()]
    user, time, position, seconds = np.array(rows).T
    targets = np.stack([seconds * 0, seconds * 0, seconds * 0, seconds], axis=1)
    return {"user_rows": user.astype(int), "time_ms": time, "position": position.astype(np.int16), "targets": targets}


def test_by_hand():
    log = columns([
        (1, 5, {0: 1, 1: 0, 2: 1, 3: 0}),  # went on twice, then stopped
        (2, 5, {0: 0, 1: 3}),  # went on once; the slate ended
        (2, 9, {0: 0, 1: 0}),  # did nothing
        (3, 9, {0: 4, 1: 0}),  # stopped at once
    ])  # fmt: skip
    assert continuation_of(log, np.arange(10)) == 3 / 5
    assert continuation_of(log, np.arange(4, 6)) == 1.0
    assert continuation_of(log, np.arange(6, 8)) is None
    assert continuation_of(log, np.arange(0)) is None


def test_without_positions_nothing_is_known():
    log = columns([(1, 5, {0: 1, 1: 1})])
    assert continuation_of(log | {"position": np.full(2, -1)}, np.arange(2)) is None


def test_the_chance_of_a_simulated_law_is_found():
    random = np.random.default_rng(0)
    depths = np.minimum(random.geometric(0.3, 4000), 10)
    log = columns([(user, 0, {slot: slot + 1 == depth for slot in range(10)}) for user, depth in enumerate(depths.tolist())])
    assert continuation_of(log, np.arange(40_000)) == pytest.approx(0.7, abs=0.01)
