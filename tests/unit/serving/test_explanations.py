"""Each reason on a card, checked against facts that are read another way: the events posted, the catalogue, the lists."""

from collections import defaultdict

import numpy as np
import pytest

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import SOURCES, Request

DAY_MS = 86_400_000
NEW = 5_001  # viewers of no log
OWN = {
    "from a creator you watch",
    "about what you watch",
    "by a creator you follow",
    "by a creator you watched before",
    "similar to what you watched",
    "watched together with what you watched",
    "watched next after what you watched",
    "you left it midway",
}


@pytest.fixture
def recommender(release, store):
    return Recommender(release, store)


@pytest.fixture
def by_reason(recommender, release, store):
    """Return `read(*events)`: reason > rows in the slate that have it, after outcomes of a new viewer; and the answer."""

    def read(*outcomes: tuple[int, dict], k: int = 100):
        about = {"kind": "outcome", "user_id": NEW, "known_at": release.as_of_ms + 1}
        store.apply([Event(video_id=release.video_ids.value(row), **about, **outcome) for row, outcome in outcomes])
        answer = recommender.recommend(Request("q1", NEW, k, release.as_of_ms + 2, surface="home", region="de"))
        found = defaultdict(list)
        for row, reasons in zip(answer.rows.tolist(), answer.explanations, strict=True):
            for reason in reasons:
                found[reason].append(row)
        return found, answer

    return read


def creator_with_most(release) -> tuple[int, np.ndarray]:
    creators = release.catalogue.creator_rows
    creator = int(np.bincount(creators[creators >= 0]).argmax())
    return creator, np.flatnonzero((creators == creator) & (release.catalogue.upload_ms <= release.as_of_ms))


def test_who_has_watched_nothing_is_told_nothing_about_watches(by_reason, release):
    found, _ = by_reason()
    assert not OWN & found.keys()
    assert found["chosen for new viewers"]


def test_a_video_hidden_unwatched_makes_no_watcher(by_reason, release):
    row = creator_with_most(release)[1][0]
    found, _ = by_reason((row, {"hide": True}))
    assert not OWN & found.keys()


def test_reasons_of_the_past_hold_of_what_was_watched(by_reason, release):
    creator, rows = creator_with_most(release)
    catalogue = release.catalogue
    found, answer = by_reason((rows[0], {"watch_ms": 30_000, "click": True, "long_view": True}))
    for reason in ("from a creator you watch", "about what you watch", "similar to what you watched"):
        assert found[reason]
    tags = set(catalogue.tag_rows[rows[0]]) - {-1}
    of_creator = [row for row in answer.rows.tolist() if catalogue.creator_rows[row] == creator]
    of_tags = [row for row in answer.rows.tolist() if tags & set(catalogue.tag_rows[row])]
    assert found["from a creator you watch"] == of_creator
    assert found["about what you watch"] == of_tags
    assert not found["by a creator you follow"]
    assert "chosen for new viewers" not in found


def test_a_follow_is_a_reason_from_then_on_and_only_for_that_creator(by_reason, release):
    creator, rows = creator_with_most(release)
    found, answer = by_reason((rows[0], {"watch_ms": 900, "follow": True}))
    followed = [row for row in answer.rows.tolist() if release.catalogue.creator_rows[row] == creator]
    assert found["by a creator you follow"] == followed
    assert followed
    assert not found["from a creator you watch"]  # neither clicked nor watched long


def test_new_means_of_the_last_day(by_reason, release):
    found, answer = by_reason()
    age_ms = release.as_of_ms + 2 - release.catalogue.upload_ms[answer.rows]
    assert found["uploaded in the last 24 hours"] == answer.rows[age_ms <= DAY_MS].tolist()
    assert 0 < len(found["uploaded in the last 24 hours"]) < len(answer.rows)


def test_popular_is_the_head_of_a_list_and_a_tail_is_told_less(by_reason, release):
    found, answer = by_reason()
    head = 0.05 * len(release.catalogue)
    ranks = answer.scored.candidates.ranks[answer.slate.picked]
    for reason, names in {"popular now": ("trending", "popular_now"), "popular": ("popular", "popular_recently")}.items():
        listed = np.any([(ranks[:, SOURCES.index(name)] > 0) & (ranks[:, SOURCES.index(name)] <= head) for name in names], 0)
        assert found[reason] == answer.rows[listed].tolist()
        assert 0 < len(found[reason]) < len(answer.rows)
    for row in found["watched by others"]:
        assert len(answer.explanations[answer.rows.tolist().index(row)]) == 1


def test_every_retrieved_video_has_a_reason(by_reason):
    _, answer = by_reason()
    assert all(answer.explanations)
