"""The compiled fold against the law in plain Python, on logs with ties, gaps, late events and one-event users."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchnext.features.dataset.freshness import request_groups, visible_until
from watchnext.features.state import history
from watchnext.features.state.event_order import Log, in_order
from watchnext.features.state.fold import OUTCOME, SHOWN, Layout, Reads, State, fold_event, read_candidates, read_viewer
from watchnext.features.state.fold_log import fold, read_all
from watchnext.schema import StateSpec

SPEC = StateSpec(
    counts=("click", "impression", "watch_s"), half_lives_h=(0.5, 30.0), tags_kept=2, creators_kept=1, history=3, seen=2
)
LAYOUT = Layout.of(SPEC)
SIZES = {"users": 3, "videos": 5, "creators": 2}
CREATORS = np.array([0, 1, -1, 0, 1], np.int32)
TAGS = np.array([[0, 1], [1, -1], [2, 3], [-1, -1], [3, 0]], np.int32)
START, HOUR = 1_700_000_000_000, 3_600_000
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@dataclass
class Block:
    """One counter: every event is kept, and a read sums them. `last` is the latest event's time."""

    last: float = 0.0
    events: list = field(default_factory=list)

    def add(self, at, amounts):
        self.events.append((at, amounts))
        self.last = max(self.last, at)

    def read(self, as_of):
        as_of = max(as_of, self.last)
        return [
            math.fsum(amounts[c] * 0.5 ** ((as_of - at) / (half_life * HOUR)) for at, amounts in self.events)
            for c in range(len(SPEC.counts))
            for half_life in SPEC.half_lives_h
        ]


class Table:
    """A bounded number of blocks; a new key takes an empty place, else the least recently updated, the first among equals."""

    def __init__(self, slots):
        self.keys, self.blocks = [None] * slots, [Block() for _ in range(slots)]

    def claim(self, key):
        if key not in self.keys:
            place = min(range(len(self.keys)), key=lambda slot: self.blocks[slot].last)
            self.keys[place], self.blocks[place] = key, Block()
        return self.blocks[self.keys.index(key)]

    def read(self, key, as_of):
        return self.blocks[self.keys.index(key)].read(as_of) if key in self.keys else [0.0] * LAYOUT.block


class Person:
    def __init__(self):
        self.block, self.tags, self.creators = Block(), Table(SPEC.tags_kept), Table(SPEC.creators_kept)
        self.watches, self.seen = [], []

    def watch(self, video, at, watch_ms, bits):
        self.watches = [(video, at, watch_ms, bits), *self.watches][: SPEC.history]
        self.seen = [video, *(each for each in self.seen if each != video)][: SPEC.seen]


class Oracle:
    """State of everybody under the law. An event is (known_at, event id); impressions are rows of a Log."""

    def __init__(self, log):
        self.log = log
        self.people = [Person() for _ in range(SIZES["users"])]
        self.videos, self.creators = [Block() for _ in CREATORS], [Block() for _ in range(SIZES["creators"])]

    def fold(self, known_at, event):
        i, is_outcome = divmod(event, 2)
        video, person = int(self.log.video_rows[i]), self.people[self.log.user_rows[i]]
        if is_outcome and not self.log.watch_ms[i] and not self.log.bits[i]:
            return
        amounts = [
            a if (name == "impression") != bool(is_outcome) else 0.0
            for name, a in zip(SPEC.counts, self.log.amounts[i], strict=True)
        ]
        for block in self.touched(person, video):
            block.add(known_at, amounts)
        if is_outcome:
            person.watch(video, known_at, self.log.watch_ms[i], self.log.bits[i])

    def touched(self, person, video):
        yield person.block
        yield self.videos[video]
        if (creator := CREATORS[video]) >= 0:
            yield self.creators[creator]
            yield person.creators.claim(creator)
        for tag in TAGS[video][TAGS[video] >= 0]:
            yield person.tags.claim(tag)

    def candidate(self, person, video, as_of):
        nothing, creator = [0.0] * LAYOUT.block, CREATORS[video]
        tags = [person.tags.read(tag, as_of) for tag in TAGS[video] if tag >= 0]
        return [
            self.videos[video].read(as_of),
            self.creators[creator].read(as_of) if creator >= 0 else nothing,
            [sum(values) for values in zip(*tags, strict=True)] if tags else nothing,
            person.creators.read(creator, as_of) if creator >= 0 else nothing,
        ]

    def compare(self, user, as_of, reads, row):
        """One viewer's reads at `as_of` against row `row` of compiled ones."""
        person = self.people[user]
        watches = person.watches + [None] * (SPEC.history - len(person.watches))
        np.testing.assert_allclose(reads.user[row], person.block.read(as_of), **EXACT)
        assert reads.history_rows[row].tolist() == [w[0] if w else -1 for w in watches]
        ago = [[max(as_of - w[1], 0) / 1000, w[2] / 1000, w[3]] if w else [0, 0, 0] for w in watches]
        np.testing.assert_allclose(reads.history[row], ago, **EXACT)
        gap_s = max(as_of - person.block.last, 0) / 1000 if person.block.events else -1
        assert reads.gap_s[row] == pytest.approx(gap_s, rel=1e-12)


@st.composite
def logs(draw):
    """Up to 14 impressions: equal times and gaps of days; outcomes at once, after the watch, or days late."""
    n = draw(st.integers(1, 14))

    def column(values):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    times = START + np.cumsum(column(st.sampled_from([0, 0, 1, 5_000, HOUR, 90 * HOUR]))).astype(np.float64)
    watch_ms = column(st.sampled_from([0.0, 700.0, 5_000.0, 61_500.0]))
    late = column(st.sampled_from([0, 0, 0, 1, 2 * HOUR, 200 * HOUR]))
    clicks = column(st.sampled_from([0.0, 1.0]))
    return Log(
        user_rows=column(st.sampled_from([0, 0, 0, 1, 2])),
        video_rows=column(st.integers(0, len(CREATORS) - 1)),
        time_ms=times,
        known_at=times + watch_ms + late,
        amounts=np.stack([clicks, np.ones(n), watch_ms / 1000], axis=1),
        watch_ms=watch_ms,
        bits=clicks,
        creator_rows=CREATORS,
        tag_rows=TAGS,
    )


def events(log):
    """(known_at, event id) in the order of the law."""
    return sorted([(t, 2 * i) for i, t in enumerate(log.time_ms)] + [(t, 2 * i + 1) for i, t in enumerate(log.known_at)])


def arguments(log, event):
    """Arguments of `fold_event` for one event, after the records."""
    i, kind = divmod(event, 2)
    row = log.video_rows[i]
    at = log.known_at[i] if kind == OUTCOME else log.time_ms[i]
    return kind, at, row, CREATORS[row], TAGS[row], log.amounts[i], log.watch_ms[i], log.bits[i]


def folded_one_by_one(log, order) -> State:
    state = State.empty(LAYOUT, **SIZES)
    for event in order:
        row = log.video_rows[event // 2]
        records = state.viewers[log.user_rows[event // 2]], state.videos[row], state.creators[max(CREATORS[row], 0)]
        fold_event(LAYOUT, *records, *arguments(log, event))
    return state


def replayed(log, visible=None) -> Reads:
    """Reads of every impression, in file order."""
    return read_all(LAYOUT, State.empty(LAYOUT, **SIZES), log, log.time_ms if visible is None else visible)


def same_bits(reads: Reads, others: Reads, rows=slice(None)) -> None:
    for name, values in vars(reads).items():
        np.testing.assert_array_equal(values[rows], getattr(others, name)[rows], err_msg=name)


@settings(max_examples=60, deadline=None)
@given(logs(), st.sampled_from([0, 0, HOUR, 400 * HOUR]))
def test_replay_obeys_the_law(log, stale):
    visible = np.maximum(log.time_ms - stale, START)
    reads = replayed(log, visible)
    for i, as_of in enumerate(log.time_ms):
        oracle = Oracle(log)
        for known_at, event in events(log):
            if known_at < visible[i]:
                oracle.fold(known_at, event)
        oracle.compare(log.user_rows[i], as_of, reads, i)
        person = oracle.people[log.user_rows[i]]
        np.testing.assert_allclose(reads.candidate[i], oracle.candidate(person, log.video_rows[i], as_of), **EXACT)


@settings(max_examples=60, deadline=None)
@given(logs(), st.randoms(use_true_random=False))
def test_late_events_obey_the_law_in_the_order_they_arrive(log, random):
    """Online, an event may be known before others that arrived earlier."""
    order = [event for _, event in events(log)]
    random.shuffle(order)
    state, oracle = folded_one_by_one(log, order), Oracle(log)
    for event in order:
        oracle.fold(arguments(log, event)[1], event)
    as_of, rows = float(log.known_at.max() + 7_000), np.arange(SIZES["videos"])
    out = Reads.empty(LAYOUT, SIZES["users"], SIZES["videos"])
    for user, viewer in enumerate(state.viewers):
        out.gap_s[user] = read_viewer(LAYOUT, viewer, as_of, out.user[user], out.history_rows[user], out.history[user])
        oracle.compare(user, as_of, out, user)
        read_candidates(LAYOUT, viewer, state.videos, state.creators[CREATORS], as_of, CREATORS, TAGS, out.candidate)
        wanted = [oracle.candidate(oracle.people[user], video, as_of) for video in rows]
        np.testing.assert_allclose(out.candidate, wanted, **EXACT)
        seen = history.seen(viewer, LAYOUT.at_seen, LAYOUT.seen).tolist()
        assert seen == sorted(oracle.people[user].seen)


@settings(max_examples=40, deadline=None)
@given(logs())
def test_one_event_at_a_time_gives_the_bits_of_the_whole_log(log):
    state = State.empty(LAYOUT, **SIZES)
    fold(LAYOUT, state, log, np.inf)
    single = folded_one_by_one(log, [event for _, event in events(log)])
    for name, records in vars(state).items():
        np.testing.assert_array_equal(records, getattr(single, name), err_msg=name)


@settings(max_examples=60, deadline=None)
@given(logs(), st.data())
def test_a_log_in_stretches_gives_the_bits_of_the_whole(log, data):
    """Outcomes that are not known when a partition ends are carried into the next one; reads in between change nothing."""
    state, whole = State.empty(LAYOUT, **SIZES), State.empty(LAYOUT, **SIZES)
    wanted = read_all(LAYOUT, whole, log, log.time_ms)
    n = len(log.time_ms)
    cuts = sorted({data.draw(st.integers(0, n)) for _ in range(3)} | {0, n})
    cuts = [cut for cut in cuts if cut in (0, n) or log.time_ms[cut - 1] < log.time_ms[cut]]
    pending, parts = log.take(np.zeros(0, np.int64)), []
    for first, last in itertools.pairwise(cuts):
        part = log.take(np.arange(first, last)).after(pending)
        until = np.nextafter(log.time_ms[last - 1], np.inf)
        parts.append(read_all(LAYOUT, state, part, part.time_ms, until=until))
        pending = part.take(np.flatnonzero(part.known_at >= until))
    for name, values in vars(wanted).items():
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), values, err_msg=name)
    fold(LAYOUT, state, pending._replace(pending=pending.rows), np.inf)
    for name, records in vars(whole).items():
        np.testing.assert_array_equal(records, getattr(state, name), err_msg=name)


@settings(max_examples=40, deadline=None)
@given(logs(), st.integers(2, 3))
def test_a_log_partitioned_by_a_key_gives_the_bits_of_the_whole(log, parts):
    """Engines rely on it: viewers by viewer, video counters by video, creators' by creator, each in the order of the log."""
    whole = State.empty(LAYOUT, **SIZES)
    wanted, creators = read_all(LAYOUT, whole, log, log.time_ms), CREATORS[log.video_rows]
    own = {"viewers": (log.user_rows, slice(2, 4)), "videos": (log.video_rows, 0), "creators": (creators, 1)}
    for name, (keys, cells) in own.items():
        for part in range(parts):
            rows, state = np.flatnonzero(keys % parts == part), State.empty(LAYOUT, **SIZES)
            reads = read_all(LAYOUT, state, log.take(rows), log.time_ms[rows])
            mine = np.arange(len(getattr(state, name))) % parts == part
            np.testing.assert_array_equal(getattr(state, name)[mine], getattr(whole, name)[mine], err_msg=name)
            np.testing.assert_array_equal(reads.candidate[:, cells], wanted.candidate[rows][:, cells], err_msg=name)
            for of_viewer in ("user", "gap_s", "history_rows", "history") if name == "viewers" else ():
                np.testing.assert_array_equal(getattr(reads, of_viewer), getattr(wanted, of_viewer)[rows], err_msg=of_viewer)


@settings(max_examples=40, deadline=None)
@given(logs(), st.data())
def test_no_read_sees_what_was_not_known_strictly_before(log, data):
    """Whatever the outcomes of impressions that were not known yet, its own and its request's among them: the same bits."""
    i = data.draw(st.integers(0, len(log.time_ms) - 1))
    unknown = log.known_at >= log.time_ms[i]
    amounts = np.where(unknown[:, None], log.amounts * [7, 1, 7] + [3, 0, 3], log.amounts)
    changed = log._replace(
        amounts=amounts, watch_ms=np.where(unknown, 999.0, log.watch_ms), bits=np.where(unknown, 127.0, log.bits)
    )
    same_bits(replayed(log), replayed(changed), [i])


def test_videos_of_one_request_never_see_each_other():
    """Five videos shown and watched for no time in one millisecond, known at once: every read finds nothing."""
    n = len(CREATORS)
    times = np.full(n, float(START))
    log = Log(np.zeros(n, np.int64), np.arange(n), times, times, np.ones((n, 3)), np.zeros(n), np.ones(n), CREATORS, TAGS)
    reads = replayed(log)
    assert not reads.user.any()
    assert not reads.candidate.any()
    assert (reads.gap_s == -1).all()
    later = replayed(log, times + 1)
    assert later.user.all()


@settings(max_examples=40, deadline=None)
@given(logs(), st.randoms(use_true_random=False))
def test_the_file_order_of_one_moment_does_not_leak(log, random):
    """The impressions of the last moment, shuffled in the file, read the same bits."""
    last = np.flatnonzero(log.time_ms == log.time_ms[-1])
    shuffled = last.tolist()
    random.shuffle(shuffled)
    order = np.concatenate([np.arange(last[0]), shuffled]).astype(np.int64)
    per_row = {
        name: getattr(log, name)[order]
        for name in ("user_rows", "video_rows", "time_ms", "known_at", "amounts", "watch_ms", "bits")
    }
    reads, others = replayed(log), replayed(log._replace(**per_row))
    for name, values in vars(reads).items():
        np.testing.assert_array_equal(values[order], getattr(others, name), err_msg=name)


def test_a_tie_folds_shown_before_outcome_and_earlier_rows_first():
    times = np.array([2.0, 1.0, 2.0]) * HOUR
    log = Log(
        np.zeros(3, np.int64),
        np.arange(3),
        times,
        np.array([2.0, 2.0, 3.0]) * HOUR,
        np.ones((3, 3)),
        np.ones(3),
        np.ones(3),
        CREATORS,
        TAGS,
    )
    order, known_at = in_order(log.time_ms, log.known_at)
    assert order.tolist() == [2, 0, 1, 3, 4, 5]
    assert (known_at / HOUR).tolist() == [1, 2, 2, 2, 2, 3]


def test_an_impression_counts_when_shown_and_the_rest_with_the_outcome():
    state = State.empty(LAYOUT, **SIZES)
    event = (START * 1.0, 0, CREATORS[0], TAGS[0], np.array([1.0, 1.0, 5.0]), 5_000.0, 1.0)
    fold_event(LAYOUT, state.viewers[0], state.videos[0], state.creators[0], SHOWN, *event)
    assert state.videos[0].tolist() == [START, 0, 0, 1, 1, 0, 0]
    fold_event(LAYOUT, state.viewers[0], state.videos[0], state.creators[0], OUTCOME, *event)
    assert state.videos[0].tolist() == [START, 1, 1, 1, 1, 5, 5]


def test_an_outcome_in_which_nothing_happened_is_as_if_it_never_came():
    state = State.empty(LAYOUT, **SIZES)
    shown = (START * 1.0, 0, CREATORS[0], TAGS[0], np.array([0.0, 1.0, 0.0]), 0.0, 0.0)
    fold_event(LAYOUT, state.viewers[0], state.videos[0], state.creators[0], SHOWN, *shown)
    before = [records.copy() for records in vars(state).values()]
    later = (START + 5.0 * HOUR, *shown[1:])
    fold_event(LAYOUT, state.viewers[0], state.videos[0], state.creators[0], OUTCOME, *later)
    assert all(np.array_equal(a, b) for a, b in zip(before, vars(state).values(), strict=True))


DAYS = pl.Series([0, 1, 1, 2, 2]).cast(pl.Int32).cast(pl.Date)
TIMES = np.array([10, 20, 30, 41, 45]) * HOUR
SPLIT = np.array([0, 0, 1, 2, 2])


@pytest.mark.parametrize(
    ("regime", "hours"),
    [("streaming", [10, 20, 30, 41, 45]), ("daily", [10, 20, 20, 41, 41]), ("frozen", [10, 20, 30, 41, 41])],
)
def test_the_state_that_each_freshness_lets_an_impression_see(regime, hours):
    """Training rows always stream; held-out ones see up to their day's or their split's start."""
    impressions = pl.DataFrame({"time_ms": TIMES, "day": DAYS})
    assert (visible_until(regime, impressions, SPLIT) / HOUR).tolist() == hours


def test_a_part_of_the_log_sees_what_the_whole_would():
    impressions = pl.DataFrame({"time_ms": TIMES, "day": DAYS})[3:]
    starts = {1: 30.0 * HOUR, 2: 41.0 * HOUR}
    assert (visible_until("frozen", impressions[1:], SPLIT[4:], starts) / HOUR).tolist() == [41]


MINUTE = 60_000
SESSIONS = pl.DataFrame(
    [
        (1, "a", 0),
        (1, "b", 29),
        (2, "c", 30),
        (1, "d", 58),
        (1, "e", 90),  # a slate of two
        (1, "e", 90),
        (1, "f", 95),
        (1, "g", 125),  # half an hour later
        (2, "h", 1430),
        (2, "i", 1441),  # the next day
    ],
    schema=["user_id", "request_id", "minute"],
    orient="row",
).with_columns(time_ms=pl.col("minute") * MINUTE, day=(pl.col("minute") // 1440).cast(pl.Int32).cast(pl.Date))


def test_requests_are_slates_and_otherwise_sessions_within_a_day():
    assert request_groups(SESSIONS, np.array([0.0, 1441.0 * MINUTE])).tolist() == [0, 0, 2, 0, 4, 4, 6, 7, 8, 9]


def test_held_out_impressions_see_the_state_of_the_first_of_their_group():
    split = np.array([0, 0, 1, 2, 2, 2, 2, 2, 2, 2])
    minutes = visible_until("request", SESSIONS, split) / MINUTE
    assert minutes.tolist() == [0, 29, 30, 58, 90, 90, 95, 125, 1430, 1441]
    minutes = visible_until("request", SESSIONS, np.full(10, 2)) / MINUTE
    assert minutes.tolist() == [0, 0, 30, 0, 90, 90, 95, 125, 1430, 1441]


def test_a_log_without_slates_and_sessions_has_groups_of_one_row():
    lone = SESSIONS.with_columns(user_id=pl.int_range(10), request_id=pl.int_range(10))
    assert request_groups(lone, np.array([0.0])).tolist() == list(range(10))
    assert request_groups(lone.clear(), np.array([0.0])).tolist() == []


def test_a_misspelt_regime_is_named():
    with pytest.raises(ValueError, match="regime is 'weekly', expected one of frozen, daily, streaming, request"):
        visible_until("weekly", pl.DataFrame({"time_ms": TIMES, "day": DAYS}), SPLIT)
