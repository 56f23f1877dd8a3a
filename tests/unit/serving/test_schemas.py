"""The request models: what passes, and what is refused by name."""

import pytest
from pydantic import ValidationError

from watchnext.serving.http.api.schemas import EventsRequest, OutcomeEvent, RecommendRequest

OUTCOME = {"type": "outcome", "user_id": 1, "video_id": 2, "key": "a"}


def refusal(model, body) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return str(caught.value)


def test_a_user_id_alone_is_a_request():
    request = RecommendRequest.model_validate({"user_id": 7})
    assert (request.user_id, request.k, request.mode, request.context) == (7, 20, "online", {})


@pytest.mark.parametrize("user_id", [0, -1, 2**63 - 1, -(2**63), "7", "a/b", "日本", "x" * 64, "é" * 32])
def test_ids_come_back_as_given(user_id):
    given = RecommendRequest.model_validate({"user_id": user_id}).user_id
    assert given == user_id
    assert type(given) is type(user_id)


@pytest.mark.parametrize("user_id", [2**63, -(2**63) - 1, "", "x" * 65, "é" * 33, "nul\0", True, 1.0, None, [1], {}])
def test_a_value_that_is_no_id_is_refused(user_id):
    assert "user_id" in refusal(RecommendRequest, {"user_id": user_id})


@pytest.mark.parametrize("k", [0, -1, 101, 10**9, 10**30, "20", 20.0, True, None])
def test_k_is_a_whole_number_from_1_to_100(k):
    assert "k\n" in refusal(RecommendRequest, {"user_id": 1, "k": k})


def test_a_misspelt_key_is_named():
    assert "contxt" in refusal(RecommendRequest, {"user_id": 1, "contxt": {}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, [1], "x" * 257])
def test_context_holds_words_and_finite_numbers(value):
    assert "context" in refusal(RecommendRequest, {"user_id": 1, "context": {"hour": value}})


def test_context_is_bounded():
    assert RecommendRequest.model_validate({"user_id": 1, "context": {f"c{i}": 1.5 for i in range(32)}})
    assert "context" in refusal(RecommendRequest, {"user_id": 1, "context": {f"c{i}": "a" for i in range(33)}})


def test_an_outcome_says_false_unless_told():
    event = OutcomeEvent.model_validate(OUTCOME)
    assert (event.watch_ms, event.click, event.long_view, event.hide, event.request_id) == (0, False, False, False, None)
    assert event.surface is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("watch_ms", -1),
        ("watch_ms", 86_400_001),
        ("click", 1),
        ("key", "k" * 65),
        ("key", ""),
        ("surface", ""),
        ("type", "shown"),
        ("rating", 5),
    ],
)
def test_an_impossible_outcome_is_refused(field, value):
    assert field in refusal(EventsRequest, {"events": [{**OUTCOME, field: value}]})


def test_an_outcome_needs_its_key():
    assert "key" in refusal(EventsRequest, {"events": [{name: value for name, value in OUTCOME.items() if name != "key"}]})


@pytest.mark.parametrize("count", [0, 1001])
def test_a_call_brings_1_to_1000_events(count):
    assert "events" in refusal(EventsRequest, {"events": [OUTCOME] * count})
    assert len(EventsRequest.model_validate({"events": [OUTCOME] * 1000}).events) == 1000
