import numpy as np
import pytest

from watchnext.reranking.value import RerankingError, Value


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
