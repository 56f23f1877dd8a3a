"""The check of slates against the rules: two readings of a policy, and caps by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchnext.evaluation.replay.rule_check import above, mature_action, short_of
from watchnext.reranking.rules.safety import ACTIONS, SafetyFilter

names = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
lines = st.fixed_dictionaries({"mature": st.sampled_from(ACTIONS)}, optional={"ages": names, "regions": names})
viewers = st.one_of(st.none(), st.sampled_from("abcd"))


@given(st.lists(lines, max_size=4), st.sampled_from(["safe", "mature"]), viewers, viewers)
def test_a_policy_is_read_twice_alike(policy, highest, age, region):
    expected = SafetyFilter(policy=policy, highest=highest).action(region, age)
    assert mature_action({"policy": policy, "highest": highest}, age, region) == expected


def test_a_viewer_of_unknown_age_gets_the_strictest_line_that_might_be_meant():
    policy = [{"ages": ["18-24"], "mature": "limit"}, {"regions": ["de"], "mature": "allow"}]
    options = {"policy": policy, "highest": "mature"}
    assert [mature_action(options, age, "de") for age in ("18-24", "25-34", None)] == ["limit", "allow", "limit"]
    assert mature_action(options, "25-34", "fr") == "drop"


@pytest.mark.parametrize(
    ("keys", "most", "slots", "count"),
    [
        ([{1}, {1}, {1}, {2}], 2, None, 1),
        ([{1}, {2}, {1}, {1}], 1, 2, 1),
        ([{1}, {2}, {1}, {1}], 1, 3, 2),
        ([{1, 2}, {2, 3}, {3, 1}, set()], 1, None, 2),
        ([], 1, None, 0),
    ],
)
def test_slots_above_a_cap_by_hand(keys, most, slots, count):
    assert above(keys, most, slots) == count


def test_a_floor_asks_no_more_than_there_are_slots():
    assert [short_of(2, holds) for holds in ([], [True], [False], [True, False, False], [True, True, False])] == [0, 0, 1, 1, 0]
