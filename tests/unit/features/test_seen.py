import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchnext.features.state import seen
from watchnext.features.state.event_order import Log
from watchnext.features.state.seen import (
    DAY_MS,
    HIDDEN,
    KEPT,
    REST_DAYS,
    SHOWN,
    WATCHED,
    SeenParts,
    SeenSet,
    SeenSets,
    days_of,
    keys_of,
    merged,
)


def set_of(events: list[tuple[int, int, int]]) -> SeenSet:
    """Insert (row, kind, day) one by one."""
    found = SeenSet.empty()
    for row, kind, day in events:
        found = found.with_events(np.array([row * 4 + kind], np.uint32), np.array([day], np.uint16))
    return found


def plain(events: list[tuple[int, int, int]], kept: int) -> dict[tuple[int, int], int]:
    """The same as a dictionary of the last days, cut once at the end."""
    latest: dict[tuple[int, int], int] = {}
    for row, kind, day in events:
        latest[row, kind] = max(latest.get((row, kind), 0), day)
    for kind in (SHOWN, WATCHED, HIDDEN):
        of_kind = sorted((day, row) for (row, each), day in latest.items() if each == kind)
        for _, row in of_kind[: max(len(of_kind) - kept, 0)]:
            del latest[row, kind]
    return latest


EVENTS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from([SHOWN, WATCHED, HIDDEN]), st.integers(0, 6)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, seed=st.integers(0, 2**32 - 1))
def test_a_set_is_that_of_its_events_in_any_order_and_grouping(events, seed):
    """Against a plain dictionary; one by one, in groups, and merged from parts, with a bound of 5 keys a kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "KEPT", 5)
        patch.setattr(seen, "_inserted", getattr(seen._inserted, "py_func", seen._inserted))  # compiled, it keeps its bound
        require_the_same(events, seed)


def require_the_same(events, seed):
    wanted = plain(events, seen.KEPT)
    one_by_one = set_of(events)
    assert {(int(key) >> 2, int(key) & 3): int(day) for key, day in zip(*one_by_one, strict=True)} == wanted
    random = np.random.default_rng(seed)
    shuffled = [events[i] for i in random.permutation(len(events))]
    cuts = sorted(random.integers(0, len(events) + 1, 2).tolist())
    groups = [shuffled[: cuts[0]], shuffled[cuts[0] : cuts[1]], shuffled[cuts[1] :]]
    keys = [np.array([row * 4 + kind for row, kind, _ in group], np.uint32) for group in groups]
    days = [np.array([day for _, _, day in group], np.uint16) for group in groups]
    grouped = SeenSet.empty()
    for group in zip(keys, days, strict=True):
        grouped = grouped.with_events(*group)
    assert grouped.to_bytes() == one_by_one.to_bytes()
    parts = [merged(np.full(len(k), 5), k, d) for k, d in zip(keys, days, strict=True)]
    of_log = SeenSets.of(4, 7, parts)
    assert of_log.viewer(1).to_bytes() == one_by_one.to_bytes()
    assert not len(of_log.viewer(0).keys)
    assert SeenSet.from_bytes(one_by_one.to_bytes()).rows.tolist() == sorted({row for row, _ in wanted})


def test_the_compiled_kernel_keeps_the_latest():
    """More videos than are kept, the last of them on one day: of that day the higher rows stay."""
    rows = np.arange(KEPT + 10)
    found = SeenSet.empty().with_events((rows * 4).astype(np.uint32), np.full(len(rows), 7, np.uint16))
    found = found.with_events(np.array([3 * 4 + WATCHED], np.uint32), np.array([9], np.uint16))
    assert len(found.keys) == KEPT + 1
    assert found.rows.tolist() == [3, *range(10, KEPT + 10)]


def test_a_swipe_is_shown_a_second_is_watched_and_a_flag_counts_as_a_watch():
    watch_ms, bits = np.array([0, 999, 1_000, 0, 0, 50_000]), np.array([0, 0, 0, 4, 64, 64])
    assert (keys_of(np.arange(6), watch_ms, bits) & 3).tolist() == [SHOWN, SHOWN, WATCHED, WATCHED, HIDDEN, HIDDEN]
    assert days_of(np.array([-5, 0, DAY_MS - 1, DAY_MS, 10**15])).tolist() == [0, 0, 0, 1, 65_535]


def test_skipped_videos_return_first_then_those_watched_long_ago_and_hidden_ones_never():
    today = 1_000
    found = set_of([
        (1, SHOWN, today), (2, SHOWN, today - 5), (3, SHOWN, today - 90), (3, WATCHED, today - 1),
        (4, WATCHED, today - REST_DAYS), (5, WATCHED, today - REST_DAYS - 9), (6, WATCHED, today - REST_DAYS + 1),
        (7, SHOWN, today - 50), (7, HIDDEN, today - 50), (5, SHOWN, today - 2),
    ])  # fmt: skip
    assert found.again(today * DAY_MS).tolist() == [2, 1, 5, 4]
    assert found.resting(today * DAY_MS).tolist() == [3, 6, 7]
    rewatched = found.with_events(np.array([5 * 4 + WATCHED], np.uint32), np.array([today], np.uint16))
    assert rewatched.again(today * DAY_MS).tolist() == [2, 1, 4]


def test_sets_of_a_log_are_written_and_read(tmp_path):
    random, n = np.random.default_rng(1), 400
    time_ms = np.sort(random.integers(0, 9 * DAY_MS, n)).astype(np.float64)
    columns = {"user_rows": random.integers(0, 7, n), "video_rows": random.integers(0, 50, n), "time_ms": time_ms}
    late = random.choice([0, 500, DAY_MS], n)
    columns |= {"known_at": time_ms + late, "watch_ms": random.choice([0.0, 700.0, 9_000.0], n), "bits": np.zeros(n)}
    log = Log(**columns, amounts=np.zeros((n, 1)), creator_rows=np.zeros(0, np.int32), tag_rows=np.zeros((0, 1), np.int32))
    until = 6.0 * DAY_MS
    SeenParts([seen.added(log, until)], 8).write(tmp_path)
    sets = SeenSets(**{name: np.load(tmp_path / f"{name}.npy") for name in ("starts", "keys", "days")})
    assert len(sets) == 8
    assert not len(sets.viewer(7).keys)
    keys = keys_of(log.video_rows, log.watch_ms, log.bits)
    for user in range(7):
        of_user = log.user_rows == user
        events = list(zip(log.video_rows[of_user] * 4 + SHOWN, time_ms[of_user], strict=True))
        events += list(zip(keys[of_user], log.known_at[of_user], strict=True))
        events = [(int(key) >> 2, int(key) & 3, int(at // DAY_MS)) for key, at in events if at < until]
        assert sets.viewer(user).to_bytes() == set_of(events).to_bytes()
