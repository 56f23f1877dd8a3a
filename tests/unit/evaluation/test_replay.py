"""The parts of the replay by hand; the whole of it runs in tests/system/test_pipeline.py."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import OUTCOMES, Tables
from watchnext.evaluation.replay.event_stream import EventStream, events_of
from watchnext.evaluation.replay.held_out_log import HeldOutLog, LogPart, together
from watchnext.evaluation.replay.replay import HeldOutRequest, Replay, Sample
from watchnext.evaluation.report.ranking_report import ranking_metrics, request_metrics, skew
from watchnext.features.catalogue import Ids
from watchnext.schema import FeatureSchema
from watchnext.serving.store.tables.journal import Event
from watchnext.types import TARGETS

DAY_MS = 86_400_000


def impressions(*rows: tuple[int, int, int, int, int | None]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user_id", "video_id", "time_ms", "watch_ms", "received_ms"], orient="row")
    days = frame.with_columns(day=(pl.col("time_ms") // DAY_MS).cast(pl.Date))
    flags = days.with_columns(pl.lit(False).alias(name) for name in OUTCOMES)
    return flags.with_columns(pl.lit(True).alias("click"), pl.lit("home").alias("surface"), propensity=None)


def test_an_impression_is_shown_at_its_time_and_known_after_its_watch():
    events = events_of(impressions((1, 7, 100, 50, None), (1, 8, 120, 5, None), (2, 9, 110, 0, 500)))
    assert [(e.kind, e.video_id, e.known_at) for e in events] == [
        ("shown", 7, 100),
        ("shown", 9, 110),
        ("shown", 8, 120),
        ("outcome", 8, 125),
        ("outcome", 7, 150),
        ("outcome", 9, 500),
    ]
    assert all(e.click for e in events if e.kind == "outcome")
    assert {e.surface for e in events} == {"home"}
    assert not any(e.click for e in events if e.kind == "shown")


def test_equal_times_keep_the_order_of_the_log():
    events = events_of(impressions((1, 7, 100, 0, None), (1, 8, 100, 0, None)))
    assert [(e.kind, e.video_id) for e in events] == [("shown", 7), ("outcome", 7), ("shown", 8), ("outcome", 8)]


def test_an_outcome_that_claims_to_come_before_its_impression_comes_after_it():
    events = events_of(impressions((1, 7, 100, 50, 20), (1, 8, 120, 0, 0)))
    assert [(e.kind, e.video_id, e.known_at) for e in events] == [
        ("shown", 7, 100),
        ("outcome", 7, 100),
        ("shown", 8, 120),
        ("outcome", 8, 120),
    ]


def test_events_since_a_moment_are_those_known_at_it_or_later():
    events = events_of(impressions((1, 7, 100, 50, None), (1, 8, 120, 5, None), (2, 9, 150, 0, 500)), 125)
    assert [(e.kind, e.video_id) for e in events] == [("outcome", 8), ("outcome", 7), ("shown", 9), ("outcome", 9)]


class Recorder:
    """Stands where the store does and keeps what was applied: which events a regime lets through is all that is asked here."""

    def __init__(self):
        self.events = []

    @property
    def applied(self):
        return [event.known_at for event in self.events]

    def apply(self, events):
        self.events += events


@pytest.mark.parametrize(
    ("regime", "seen"),
    [
        ("streaming", [[], [10], [10, DAY_MS, DAY_MS + 5]]),
        ("request", [[], [10], [10, DAY_MS, DAY_MS + 5]]),
        ("daily", [[], [], [10]]),
        ("frozen", [[], [], []]),
    ],
)
def test_a_regime_decides_what_a_request_sees(regime, seen):
    known = [10, DAY_MS, DAY_MS + 5, DAY_MS + 9]
    events = [Event(kind="shown", user_id=1, video_id=1, known_at=at) for at in known]
    store = Recorder()
    stream = EventStream(store, regime=regime)
    stream.add(events, np.array([0, DAY_MS]))
    for as_of, expected in zip((10, 11, DAY_MS + 6), seen, strict=True):
        stream.advance(as_of)
        assert store.applied == expected


def test_a_day_begins_with_its_first_request():
    store = Recorder()
    events = [Event(kind="shown", user_id=1, video_id=1, known_at=at) for at in (90, 100)]
    stream = EventStream(store, regime="daily")
    stream.add(events, np.array([50, 100]))
    stream.advance(99)
    assert store.applied == []
    stream.advance(180)
    assert store.applied == [90]


@pytest.mark.parametrize("cuts", [[], [2], [1, 2, 4], [3, 5]])
def test_events_that_come_day_by_day_are_applied_in_the_order_of_the_whole_log(cuts):
    """Outcomes arrive days later, and at the moment of another's impression."""
    log = impressions(
        (1, 7, 10, 0, 45), (2, 8, 20, 5, None), (1, 9, 25, 0, 90), (2, 7, 30, 60, None), (1, 8, 40, 5, 45), (1, 6, 90, 1, None)
    )
    parts = [log[start:stop] for start, stop in pairwise([0, *cuts, len(log)])]
    store = Recorder()
    stream = EventStream(store, regime="streaming")
    for part, end in zip(parts, [*(log["time_ms"][cut] for cut in cuts), 1_000], strict=True):
        stream.add(events_of(part), part["time_ms"].head(1).to_numpy())
        stream.advance(end)
    assert store.events == events_of(log)


def stored(folder: Path, *days: list[tuple]) -> StoredTables:
    """Each day's impressions, dated by the days' order."""
    logs = [
        impressions(*rows).with_columns(day=pl.lit(at).cast(pl.Date), request_id=pl.col("time_ms").cast(pl.String))
        for at, rows in enumerate(days)
    ]
    tables = Tables(pl.concat(logs), pl.DataFrame({"user_id": [1]}), pl.DataFrame({"video_id": [7]}))
    write_tables(tables, folder)
    return StoredTables.open(folder)


def test_a_log_is_read_day_by_day_up_to_the_held_out_one(tmp_path):
    log = stored(tmp_path, [(1, 7, 10, 5, None)], [(1, 8, 20, 0, None), (2, 8, 21, 9, None)], [(1, 9, 30, 9, None)])
    split, long_view = np.array([0, 1, 1, 2]), np.array([1.0, 0.0, 1.0, 1.0])
    first, second = HeldOutLog(log, split, long_view, 1).parts()
    assert (first.held_out.tolist(), second.held_out.tolist()) == ([False], [True, True])
    assert (second.impressions["video_id"].to_list(), second.long_view.tolist(), second.first) == ([8, 8], [False, True], 0)
    held_out = HeldOutLog(log, split, long_view)
    assert [part.impressions["video_id"].to_list() for part in held_out.parts()] == [[7], [8, 8], [9]]
    assert (len(held_out), held_out.viewer_days()) == (1, 1)
    assert (len(HeldOutLog(log, split, long_view, 1)), HeldOutLog(log, split, long_view, 1).viewer_days()) == (2, 1)


def test_days_that_overlap_in_time_are_read_together(tmp_path):
    days = stored(tmp_path, [(1, 7, 10, 5, None), (1, 6, 25, 5, None)], [(1, 8, 20, 0, None)], [(1, 9, 30, 9, None)]).days
    assert [[day.day for day in group] for group in together(days)] == [["1970-01-01", "1970-01-02"], ["1970-01-03"]]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 99])
def test_a_sample_of_days_that_come_one_by_one_is_that_of_all_at_once(most):
    days = [[0, 1, 2], [1], [], [2, 3, 4, 0, 1]]
    rows = [(user, 7, 100 * day + at, user % 2, None) for day, users in enumerate(days) for at, user in enumerate(users)]
    log = impressions(*rows).with_columns(
        request_id=pl.col("time_ms").cast(pl.String), day=(pl.col("time_ms") // 100).cast(pl.Date)
    )
    watched = log.filter(pl.col("watch_ms") > 0)["request_id"].to_list()
    sample = Sample(len(watched), most)
    parts = [log.filter(pl.col("time_ms") // 100 == day) for day in range(len(days))]
    found = [request for part in parts for request in sample.watched_after(part)]
    assert found == (watched[:: -(-len(watched) // most)] if most else [])


def requests_of(regime: str, test: pl.DataFrame) -> list[HeldOutRequest]:
    """Requests of a part of a log that follows ten held-out rows, by a catalogue of the videos 6 to 9."""
    schema = FeatureSchema.load(Path(__file__).parents[3] / "conf/features/sequences.yaml")
    release = SimpleNamespace(pipeline=SimpleNamespace(schema=schema), video_ids=Ids(np.arange(6, 10)))
    replay = Replay(release=release, regime=regime, slate=5, requests=0, depth=9)
    every = np.ones(len(test), bool)
    return list(replay._of_part(LogPart(test, every, every, 10), test, Sample(0, 0), traced_only=False))


def test_requests_of_a_schema_without_context_columns():
    test = impressions((1, 7, 100, 50, None), (2, 9, 90, 0, None), (1, 8, 100, 5, None))
    test = test.with_columns(request_id=pl.Series(["a", "b", "a"]))
    found = requests_of("streaming", test)
    assert [(each.request.request_id, each.request.as_of_ms, each.positions.tolist()) for each in found] == [
        ("b", 90, [11]),
        ("a", 100, [10, 12]),
    ]
    assert [each.rows.tolist() for each in found] == [[3], [1, 2]]
    assert all(each.request.context == {} and not len(each.watched) for each in found)


def test_a_session_is_one_request_with_the_time_of_its_first_impression():
    test = impressions((1, 7, 100, 50, None), (2, 9, 110, 0, None), (1, 8, 200, 5, None), (1, 6, 9_000_000, 5, None))
    test = test.with_columns(request_id=pl.Series(["a", "b", "c", "d"]), day=pl.lit(0).cast(pl.Date))
    found = requests_of("request", test)
    assert [(each.request.request_id, each.request.as_of_ms, each.positions.tolist()) for each in found] == [
        ("a", 100, [10, 12]),
        ("b", 110, [11]),
        ("d", 9_000_000, [13]),
    ]


def test_request_figures_are_of_scored_rows_in_groups_with_both_labels():
    targets = np.array([[1, 1, 0, 1.0], [0, 1, 0, 2.0], [1, 0, 0, 3.0], [0, 0, 0, 4.0], [1, 1, 0, 0.0]])
    scores = np.array([[0.9, 0.2, 0.1, 1.0], [0.1, 0.9, 0.2, 2.0], [0.8, 0.8, 0.8, 3.0], [np.nan] * 4, [0.5, 0.5, 0.5, 1.0]])
    found = request_metrics(scores, targets, np.array([0, 0, 2, 2, 4]))
    assert found["click"]["groups_request"] == 1
    assert found["click"]["gauc_request"] == found["click"]["mrr_request_by_impressions"] == 1.0
    for head in ("long_view", "like"):  # one label in every group
        assert found[head].pop("groups_request") == 0
        assert np.isnan(list(found[head].values())).all()


@pytest.mark.parametrize("rows", [0, 3])
def test_request_figures_without_slates_or_sessions_are_undefined(rows):
    found = request_metrics(np.full((rows, 4), 0.1), np.eye(3, 4)[:rows], np.arange(rows))
    assert all(figures.pop("groups_request") == 0 and np.isnan(list(figures.values())).all() for figures in found.values())


def test_ranking_figures_leave_out_what_could_not_be_scored():
    targets = np.array([[1, 1, 1, 1.0], [0, 0, 0, 2.0], [1, 1, 1, 3.0], [0, 0, 0, 4.0]])
    scores = np.array([[0.9, 0.9, 0.9, 1.0], [0.1, 0.1, 0.1, 2.0], [0.8, 0.8, 0.8, 3.0], [np.nan] * 4])
    found = ranking_metrics(scores, targets, np.array([1, 1, 2, 2]))
    assert found["long_view"]["auc"] == 1.0
    assert found["watch_s"]["mae_s"] == 0.0


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_ranking_figures_of_one_class_or_of_nobody_are_undefined(rows):
    found = ranking_metrics(np.full((rows, len(TARGETS)), 0.1), np.zeros((rows, len(TARGETS))), np.zeros(rows, np.int64))
    assert all(np.isnan(found[name][figure]) for name in ("click", "long_view", "like") for figure in ("auc", "gauc"))
    assert np.isnan(found["watch_s"]["xauc"])
    assert np.isnan(found["like"]["logloss"]) == (rows == 0)


def test_skew_is_the_largest_difference_of_a_probability_and_of_seconds():
    served = np.array([[0.5, 0.5, 0.5, 100.0], [0.1, 0.1, 0.1, 0.2], [np.nan] * 4])
    offline = served + np.array([[0.0, 0.02, 0.0, 25.0], [0.0, 0.0, -0.01, 0.1], [0.0] * 4])
    offline[2] = 0.3  # of a video that the catalogue lacks
    assert skew(served, offline) == pytest.approx({"skew": 0.02, "skew_watch_s": 0.2})
    assert np.isnan(list(skew(served[2:], offline[2:]).values())).all()
