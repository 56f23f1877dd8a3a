"""A small release that served for some days: a real store, a real served log, and the canonical log that it was built from."""

from contextlib import closing
from pathlib import Path

import polars as pl

from small_release import CONF, HOUR_MS, small_log
from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.lifecycle.loop.daily_log import DailyLog
from watchnext.schema import FeatureSchema
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

DAY_MS = 24 * HOUR_MS
FIRST_MS = 1_700_438_400_000  # 2023-11-20T00:00Z, days after the log
SCHEMA = FeatureSchema.load(CONF / "features" / "world.yaml")


def write_log(feature_stage, once, root: Path) -> Path:
    """Write the log of the small release in daily folders."""
    _, tables = small_log(feature_stage, once)
    for (day,), rows in tables.impressions.group_by("day"):
        (root / "impressions" / f"date={day}").mkdir(parents=True)
        rows.write_parquet(root / "impressions" / f"date={day}" / "part-0.parquet")
    tables.users.write_parquet(root / "users.parquet")
    tables.videos.write_parquet(root / "videos.parquet")
    return root


def daily_log(root: Path, work: Path) -> DailyLog:
    return DailyLog(CanonicalTables(root=str(root), features=str(CONF / "features" / "world.yaml")), SCHEMA, work=work)


def serve(
    release: Release, store: Path, served: Path, *, days: int, first_ms: int = FIRST_MS, answered: bool = True, users: int = 20
) -> list:
    """Answer a request an hour for `days`, with outcomes of every second video where `answered`; return the answers."""
    log, answers = ServedLog(served, max_bytes=1 << 30, flush_rows=10), []
    ids = release.user_ids.ids.tolist()[:users]
    with closing(Store.open(store, release, durable=False)) as opened:
        recommender = Recommender(release, opened)
        for hour in range(24 * days):
            time_ms = first_ms + hour * HOUR_MS + 1_000
            request = Request(f"q{time_ms}", ids[hour % users], 6, time_ms, "home")
            answer = recommender.recommend(request)
            shared = {"user_id": request.user_id, "request_id": request.request_id, "surface": "home"}
            events = [Event(kind="shown", video_id=video, known_at=time_ms, **shared) for video in answer.ids]
            if answered:
                events += [
                    Event(kind="outcome", video_id=video, known_at=time_ms + 20_000, watch_ms=9_000, click=True, **shared)
                    for video in answer.ids[::2]
                ]
            opened.apply(events)
            log.append(answer)
            answers.append(answer)
    log.close()
    return answers


def rows_of(root: Path, day: str) -> pl.DataFrame:
    return pl.read_parquet(root / "impressions" / f"date={day}" / "served.parquet")
