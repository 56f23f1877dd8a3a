"""Seen videos stay away; where nothing unseen is left, they return in a stated order and the slate stays full."""

import numpy as np
import pytest

from watchnext.features.state.seen import REST_DAYS
from watchnext.serving.funnel.explanation.trace import summary
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

VIEWER, DAY_MS, K = 7_000_001, 86_400_000, 20


@pytest.fixture
def recommender(release, store):
    return Recommender(release, store)


def ask(release, day: int, **fields) -> Request:
    return Request(f"day-{day}", VIEWER, K, release.as_of_ms + day * DAY_MS + 1, **fields)


def show(store, release, rows, at: int, **outcome) -> None:
    ids = [release.video_ids.value(int(row)) for row in rows]
    events = [Event(kind="shown", user_id=VIEWER, video_id=each, known_at=at) for each in ids]
    if outcome:
        events += [Event(kind="outcome", user_id=VIEWER, video_id=each, known_at=at + 1, **outcome) for each in ids]
    store.apply(events)


def exhaust(recommender, release, store, **outcome) -> list[np.ndarray]:
    """Ask day after day, until too little unseen is left; return the rows of the days before. Each is new."""
    shown = []
    while True:
        request = ask(release, len(shown))
        answer = recommender.recommend(request)
        if any("again" in names for names in answer.sources) or len(answer.rows) < K:
            return shown
        assert not np.isin(answer.rows, np.concatenate([[], *shown])).any()
        show(store, release, answer.rows, request.as_of_ms, **outcome)
        shown.append(answer.rows)


def oldest_first(release, shown: list[np.ndarray], slate: np.ndarray) -> list[int]:
    """The shown rows, the oldest day first, without copies of those before and of the slate's."""
    prints, left = set(release.catalogue.fingerprints[slate].tolist()) - {0}, []
    for row in np.concatenate([np.sort(rows) for rows in shown]).tolist():
        if (own := int(release.catalogue.fingerprints[row])) not in prints:
            left.append(row)
            prints |= {own} - {0}
    return left


@pytest.mark.parametrize("outcome", [{}, {"watch_ms": 400}, {"watch_ms": 0}])
def test_what_was_shown_or_skipped_within_a_second_returns_last_and_the_oldest_first(recommender, release, store, outcome):
    shown = exhaust(recommender, release, store, **outcome)
    assert len(shown) >= 2
    answer = recommender.recommend(ask(release, len(shown)))
    again = np.array(["again" in names for names in answer.sources])
    assert len(answer.rows) == len(set(answer.rows.tolist())) == K
    assert answer.rows[~again].size == 0 or not np.isin(answer.rows[~again], np.concatenate(shown)).any()
    assert sorted(answer.rows[again].tolist()) == sorted(oldest_first(release, shown, answer.rows[~again])[: again.sum()])
    for names, sentences in zip(answer.sources, answer.explanations, strict=True):
        assert ("shown to you before: nothing new is left" in sentences) == (names == ["again"])


def test_a_refilled_answer_is_traced_as_its_funnel_went(recommender, release, store):
    """All that returns is shown; other videos end where they did before: ranks and counts are the funnel's."""
    shown = exhaust(recommender, release, store)
    request = ask(release, len(shown))
    answer, query = recommender.recommend(request), recommender.query(request)
    found = recommender.retrieval.retrieve(query, [])
    slate = recommender.rerank(query, recommender.rank(query, found))
    assert len(slate.picked) < K == len(answer.rows)
    rows = np.arange(len(release.catalogue))
    traced, traces = recommender.traces(answer, rows), [recommender.trace(answer, row) for row in rows.tolist()]
    assert traced.positions[answer.rows].tolist() == [*range(1, K + 1)]
    assert {row for row in rows.tolist() if traces[row]["end"] == "shown"} == {*answer.rows.tolist()}
    assert [traces[row].get("merge_rank") for row in found.rows.tolist()] == [*range(1, len(found) + 1)]
    for name, positions in slate.removed.items():
        for row in {*found.rows[positions].tolist()} - {*answer.rows.tolist()}:
            assert traces[row]["rule"] == name
    again = answer.rows[[names == ["again"] for names in answer.sources]].tolist()
    assert all("again, as too little unseen was left" in traces[row]["text"] for row in again)
    retrieved = answer.funnel["retrieved"]
    counts = summary(answer, {})["sources"]
    assert max(counts.values(), default=0) <= retrieved <= sum(counts.values())


def test_what_was_watched_rests_and_what_was_hidden_never_returns(recommender, release, store):
    shown = exhaust(recommender, release, store, watch_ms=60_000_000)
    days, everything = len(shown), np.concatenate(shown)
    hidden = everything[:3]
    show(store, release, hidden, release.as_of_ms + days * DAY_MS, hide=True)
    short = recommender.recommend(ask(release, days))
    assert len(short.rows) < K
    assert not np.isin(short.rows, everything).any()
    rested = recommender.recommend(ask(release, days + REST_DAYS))
    returned = rested.rows[[names == ["again"] for names in rested.sources]]
    assert len(rested.rows) == K
    assert len(returned)
    assert not np.isin(returned, hidden).any()
    assert not np.isin(recommender.recommend(ask(release, 900)).rows, hidden).any()


def test_a_watch_moves_a_video_behind_the_others_and_the_other_rules_hold(recommender, release, store):
    shown = exhaust(recommender, release, store)
    first, second, third = np.sort(shown[0])[:3].tolist()
    show(store, release, [first], release.as_of_ms + len(shown) * DAY_MS, watch_ms=60_000_000)
    withdrawn = Event(kind="withdrawn", user_id="", video_id=release.video_ids.value(second), known_at=release.as_of_ms)
    store.apply([withdrawn])
    answer = recommender.recommend(ask(release, len(shown) + 1, exclude=(third,)))
    assert len(answer.rows) == K
    assert not np.isin(answer.rows, [first, second, third]).any()
    assert (release.catalogue.safety[answer.rows] == 0).all()


def test_a_given_or_unpersonalised_request_is_not_refilled(recommender, release, store):
    shown = exhaust(recommender, release, store)
    rows = np.concatenate(shown)[:5]
    assert recommender.rank_given(ask(release, len(shown)), rows).sources.count(["again"]) == 0
    fresh = recommender.recommend(ask(release, len(shown), personalised=False))
    assert len(fresh.rows) == K
    assert not any("again" in names for names in fresh.sources)
