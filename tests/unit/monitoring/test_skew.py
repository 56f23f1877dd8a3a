"""Requests and events in turn through the real recommender, store and served log, recomputed from release and journal."""

from contextlib import closing

import numpy as np
import polars as pl
import pytest
from omegaconf import OmegaConf

from watchnext.monitoring.skew import skew_of
from watchnext.serving.__main__ import replay
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.repeated import repeated
from watchnext.serving.funnel.served.served_log import ServedLog, answers_in
from watchnext.serving.store.engines.engine import StoreError, number_key
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Dials, Request

VIEWERS = [100, 105, 124, 999_999]  # the last is new


def served(release, tmp_path, rounds=12):
    """Answer requests of all viewers between events: watches, a viral video, a late event, a withdrawal; return the log."""
    store, now_ms = Store.open(tmp_path / "store", release, durable=False), release.as_of_ms
    recommender = Recommender(release, store)
    log = ServedLog(tmp_path / "served", max_bytes=1 << 30, flush_rows=500)
    viral = release.video_ids.value(7)
    for turn in range(rounds):
        now_ms += 60_000
        user = VIEWERS[turn % len(VIEWERS)]
        asked = {"surface": "home", "context": {}} if turn % 2 else {"dials": Dials(diversity=0.5), "exclude": (3,)}
        answer = recommender.recommend(Request(f"request-{turn}", user, 8, now_ms, **asked))
        log.append(answer)
        about = {"kind": "outcome", "watch_ms": 9_000, "click": True}
        events = [Event(user_id=user, video_id=answer.ids[0], known_at=now_ms + 1_000, key=f"{turn}/0", **about)]
        seen_by = [(each, now_ms + 2_000) for each in VIEWERS] + [(user, now_ms - 90_000)] * (turn > 2)  # the last one is late
        events += [Event(user_id=each, video_id=viral, known_at=at, key=f"{turn}/{each}/{at}", **about) for each, at in seen_by]
        events += [Event(kind="shown", user_id=user, video_id=each, known_at=now_ms) for each in answer.ids]
        if turn == 5:
            events.append(Event(kind="withdrawn", user_id="", video_id=answer.ids[2], known_at=now_ms + 3_000))
        store.apply(events)
    log.close()
    store.close()
    return answers_in(tmp_path / "served")


def skewed(answers, release, tmp_path):
    store = Store.reader(tmp_path / "store", release)
    try:
        return skew_of(answers, release, store)
    finally:
        store.close()


def test_what_was_read_follows_from_release_and_journal_bit_for_bit(release, tmp_path):
    found = skewed(served(release, tmp_path), release, tmp_path)
    assert (found.verdict, found.exit_code, found.requests, found.left_out) == ("none", 0, 12, 0)
    assert {"values", "predicted_watch_s", "hour", "video impression 24h"} <= found.columns.keys()
    assert set(found.columns.values()) == {0.0}


def test_a_feature_that_was_served_otherwise_is_named(release, tmp_path):
    answers = served(release, tmp_path, rounds=3)
    numbers = answers["numbers"].to_list()
    feature = next(each for each in numbers[1] if each["name"] == "video impression 24h")
    feature["of"][2] += 0.25
    answers = answers.with_columns(numbers=pl.Series(numbers, dtype=answers.schema["numbers"]))
    found = skewed(answers, release, tmp_path)
    assert (found.verdict, found.exit_code, found.apart) == ("skew", 2, ["video impression 24h"])
    assert found.columns["video impression 24h"] == pytest.approx(0.25)
    assert "1 of" in str(found)
    assert "video impression 24h" in str(found)


def test_another_slate_is_told_apart(release, tmp_path):
    answers = served(release, tmp_path, rounds=2)
    swapped = answers.with_columns(video_ids=pl.col("video_ids").list.reverse())
    assert skewed(swapped, release, tmp_path).columns == {"video_ids": np.inf}


def test_what_cannot_follow_is_left_out_and_counted(release, tmp_path):
    answers = served(release, tmp_path, rounds=4)
    answers = answers.with_columns(
        journal_position=pl.Series([None, *answers["journal_position"][1:]]),
        mode=pl.Series(["online", "precomputed", "online", "online"]),
        why=pl.Series([[], [], ["ranker"], []], dtype=pl.List(pl.String)),
    )
    found = skewed(answers, release, tmp_path)
    assert (found.verdict, found.requests, found.left_out) == ("none", 1, 3)
    assert skewed(answers.clear(), release, tmp_path).exit_code == 3
    assert skewed(answers.drop("journal_position"), release, tmp_path).verdict == "no data"


def test_a_posted_video_is_repeated_too(release, tmp_path):
    now, vector = release.as_of_ms, [0.5] * release.index.dimension
    metadata = {"creator_id": "c3", "duration_ms": 30_000, "tags": ["tag1"], "upload_ms": now, "vector": vector}
    with (
        closing(Store.open(tmp_path / "store", release, durable=False)) as store,
        closing(ServedLog(tmp_path / "served", max_bytes=1 << 30, flush_rows=500)) as log,
    ):
        store.apply([Event(kind="posted", user_id="", video_id="new", known_at=now + 1, metadata=metadata)])
        answer = Recommender(release, store).recommend(Request("q", 999_999, 40, now + 60_000, region="de"))
        log.append(answer)
    assert "new" in answer.ids
    found = answers_in(tmp_path / "served")
    assert found["why"].to_list() == [[]]
    assert skewed(found, release, tmp_path).verdict == "none"


def test_a_journal_without_its_first_events_is_named(release, tmp_path):
    answers = served(release, tmp_path, rounds=3)
    with (
        closing(Environment(tmp_path / "store" / "current", durable=False, map_bytes=MAP_BYTES)) as environment,
        environment.write() as txn,
    ):
        for position in range(3):
            txn.delete("journal", number_key(position))
    with pytest.raises(StoreError, match="the journal goes on at 3, expected event 0"):
        skewed(answers, release, tmp_path)


def test_what_had_the_events_of_a_viewer_who_was_erased_is_left_out(release, tmp_path):
    answers = served(release, tmp_path, rounds=8)
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.erase(124, release.as_of_ms + 10**7)
    left = answers.filter(pl.col("user_id") != "124")
    found = skewed(left, release, tmp_path)
    assert (found.verdict, found.requests, found.left_out) == ("none", 1, len(left) - 1)


def test_an_answer_during_a_commit_has_no_position(release, tmp_path):
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        recommender = Recommender(release, store)
        assert recommender.recommend(Request("q", 105, 5, release.as_of_ms)).position == 0
        with store._changing():
            assert recommender.recommend(Request("q", 105, 5, release.as_of_ms)).position is None


def test_one_request_is_answered_again_and_printed(release, tmp_path, capsys):
    served(release, tmp_path, rounds=3)
    folders = {"releases": str(release.folder.parent), "store": str(tmp_path / "store")}
    config = {"monitoring": {"served": str(tmp_path / "served")}, "data": folders, "request_id": "request-1"}
    replay(OmegaConf.create(config))
    assert "equal: videos, values, predictions and features" in capsys.readouterr().out
    with pytest.raises(StoreError, match="request_id is 'nobody'"):
        replay(OmegaConf.create(config | {"request_id": "nobody"}))


def test_a_journal_that_is_too_short_is_named(release, tmp_path):
    answers = served(release, tmp_path, rounds=2).with_columns(journal_position=pl.lit(10**6, pl.Int64))
    store = Store.reader(tmp_path / "store", release)
    with pytest.raises(StoreError, match="the journal ends at"):
        list(repeated(answers, release, store))
    store.close()
