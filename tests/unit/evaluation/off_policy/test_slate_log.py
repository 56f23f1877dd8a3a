"""A slate log is read in any order, and one that cannot be weighed says which value and how many rows."""

import numpy as np
import pytest

from watchnext.evaluation.off_policy.slate_log import OffPolicyError, SlateLog, balanced

GOOD = {
    "request": ["b", "a", "a"],
    "viewer": [7, 3, 3],
    "position": [0, 1, 0],
    "reward": [1.0, 0.0, 2.0],
    "propensity": [0.5, 0.25, 0.125],
}


def logged(**changes) -> SlateLog:
    return SlateLog.of(**{name: np.array(values) for name, values in (GOOD | changes).items()})


def test_rows_become_matrices_by_request_and_position():
    log = logged()
    assert log.shown.tolist() == [[True, True], [True, False]]
    assert log.reward.tolist() == [[2.0, 0.0], [1.0, 0.0]]
    assert log.propensity.tolist() == [[0.125, 0.25], [0.5, 1.0]]
    assert log.viewer.tolist() == [0, 1]
    assert log.spread(np.array([[10, 1], [20, 2], [30, 3]]), empty=-1).tolist() == [[[30, 3], [20, 2]], [[10, 1], [-1, -1]]]


def test_a_part_numbers_its_viewers_anew():
    part = logged(request=list("abc"), viewer=[9, 3, 9], position=[0, 0, 0]).take(np.array([True, False, True]))
    assert part.viewer.tolist() == [0, 0]
    assert part.reward.ravel().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propensity": [0.5, 0.0, 1.0]}, r"propensity is 0 in the first of 1 wrong rows of 3, expected .* in \(0, 1\]"),
        ({"propensity": [np.nan, np.nan, 1.0]}, r"propensity is missing in the first of 2 wrong rows.*leave those requests"),
        ({"propensity": [0.5, 1.5, 1.0]}, r"propensity is 1\.5 in the first of 1 wrong rows of 3"),
        ({"propensity": [0.5, -0.1, 1.0]}, r"propensity is -0\.1 in the first of 1 wrong rows"),
        ({"viewer": [7, 3, 4]}, r"request a has two values of viewer, as have 1 of 2 requests.*arms.*do not overlap"),
        ({"logger": ["x", "x", "y"]}, r"request a has two values of logger, as have 1 of 2 requests"),
        ({"reward": [1.0, 1.0, 1.0]}, r"reward is 1 in all 3 rows.*labels of one class.*off_policy\.reward"),
        ({"reward": [1.0, np.inf, 1.0]}, r"reward is not finite in 1 of 3 rows"),
        ({"position": [np.nan] * 3}, r"position is missing in 3 of 3 rows, expected 0, 1, \.\.\. in .*log the position"),
        ({"position": [0, 2, 0]}, r"position is 2 in request a, expected 1: 1 of 3 rows are not numbered"),
        ({"position": [0, 0, 0]}, r"position is 0 in request a, expected 1"),
        ({name: [] for name in GOOD}, r"the log has 0 rows, expected shown videos with propensities; choose days"),
        ({"viewer": [3, 3, 3]}, r"all 3 rows are of one viewer \(3\), expected at least 2"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_weighed_is_named(changes, message):
    with pytest.raises(OffPolicyError, match=message):
        logged(**changes)


def test_propensities_of_loggers_are_balanced_over_whole_prefixes():
    """Two loggers, of a quarter and three quarters of the requests; by hand."""
    under = np.array([[[0.5, 0.1], [0.4, 0.8]]] * 4)
    found = balanced(under, np.array([0, 1, 1, 1]))
    first = 0.25 * 0.5 + 0.75 * 0.1
    assert found[0].tolist() == pytest.approx([first, (0.25 * 0.5 * 0.4 + 0.75 * 0.1 * 0.8) / first])


def test_a_logger_without_requests_has_no_share():
    log = logged(propensity=[[0.5, 0.9], [0.25, 0.9], [0.125, 0.9]], logger=[0, 0, 0])
    assert log.propensity.tolist() == [[0.125, 0.25], [0.5, 1.0]]
    assert log.logger.tolist() == [0, 0]
