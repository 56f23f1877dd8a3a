"""The clock gives no moment twice, waits where the wall clock is set back a little, and follows one that was wrong."""

import itertools

import pytest

from watchnext.serving.http import clock as module
from watchnext.serving.http.clock import BACK_MOST_MS, Clock

START_MS, DAY_MS = 1_700_000_000_000, 86_400_000


class Machine:
    """The clocks of a machine, in ms: what the wall clock is ahead of the monotonic one can be set."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic_ms = START_MS, 1_000

    def pass_ms(self, ms: int) -> None:
        self.wall_ms, self.monotonic_ms = self.wall_ms + ms, self.monotonic_ms + ms


@pytest.fixture
def machine(monkeypatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(module.time, "time_ns", lambda: machine.wall_ms * 1_000_000)
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: machine.monotonic_ms * 1_000_000)
    return machine


@pytest.mark.parametrize("start_ms", [None, 1_700_000_000_000])
def test_a_clock_never_gives_a_moment_twice(start_ms):
    clock = Clock(start_ms)
    moments = [clock() for _ in range(2000)]
    assert all(later > earlier for earlier, later in itertools.pairwise(moments))
    if start_ms is not None:
        assert start_ms <= moments[0] < start_ms + 1000


def test_a_wall_clock_that_was_days_ahead_is_followed_back(machine):
    clock = Clock()
    assert clock() == START_MS
    machine.wall_ms += 10 * DAY_MS
    assert clock() == START_MS + 10 * DAY_MS
    machine.pass_ms(1_000)
    machine.wall_ms -= 10 * DAY_MS
    assert [clock(), clock()] == [START_MS + 1_000, START_MS + 1_001]
    machine.pass_ms(5_000)
    assert clock() == START_MS + 6_000


def test_a_wall_clock_that_is_set_back_a_little_is_waited_for(machine):
    clock = Clock()
    clock()
    machine.wall_ms -= BACK_MOST_MS
    assert [clock(), clock()] == [START_MS + 1, START_MS + 2]
    machine.wall_ms -= 1  # in all, more than that
    assert clock() == START_MS - BACK_MOST_MS - 1


def test_many_calls_run_ahead_of_the_wall_clock_and_are_not_taken_for_one_that_was_wrong(machine):
    clock = Clock()
    for _ in range(2 * BACK_MOST_MS):
        clock()
    machine.pass_ms(1_000)
    assert clock() == START_MS + 2 * BACK_MOST_MS
