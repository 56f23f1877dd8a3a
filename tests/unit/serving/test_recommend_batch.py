"""`POST /v1/recommend:batch`: answers in order, an error for each request that fails, and room for single requests."""

import asyncio
import threading

import pytest
from api import Api, app_over, written

from watchnext.serving.funnel.recommender import Recommender

PATH = "/v1/recommend:batch"


def batch(api, *requests) -> list[dict]:
    answer = api("POST", PATH, body={"requests": list(requests)})
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


@pytest.fixture
def held(release, store, served):
    """An app of two threads whose slates wait for an event, and the ids of the requests that have reached a thread."""
    recommender, gate, reached = Recommender(release, store), threading.Event(), []
    recommend = recommender.recommend

    def waiting(request):
        reached.append(request.request_id)
        if "-" in request.request_id:
            gate.wait(20)
        return recommend(request)

    recommender.recommend = waiting
    apps = []

    def make(**limits) -> Api:
        apps.append(app_over(recommender, store, served, **{"timeout_s": 20.0, "threads": 2, "waiting": 8, **limits}))
        return Api(apps[-1])

    yield make, gate, reached
    gate.set()
    for app in apps:
        app.state.close()


def test_each_request_has_the_answer_of_its_own_in_order(api, store, release, viewer):
    viewers = [release.user_ids.value(row) for row in range(3)]
    answers = batch(api, *({"user_id": each, "k": k, "region": "de"} for k, each in enumerate(viewers, start=3)))
    assert [each["status"] for each in answers] == [200, 200, 200]
    slates = [each["answer"] for each in answers]
    assert [len(slate["items"]) for slate in slates] == [3, 4, 5]
    assert len({slate["request_id"] for slate in slates}) == 3
    written(api)
    shown = [(event.user_id, event.video_id, event.request_id) for event in store.journal()]
    assert sorted(shown) == sorted(
        (user, item["video_id"], slate["request_id"])
        for user, slate in zip(viewers, slates, strict=True)
        for item in slate["items"]
    )


def test_a_viewer_who_occurs_twice_gets_other_videos_the_second_time(api, viewer):
    first, second = ({item["video_id"] for item in each["answer"]["items"]} for each in batch(api, *2 * [{"user_id": viewer}]))
    assert not first & second


@pytest.mark.parametrize(
    ("wrong", "status", "where"),
    [
        ({"user_id": 100, "k": 0}, 422, "body.k"),
        ({"user_id": 100, "kk": 1}, 422, "body.kk"),
        ({"user_id": "100"}, 422, "body.user_id"),
        ({"user_id": 100, "seed_video_id": "none"}, 422, "body.seed_video_id"),
        (7, 422, "body"),
        (None, 422, "body"),
    ],
)
def test_a_request_that_is_wrong_has_the_error_of_a_single_one_and_the_others_count(api, viewer, wrong, status, where):
    before, error, after = batch(api, {"user_id": viewer, "k": 2}, wrong, {"user_id": viewer, "k": 2})
    assert (before["status"], after["status"], error["status"]) == (200, 200, status)
    assert error["answer"]["error"]["details"][0]["where"] == where
    if isinstance(wrong, dict):
        assert error["answer"] == api("POST", "/v1/recommend", body=wrong).json()


def test_a_request_that_breaks_the_server_has_a_500_and_the_log_says_why(release, store, served, viewer, caplog):
    recommender = Recommender(release, store)

    def broken(_):
        raise RuntimeError("gone")

    recommender.recommend = broken
    app = app_over(recommender, store, served, timeout_s=20.0)
    (answer,) = batch(Api(app), {"user_id": viewer})
    app.state.close()
    assert (answer["status"], answer["answer"]["error"]["code"]) == (500, "failed")
    assert "RuntimeError: gone" in caplog.text


@pytest.mark.parametrize("requests", [[], [{}] * 101, {}, None])
def test_a_batch_of_no_or_too_many_requests_is_refused(api, requests):
    answer = api("POST", PATH, body={"requests": requests})
    assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, "body.requests")


def test_single_requests_are_answered_while_batches_wait(held, viewer):
    make, gate, reached = held
    api = make(batches=3)

    async def crowd():
        calls = [("POST", PATH, {"requests": 4 * [{"user_id": viewer, "k": 2}]}, None, None)] * 3
        batches = asyncio.ensure_future(api.send(calls))
        while not reached:
            await asyncio.sleep(0.001)
        (single,) = await api.send([("POST", "/v1/recommend", {"user_id": viewer, "k": 2}, None, None)])
        (refused,) = await api.send(calls[:1])
        waiting = len(reached)
        gate.set()
        return single, refused, waiting, await batches

    single, refused, waiting, answers = asyncio.run(crowd())
    assert single.status_code == 200
    assert waiting == 2  # the single request and one of the twelve
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"]
    assert [each["status"] for answer in answers for each in answer.json()["answers"]] == 12 * [200]


def test_a_batch_is_of_low_priority_but_for_requests_that_name_another(held, viewer):
    make, gate, _ = held
    api = make(threads=2, waiting=2)

    async def crowd():
        held_up = [asyncio.ensure_future(api.app.state.pool.run(gate.wait, timeout_s=20)) for _ in range(3)]
        await asyncio.sleep(0)
        requests = [{"user_id": viewer}, {"user_id": viewer, "priority": "normal"}]
        answer = asyncio.ensure_future(api.send([("POST", PATH, {"requests": requests}, None, None)]))
        while api.app.state.pool.in_use < 4:
            await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(*held_up)
        return (await answer)[0].json()["answers"]

    low, normal = asyncio.run(crowd())
    assert (low["status"], low["answer"]["error"]["code"], normal["status"]) == (503, "overloaded", 200)


def test_requests_whose_turn_does_not_come_in_time_say_so(held, viewer):
    make, gate, _ = held
    gate.set()
    answers = batch(make(batch_s=0.0), *2 * [{"user_id": viewer}])
    assert [(each["status"], each["answer"]["error"]["code"]) for each in answers] == 2 * [(503, "too_slow")]
