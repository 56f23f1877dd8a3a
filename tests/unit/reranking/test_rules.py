from types import SimpleNamespace

import numpy as np
import pytest

from watchnext.reranking.rules import (
    CreatorCap,
    DuplicateFilter,
    RegionFilter,
    RuleContext,
    SafetyFilter,
    SeenFilter,
    TagCap,
    UnavailableFilter,
    rule,
)
from watchnext.reranking.value import RerankingError

ROWS = np.arange(5)


def situation(*, seen=(), region=None, region_bits=None, unavailable=None, continued=(), **facts):
    return RuleContext(
        seen=np.array(sorted(seen), np.int64),
        region=region,
        facts=SimpleNamespace(**facts),
        region_bits=region_bits or {},
        unavailable=unavailable,
        continued=np.array(continued),
    )


def taken(filter_, asked, rows=ROWS):
    return rows[filter_.removes(rows, asked)].tolist()


def test_seen():
    assert taken(SeenFilter(), situation(seen=[3, 1, 9])) == [1, 3]
    assert taken(SeenFilter(), situation()) == []


def test_the_best_valued_few_of_videos_left_midway_pass():
    asked = situation(seen=[3, 1, 2, 4], continued=[2, 3, 4])
    assert taken(SeenFilter(continued=2), asked, rows=np.array([4, 0, 1, 3, 2])) == [1, 2]
    assert taken(SeenFilter(continued=0), asked) == [1, 2, 3, 4]
    assert taken(SeenFilter(continued=9), asked) == [1]


def test_a_video_to_go_on_watching_is_no_copy_of_itself_but_of_another():
    prints = np.array([7, 0, 7, 9, 0, 9])
    assert taken(DuplicateFilter(), situation(fingerprints=prints, seen=[5], continued=[5])) == [2, 3]
    assert taken(DuplicateFilter(), situation(fingerprints=prints, seen=[5], continued=[5]), rows=np.array([5, 0])) == []


@pytest.mark.parametrize(("highest", "out"), [("safe", [1, 2, 3]), ("mature", [2, 3])])
def test_safety_takes_all_above_the_highest_level_and_unknown_levels(highest, out):
    assert taken(SafetyFilter(highest=highest), situation(safety=np.array([0, 1, 2, 7, 0], np.uint8))) == out


def test_unsafe_cannot_be_allowed():
    with pytest.raises(RerankingError, match="'unsafe', expected one of safe, mature"):
        SafetyFilter(highest="unsafe")


@pytest.mark.parametrize(("region", "out"), [("DE", [2]), ("BR", [1]), ("??", [1, 2, 3]), (None, [1, 2, 3])])
def test_region_reads_bit_numbers_and_an_unknown_region_gets_only_the_unrestricted(region, out):
    regions = np.array([0, 1, 1 << 63, 1 | 1 << 63, 0], np.uint64)
    assert taken(RegionFilter(), situation(region=region, region_bits={"DE": 0, "BR": 63}, regions=regions)) == out


def test_a_region_bit_out_of_range_is_named():
    with pytest.raises(RerankingError, match=r"region_bits\['DE'\] is 64"):
        taken(RegionFilter(), situation(region="DE", region_bits={"DE": 64}, regions=np.zeros(5, np.uint64)))


def test_duplicate_keeps_the_first_of_copies_and_none_of_a_seen_one():
    prints = np.array([7, 0, 7, 9, 0, 9])
    assert taken(DuplicateFilter(), situation(fingerprints=prints)) == [2]
    assert taken(DuplicateFilter(), situation(fingerprints=prints), rows=np.array([2, 0, 1, 4])) == [0]
    assert taken(DuplicateFilter(), situation(fingerprints=prints, seen=[5])) == [2, 3]
    assert taken(DuplicateFilter(of_seen=False), situation(fingerprints=prints, seen=[5])) == [2]
    assert taken(DuplicateFilter(), situation(fingerprints=prints, seen=[1])) == [2]  # 0 is no fingerprint


def test_unavailable_is_optional():
    assert taken(UnavailableFilter(), situation()) == []
    assert taken(UnavailableFilter(), situation(unavailable=np.array([0, 1, 0, 0, 1], bool))) == [1, 4]


def test_the_keys_of_the_caps():
    facts = SimpleNamespace(creator_rows=np.array([4, -1]), tag_rows=np.array([[1, 2], [3, -1]]))
    assert CreatorCap().keys(np.array([1, 0]), facts).tolist() == [[-1], [4]]
    assert TagCap().keys(np.array([1, 0]), facts).tolist() == [[3, -1], [1, 2]]


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None])
def test_a_cap_needs_a_whole_positive_number(most):
    with pytest.raises(RerankingError, match=r"rules\.creator_cap\.most is"):
        CreatorCap(most=most)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("creatorcap", {}, "'creatorcap'.*creator_cap.*unavailable, safety"), ("creator_cap", {"mots": 1}, "'mots'.*'most'")],
)
def test_a_misspelt_rule_or_option_is_named(name, options, message):
    with pytest.raises(RerankingError, match=message):
        rule(name, options)
