"""Served answers become days of the log: every impression once, with its outcome, beside an open store."""

from contextlib import closing
from dataclasses import replace

import polars as pl
import pytest

from served_traffic import CONF, DAY_MS, FIRST_MS, HOUR_MS, SCHEMA, daily_log, rows_of, serve, write_log
from small_release import exported, make_release, small_log
from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.splits import TimeSplit
from watchnext.data.stage import write_stage
from watchnext.data.storage import StoredTables
from watchnext.data.structure import expected_columns
from watchnext.data.tables import DataError
from watchnext.features.catalogue import SAFETY
from watchnext.lifecycle.loop.daily_log import DailyLog
from watchnext.lifecycle.loop.served_days import Heard, day_of, impressions_of_day
from watchnext.schema import FeatureSchema
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event, session_id
from watchnext.types import Request


@pytest.fixture
def log(feature_stage, once, tmp_path):
    return write_log(feature_stage, once, tmp_path / "log")


def heard(release, store, *, start=0, until_ms=10**13) -> Heard:
    with closing(Store.reader(store, release)) as reader:
        return Heard.of(reader.entries(start), start, until_ms)


def add(release, log, tmp_path, *, until_ms, utc_offset_h=0.0):
    events = heard(release, tmp_path / "store", until_ms=until_ms)
    return daily_log(log, tmp_path).add(tmp_path / "served", events, until_ms=until_ms, utc_offset_h=utc_offset_h)


def test_whole_days_are_added_with_every_impression_once(release, log, tmp_path):
    answers = serve(release, tmp_path / "store", tmp_path / "served", days=3)
    until_ms = FIRST_MS + 2 * DAY_MS + 5 * HOUR_MS
    added = add(release, log, tmp_path, until_ms=until_ms)
    by_day = [sum(len(each.ids) for each in answers[start : start + 24]) for start in (0, 24)]
    assert dict(added.added) == {"2023-11-20": by_day[0], "2023-11-21": by_day[1]}
    assert (dict(added.withheld), dict(added.left_out)) == ({}, {})
    rows = rows_of(log, "2023-11-20")
    assert rows.schema == pl.read_parquet_schema(sorted(log.glob("impressions/*/part-0.parquet"))[0])
    assert rows["video_id"].to_list() == [str(video) for each in answers[:24] for video in each.ids]
    assert rows["position"].to_list() == [at for each in answers[:24] for at in range(len(each.ids))]
    assert rows["propensity"].to_list() == pytest.approx(
        [float(chance) for each in answers[:24] for chance in each.slate.propensities], rel=1e-6
    )
    assert set(rows["policy"]) == {release.id}
    answered = rows["position"] % 2 == 0
    assert rows.filter(answered)["watch_ms"].to_list() == [9_000] * int(answered.sum())
    assert rows.filter(~answered)["received_ms"].null_count() == int((~answered).sum())
    assert not rows.filter(~answered)["click"].any()
    bytes_before = (log / "impressions/date=2023-11-20/served.parquet").read_bytes()
    assert dict(add(release, log, tmp_path, until_ms=until_ms).added) == {}
    assert (log / "impressions/date=2023-11-20/served.parquet").read_bytes() == bytes_before
    assert list(add(release, log, tmp_path, until_ms=FIRST_MS + 3 * DAY_MS).added) == ["2023-11-22"]


def test_what_is_added_passes_the_checks_of_the_tables_stage(release, log, tmp_path):
    serve(release, tmp_path / "store", tmp_path / "served", days=1)
    add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    loader = daily_log(log, tmp_path)
    rows, watch_s, days = loader.rows_after(FIRST_MS)
    assert (rows, days) == (len(rows_of(log, "2023-11-20")), 1)
    assert watch_s == 9 * int((rows_of(log, "2023-11-20")["watch_ms"] > 0).sum())
    write_stage(CanonicalTables(root=str(log), features=str(CONF / "features" / "world.yaml")), SCHEMA, tmp_path / "tables")
    stored = StoredTables.open(tmp_path / "tables").all().impressions
    sound = pl.read_parquet(log / "videos.parquet").drop_nulls("creator_id")["video_id"]  # the schema needs a creator
    expected = rows_of(log, "2023-11-20").filter(pl.col("video_id").is_in(sound.implode()))
    assert 0 < len(expected) < rows
    assert stored.filter(pl.col("time_ms") >= FIRST_MS)["video_id"].to_list() == expected["video_id"].to_list()
    split = TimeSplit(valid_days=1, test_days=1).assign(stored["day"])  # a training sees no day that it is measured on
    train, valid, test = (stored.filter(split == part)["time_ms"] for part in range(3))
    assert train.max() < valid.min() <= valid.max() < FIRST_MS <= test.min()


def test_a_days_impressions_are_those_of_its_own_time_zone(release, log, tmp_path):
    serve(release, tmp_path / "store", tmp_path / "served", days=2)
    added = add(release, log, tmp_path, until_ms=FIRST_MS + 2 * DAY_MS, utc_offset_h=2.0)
    assert list(added.added) == ["2023-11-20", "2023-11-21"]  # the 22nd has only begun
    shown = rows_of(log, "2023-11-21")["time_ms"]
    assert (shown.min(), shown.max()) == (FIRST_MS + 22 * HOUR_MS + 1_000, FIRST_MS + 45 * HOUR_MS + 1_000)


def test_a_journal_that_is_read_on_gives_the_same_days(release, log, tmp_path, feature_stage, once):
    serve(release, tmp_path / "store", tmp_path / "served", days=3)
    first = heard(release, tmp_path / "store", until_ms=FIRST_MS + DAY_MS)
    later = heard(release, tmp_path / "store", start=first.position)
    assert first.position > 0
    assert len(later.shown) < len(first.shown)
    whole = heard(release, tmp_path / "store")
    days = {}
    for name, events in (("on", later), ("whole", whole)):
        root = write_log(feature_stage, once, tmp_path / name)
        daily_log(root, tmp_path).add(tmp_path / "served", events, until_ms=FIRST_MS + 3 * DAY_MS, utc_offset_h=0)
        days[name] = rows_of(root, "2023-11-21")
    assert days["on"].equals(days["whole"])


def test_a_day_without_outcomes_is_withheld_and_added_once_they_came(release, log, tmp_path):
    answers = serve(release, tmp_path / "store", tmp_path / "served", days=1, answered=False)
    added = add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    assert dict(added.added) == {}
    assert "0 of 24 requests have an outcome" in added.withheld["2023-11-20"]
    assert "POST /v1/events" in added.withheld["2023-11-20"]
    assert not (log / "impressions/date=2023-11-20").exists()
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        late = [
            Event(
                kind="outcome", user_id=each.request.user_id, video_id=each.ids[0], known_at=FIRST_MS + DAY_MS,
                watch_ms=4_000, request_id=each.request.request_id,
            )
            for each in answers
        ]  # fmt: skip
        store.apply(late)
    assert list(add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS).added) == ["2023-11-20"]
    assert rows_of(log, "2023-11-20")["watch_ms"].sum() == 24 * 4_000


def test_a_slate_that_was_not_drawn_as_it_was_shown_has_no_propensity(release, tmp_path):
    """A stored slate is a part of an older draw; a refilled one is drawn of what was left."""
    known, count = release.user_ids.ids.tolist()[0], len(release.video_ids.ids)
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        recommender = Recommender(release, store)
        drawn = recommender.recommend(Request("drawn", known, 3, FIRST_MS, "home"))
        stored = replace(drawn, request=replace(drawn.request, request_id="stored"), mode="precomputed")
        store.apply([Event(kind="shown", user_id=known, video_id=each, known_at=FIRST_MS) for each in drawn.ids[:2]])
        others = tuple(row for row in range(count) if row not in drawn.rows)
        refilled = recommender.recommend(Request("refilled", known, 3, FIRST_MS + 1, exclude=others))
    assert any("again" in names for names in refilled.sources)
    with closing(ServedLog(tmp_path / "served", max_bytes=1 << 30, flush_rows=1)) as served:
        for answer in (drawn, stored, refilled):
            served.append(answer)
    day = impressions_of_day(tmp_path / "served", Heard(), day_of(FIRST_MS, 0.0), utc_offset_h=0.0, context=())
    names = ("drawn", "stored", "refilled")
    exact = {name: day.filter(pl.col("request_id") == name)["propensity"].to_list() for name in names}
    assert exact == {
        "drawn": pytest.approx(drawn.slate.propensities.tolist(), rel=1e-6),
        "stored": [None] * 3,
        "refilled": [None] * len(refilled.ids),
    }


def test_an_empty_served_log_adds_nothing(release, log, tmp_path):
    Store.open(tmp_path / "store", release, durable=False).close()
    added = add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    assert (dict(added.added), dict(added.withheld)) == ({}, {})


def test_sessions_mirrored_answers_and_unknown_viewers_are_left_out(release, log, tmp_path):
    serve(release, tmp_path / "store", tmp_path / "served", days=1)
    served = ServedLog(tmp_path / "served", max_bytes=1 << 30, flush_rows=10)
    base = Request("s", session_id("a"), 4, FIRST_MS + 1, "home")
    known = release.user_ids.ids.tolist()[0]
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        recommender = Recommender(release, store)
        for request in (
            base,
            replace(base, request_id="m", user_id=known, mirrored=True),
            replace(base, request_id="u", user_id=12),
        ):
            served.append(recommender.recommend(request))
    served.close()
    added = add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    needed = "region, device, user_language, account_age_days"  # by the schema; nobody knows them of a new viewer
    assert list(added.left_out) == [f"user_id is not in users.parquet, and may not be added without {needed}"]
    assert added.users == 0
    asked = set(rows_of(log, "2023-11-20")["request_id"].to_list())
    assert not asked & {"s", "m", "u"}
    assert len(asked) == 24


def test_new_viewers_join_the_users_of_the_log_where_the_schema_lets_the_rest_be_null(release, log, tmp_path):
    served = ServedLog(tmp_path / "served", max_bytes=1 << 30, flush_rows=10)
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        answer = Recommender(release, store).recommend(Request("new", 12, 4, FIRST_MS + 1, "home"))
        shared = {"user_id": 12, "request_id": "new", "surface": "home"}
        store.apply([Event(kind="outcome", video_id=answer.ids[0], known_at=FIRST_MS + 9_000, watch_ms=7_000, **shared)])
    served.append(answer)
    served.close()
    text = (CONF / "features" / "world.yaml").read_text()
    lines = [line.replace("entity: user", "entity: user, nullable: true") if "entity: user" in line and "user_id" not in line
             and "nullable" not in line and "counter" not in line and "sequence" not in line else line
             for line in text.splitlines()]  # fmt: skip
    (tmp_path / "open.yaml").write_text("\n".join(lines))
    schema = FeatureSchema.load(tmp_path / "open.yaml")
    before, events = pl.read_parquet(log / "users.parquet"), heard(release, tmp_path / "store")
    for expected in (1, 0):
        daily = DailyLog(CanonicalTables(root=str(log), features=str(tmp_path / "open.yaml")), schema, work=tmp_path)
        added = daily.add(tmp_path / "served", events, until_ms=FIRST_MS + DAY_MS, utc_offset_h=0)
        assert (added.users, dict(added.left_out)) == (expected, {})
    assert rows_of(log, "2023-11-20")["watch_ms"].to_list() == [7_000, 0, 0, 0]
    after = pl.read_parquet(log / "users.parquet")
    assert after.head(len(before)).equals(before)
    assert after.tail(1).row(0) == (12, None, None, None, None, None)
    write_stage(CanonicalTables(root=str(log), features=str(tmp_path / "open.yaml")), schema, tmp_path / "tables")
    assert 12 in StoredTables.open(tmp_path / "tables").all().impressions["user_id"]


def test_posted_videos_join_the_catalogue_of_the_log(release, log, tmp_path):
    Store.open(tmp_path / "store", release, durable=False).close()
    metadata = {"creator_id": "c1", "duration_ms": 30_000, "tags": ["tag1"], "upload_ms": FIRST_MS, "title": "new"}
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.apply([Event(kind="posted", user_id="", video_id="new", known_at=FIRST_MS, metadata=metadata)])
    before = pl.read_parquet(log / "videos.parquet")
    for expected in (1, 0):
        assert add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS).videos == expected
    after = pl.read_parquet(log / "videos.parquet")
    assert after.schema == before.schema
    assert after.head(len(before)).equals(before)
    assert after.tail(1).select("video_id", "duration_ms", "tags", "title").row(0) == ("new", 30_000, ["tag1"], "new")


def patched(release, tmp_path, video: str, metadata: dict, *, kind: str = "changed", known_at: int = FIRST_MS) -> None:
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.apply([Event(kind=kind, user_id="", video_id=video, known_at=known_at, metadata=metadata)])


def video_of(log, video: str) -> dict:
    return pl.read_parquet(log / "videos.parquet").row(by_predicate=pl.col("video_id") == video, named=True)


def test_a_takedown_by_patch_is_known_to_the_next_release(release, log, tmp_path, feature_stage, once):
    patched(release, tmp_path, "v003", {"safety": "unsafe", "regions": ["fr"], "fingerprint": 77})
    before, of_before = pl.read_parquet(log / "videos.parquet"), video_of(log, "v003")
    for expected in (1, 0):
        added = add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
        assert (added.videos, added.changed) == (0, expected)
    after = pl.read_parquet(log / "videos.parquet")
    assert video_of(log, "v003") == of_before | {"safety": "unsafe", "regions": ["fr"], "fingerprint": 77}
    others = pl.col("video_id") != "v003"
    assert after.filter(others).equals(before.filter(others))
    assert after["video_id"].equals(before["video_id"])
    built, tables = small_log(feature_stage, once)
    feature_stage(SCHEMA, replace(tables, videos=after), TimeSplit(valid_days=1, test_days=1), tmp_path / "built")
    parts = exported((built, tables), once)
    made = make_release((tmp_path / "built/features", tables), parts, tmp_path / "releases", as_of_ms=FIRST_MS + DAY_MS)
    with closing(Store.open(tmp_path / "store", Release.load(made), durable=False)) as store:
        row = int(store.catalogue.ids.rows(["v003"])[0])
        assert SAFETY[store.catalogue.safety[row]] == "unsafe"
        assert store.catalogue.fingerprints[row] == 77
        assert store.catalogue.regions[row] == 1 << store.catalogue.region_names.rows["fr"]


def test_what_a_column_cannot_hold_leaves_what_the_log_has(release, log, tmp_path):
    before = video_of(log, "v003")
    patched(release, tmp_path, "v003", {"creator_id": None, "safety": "mature", "title": None})
    patched(release, tmp_path, "v003", {"tags": ["tag2"]}, known_at=FIRST_MS + 1)
    add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    assert not expected_columns("videos", SCHEMA)["creator_id"].nullable
    assert video_of(log, "v003") == before | {"safety": "mature", "title": None, "tags": ["tag2"]}


def test_a_log_without_a_column_of_rules_gets_it_for_a_takedown(release, log, tmp_path):
    pl.read_parquet(log / "videos.parquet").drop("safety", "fingerprint").write_parquet(log / "videos.parquet")
    patched(release, tmp_path, "v003", {"safety": "unsafe"})
    add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    after = pl.read_parquet(log / "videos.parquet")
    assert after["safety"].null_count() == len(after) - 1
    assert video_of(log, "v003")["safety"] == "unsafe"
    assert "fingerprint" not in after.columns


def test_a_full_disk_leaves_the_log_as_it_was(release, log, tmp_path, monkeypatch):
    serve(release, tmp_path / "store", tmp_path / "served", days=1)

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("watchnext.files.synced", full)
    with pytest.raises(OSError, match="No space left on device"):
        add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS)
    assert "2023-11-20" not in daily_log(log, tmp_path).days
    monkeypatch.undo()
    assert list(add(release, log, tmp_path, until_ms=FIRST_MS + DAY_MS).added) == ["2023-11-20"]


def test_another_layout_is_refused_with_what_is_expected(log, tmp_path):
    frame = pl.concat([pl.read_parquet(path) for path in sorted(log.glob("impressions/*/*.parquet"))])
    for path in sorted(log.glob("impressions/*/*.parquet")):
        path.unlink()
        path.parent.rmdir()
    (log / "impressions").rmdir()
    frame.write_parquet(log / "impressions.parquet")
    with pytest.raises(DataError, match=r"not in daily Parquet folders, expected date=2025-03-10/part-0.parquet"):
        daily_log(log, tmp_path)
    with pytest.raises(DataError, match=r"read by str, expected CanonicalTables"):
        DailyLog("log", SCHEMA, work=tmp_path)
