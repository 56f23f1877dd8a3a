import numpy as np
import pytest

from watchnext.reranking.value import RerankingError, Value
from watchnext.types import SOURCES, Candidates, Scored


def test_value_by_hand():
    value = Value(weights={"click": 0.2, "long_view": 1.0, "watch_s": 0.4}, watch_half_s=30.0)
    predictions = np.array([[0.5, 0.25, 0.9, 30.0], [0.0, 0.0, 0.0, 90.0], [0.0, 0.0, 0.0, -5.0]])
    np.testing.assert_allclose(value.of(predictions), [0.1 + 0.25 + 0.2, 0.4 * 0.75, 0.0], rtol=1e-12)


def test_a_non_finite_prediction_sinks_only_where_it_is_read():
    predictions = np.array([[np.nan, 0.1, 0.0, 1.0], [0.1, np.inf, 0.0, 1.0], [0.1, 0.1, np.nan, 1.0], [0.1, 0.1, 0.0, np.inf]])
    values = Value(weights={"click": 1.0, "long_view": 1.0, "like": 0.0, "watch_s": 1.0}).of(predictions)
    assert np.isneginf(values).tolist() == [True, True, False, True]


def test_no_candidates_have_no_values():
    assert Value(weights={"click": 1.0}).of(np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"longview": 1.0}, "'longview'.*long_view.*click, long_view, like, watch_s"),
        ({"click": float("nan")}, "click is nan"),
        ({"click": "1"}, "click is '1'"),
        ({"click": 0.0}, "other than 0"),
        ({}, "other than 0"),
    ],
)
def test_wrong_weights_are_refused_by_name(weights, said):
    with pytest.raises(RerankingError, match=said):
        Value(weights=weights)


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(RerankingError, match=r"\(3, 2\).*click"):
        Value(weights={"click": 1.0}).of(np.zeros((3, 2)))


def scored_by(long_view, engage=None, ranks=None):
    count = len(long_view)
    predictions = np.zeros((count, 4), np.float32)
    predictions[:, 1] = long_view
    ranks = np.zeros((count, len(SOURCES)), np.uint16) if ranks is None else ranks
    candidates = Candidates(np.arange(count), np.zeros(count, np.uint16), np.zeros(count, np.float32), ranks)
    return Scored(candidates, predictions, engage)


def test_engage_multiplies_as_a_weighted_geometric_mean():
    scored = scored_by([0.25, 0.04], np.array([1.0, 4.0]))
    np.testing.assert_allclose(Value(weights={"long_view": 1.0}, engage=1.0).order(scored), [0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(Value(weights={"long_view": 1.0}).order(scored), [0.25, 0.04], rtol=1e-6)
    np.testing.assert_allclose(Value(weights={"long_view": 1.0}, engage=1.0).order(scored_by([0.25])), [0.25], rtol=1e-6)


def test_a_negative_value_is_worse_the_likelier_a_watch():
    scored = scored_by([0.25, 0.25], np.array([1.0, 4.0]))
    np.testing.assert_allclose(Value(weights={"long_view": -1.0}, engage=1.0).order(scored), [-0.5, -1.0], rtol=1e-6)


def test_the_list_of_a_source_orders_and_the_merge_fills_up():
    ranks = np.zeros((4, len(SOURCES)), np.uint16)
    ranks[[1, 3], SOURCES.index("trending")] = [2, 1]
    order = Value(weights={"click": 1.0}, source="trending").order(scored_by([0.9, 0.1, 0.5, 0.2], ranks=ranks))
    assert np.argsort(-order).tolist() == [3, 1, 0, 2]
    order = Value(weights={"click": 1.0}, source="merge").order(scored_by([0.1, 0.9, 0.5]))
    assert np.argsort(-order).tolist() == [0, 1, 2]


def test_an_unknown_source_and_power_are_refused():
    with pytest.raises(RerankingError, match=r"value.source.*'trendin'.*trending"):
        Value(weights={"click": 1.0}, source="trendin")
    with pytest.raises(RerankingError, match=r"value.engage is -1"):
        Value(weights={"click": 1.0}, engage=-1)
