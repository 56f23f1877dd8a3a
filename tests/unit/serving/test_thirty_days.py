"""Thirty days of a few viewers who look, skip and come back: nothing that they were shown is shown again."""

from contextlib import closing

import numpy as np

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

DAY_MS = 86_400_000
WATCH_MS = (None, 0, 400, 900, 3_000_000)  # None: the client says nothing; the others are a swipe, or a whole watch


def test_thirty_days_without_a_repeat(release, tmp_path):
    random, viewers, shown = np.random.default_rng(0), [7_000_001, 7_000_002, release.user_ids.value(0)], {}
    for day in range(30):
        with closing(Store.open(tmp_path / "store", release, durable=False)) as store:  # a server restarts every night
            recommender = Recommender(release, store)
            for viewer in viewers:
                seen = shown.setdefault(viewer, set(store.seen(viewer).rows.tolist()))
                now = release.as_of_ms + 1 + day * DAY_MS
                answer = recommender.recommend(Request(f"{viewer}-{day}", viewer, 2, now))
                assert len(answer.ids) == 2
                rows = [row for row, names in zip(answer.rows.tolist(), answer.sources, strict=True) if "continue" not in names]
                assert not seen & set(rows), f"day {day}"
                seen |= set(answer.rows.tolist())
                store.apply(list(events_of(viewer, answer.ids, now, random)))
    assert min(len(seen) for seen in shown.values()) > 55


def events_of(viewer: int, ids, now: int, random):
    for video in ids:
        yield Event(kind="shown", user_id=viewer, video_id=video, known_at=now)
        if (watch_ms := WATCH_MS[random.integers(len(WATCH_MS))]) is not None:
            yield Event(kind="outcome", user_id=viewer, video_id=video, known_at=now + 1, watch_ms=watch_ms)
