"""A request followed through the funnel by the evaluation; it stands here because here is a release."""

import numpy as np
import pytest

from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.evaluation.replay.funnel_trace import FunnelTracer
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Replay
from watchnext.serving.funnel.explanation.trace import LOST_AT
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

USER, WATCHED = 105, 3


@pytest.fixture
def tracer(release, store) -> FunnelTracer:
    events = [
        Event(
            kind="outcome", user_id=USER, video_id=release.video_ids.value(row), known_at=release.as_of_ms + 1, watch_ms=61_500
        )
        for row in range(WATCHED)
    ]
    store.apply(events)
    return FunnelTracer(Recommender(release, store), depth=30)


def ask(release) -> Request:
    return Request("q1", USER, 5, release.as_of_ms + 2, "home")


def test_a_later_watch_counts_once_and_only_if_its_video_existed(tracer, release):
    upload_ms = np.array(release.catalogue.upload_ms)
    late, early = int(np.argmax(upload_ms)), int(np.argmin(upload_ms))
    request = Request("q1", USER, 5, int(upload_ms[late]) - 1, "home")
    found = tracer.trace(request, np.array([late, early, -1, early]), np.array([True, False, True, True]))
    assert found.watched.tolist() == [early]
    assert found.long_view.tolist() == [True]
    assert found.age_h[0] == pytest.approx((request.as_of_ms - upload_ms[early]) / 3_600_000)


def test_every_video_ends_where_the_stages_say(tracer, release, store):
    rows = np.random.default_rng(0).permutation(len(release.catalogue))
    found = tracer.trace(ask(release), rows, np.zeros(len(rows), bool))
    before = store.viewer(USER)[release.layout.at_history]
    assert found.watches == before >= WATCHED
    ends = dict(zip(found.watched.tolist(), (LOST_AT[end] for end in found.ways.ends), strict=True))
    retrieved, slate = set(found.stages["retrieval"]), set(found.stages["slate"])
    assert {row for row, end in ends.items() if end != "retrieval"} == retrieved
    assert {row for row, end in ends.items() if end == "shown"} == slate
    assert all(ends[row] == "retrieval" for row in set(ends) & set(range(WATCHED)))  # no source names what was seen
    assert {row for row, end in ends.items() if end == "filters"}
    kept = [row for row in found.stages["ranking"] if ends[row] != "filters"]  # best valued first
    assert {row for row, end in ends.items() if end == "re-ranking"} == set(kept[:5]) - slate
    assert {row for row, end in ends.items() if end == "ranking"} == set(kept[5:]) - slate


def test_lists_are_as_deep_as_asked_and_floors_leave_out_the_seen(tracer, release):
    found = tracer.trace(ask(release), np.array([5]), np.array([True]))
    assert len(found.merged) == 30
    assert {name for name, rows in found.sources.items() if len(rows) <= 30} == set(release.retrieval["quotas"])
    for rows in found.baselines.values():
        assert len(rows) == len(set(rows)) == 30
        assert not set(rows) & set(range(WATCHED))


@pytest.mark.parametrize("long", [True, False])
def test_the_label_says_which_watch_is_long_whatever_the_log_flags(release, built, long):
    folder, tables = built
    split = TimeSplit(valid_days=1, test_days=1).assign(tables.impressions["day"])
    replay = Replay(release=release, regime="frozen", slate=5, requests=10, depth=20)
    log = HeldOutLog(StoredTables.open(folder.parent / "tables"), split, np.full(len(split), float(long)))
    whole, alone = replay.run(log), replay.run(log, traced_only=True)
    funnels = whole.traces
    assert sum(len(funnel.watched) for funnel in funnels) > 5
    assert all((funnel.long_view == long).all() for funnel in funnels)
    assert [each.stages["slate"].tolist() for each in alone.traces] == [each.stages["slate"].tolist() for each in funnels]
    assert np.isnan(alone.scores).all()
    assert not np.isnan(whole.scores).all()
