"""Many requests at once are answered as one by one, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from watchnext.reranking.slate import Reranker
from watchnext.serving.funnel.ahead.batch import Batch, answers_of
from watchnext.serving.funnel.answer import INDEX_FAILED, STORE_DOWN
from watchnext.serving.funnel.query import ContextError
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event, id_key
from watchnext.types import Request, VideoFilter

HEAVY, COLD = 7_000_001, 7_000_002
OF_ANSWER = ("mode", "as_of_ms", "ids", "explanations", "removed", "funnel", "degradations", "position", "sources")


@pytest.fixture
def recommender(release, store):
    """One whose store knows a viewer who was shown all but a few videos, and was left with too little."""
    ids = [release.video_ids.value(row) for row in range(len(release.catalogue))]
    shown = [Event(kind="shown", user_id=HEAVY, video_id=each, known_at=release.as_of_ms) for each in ids[:-4]]
    store.apply(shown)
    return Recommender(release, store)


def requests_of(release, **fields) -> list[Request]:
    users = [HEAVY, COLD, *(release.user_ids.value(row) for row in range(len(release.user_ids.ids)))]
    return [Request(f"q-{user}", user, **{"k": 20, "as_of_ms": release.as_of_ms + 2} | fields) for user in users]


def require_equal(together: list, one_by_one: list) -> None:
    assert len(together) == len(one_by_one)
    for one, other in zip(one_by_one, together, strict=True):
        for name in OF_ANSWER:
            assert getattr(one, name) == getattr(other, name), name
        for part in ("slate", "scored"):
            require_same_arrays(vars(getattr(one, part)), vars(getattr(other, part)))
        require_same_arrays(one.features, other.features)


def require_same_arrays(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(values, other[name], err_msg=name)
        elif hasattr(values, "items") or hasattr(values, "rows"):
            parts = [dict(each) if hasattr(each, "items") else vars(each) for each in (values, other[name])]
            require_same_arrays(*parts)


def test_viewers_with_and_without_a_history_or_supply_have_the_answers_of_one_by_one(recommender, release):
    asked = requests_of(release) + requests_of(release, surface="home", region="fr", context={"surface": "next"})
    together = recommender.recommend_all(asked, recommender.ranking.shared(release.as_of_ms + 2))
    require_equal(together, [recommender.recommend(each) for each in asked])
    assert any("again" in names for names in together[0].sources)
    assert not any(answer.degraded for answer in together)
    explored = [each for answer in together for each in answer.explanations if "explored at random" in each]
    assert explored


def test_requests_that_differ_in_everything_may_be_asked_together(recommender, release):
    asked = [
        replace(each, **changes)
        for each, changes in zip(
            requests_of(release),
            (
                {},
                {"as_of_ms": release.as_of_ms + 9_000_000, "k": 3},
                {"personalised": False},
                {"exclude": (3, 5, 8), "muted": ("c1",), "k": 7},
                {"filter": VideoFilter(language=("en",))},
                {"seed": 4, "k": 0},
                {"region": "de", "surface": "next"},
            ),
            strict=False,
        )
    ]
    shared = recommender.ranking.shared(release.as_of_ms + 2)
    require_equal(recommender.recommend_all(asked, shared), [recommender.recommend(each) for each in asked])
    require_equal(recommender.recommend_all(asked), [recommender.recommend(each) for each in asked])


def test_the_order_by_value_alone_is_the_same_too(release, store):
    plain = release.reranker.to_config() | {"diversity": {"trade_off": 1.0}, "exploration": {"epsilon": 0.0}}
    recommender = Recommender(replace(release, reranker=Reranker.from_config(plain)), store)
    asked, shared = requests_of(release, k=60), recommender.ranking.shared(release.as_of_ms + 2)
    require_equal(recommender.recommend_all(asked, shared), [recommender.recommend(each) for each in asked])


def test_a_damaged_record_degrades_the_answer_of_its_viewer_alone(recommender, release, store):
    asked = requests_of(release)[:4]
    key = id_key(asked[2].user_id)
    with store._engine.write() as txn:
        txn.put("viewers", key, b"\xff" + txn.get("viewers", key)[1:])
    together = recommender.recommend_all(asked)
    assert [answer.degradations for answer in together] == [(), (), (STORE_DOWN,), ()]
    require_equal(together, [recommender.recommend(each) for each in asked])


def test_a_broken_query_tower_leaves_the_other_sources_of_each(release, store):
    def broken(*_):
        raise RuntimeError("a broken graph")

    recommender = Recommender(replace(release, query_tower=broken), store)
    together = recommender.recommend_all(requests_of(release)[:3])
    assert {answer.degradations for answer in together} == {(INDEX_FAILED,)}
    assert all(answer.ids for answer in together)


def test_an_undeclared_context_is_refused(recommender, release):
    with pytest.raises(ContextError, match="'moon'"):
        recommender.recommend_all([*requests_of(release)[:2], Request("q", COLD, 5, release.as_of_ms, context={"moon": 1.0})])


def test_a_batch_leaves_out_who_was_erased(recommender, release, store):
    users = [each.user_id for each in requests_of(release)]
    store.erase(users[3], release.as_of_ms)
    answers = answers_of(recommender, Batch(release.id, "", 5, len(users), release.as_of_ms + 2), users)
    assert [answer.request.user_id for answer in answers] == users[:3] + users[4:]
