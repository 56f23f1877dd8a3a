from types import SimpleNamespace

import numpy as np
import pytest

from watchnext.reranking.rules.caps import CreatorCap, CreatorWindow, LanguageCap, TagCap
from watchnext.reranking.rules.copies import DuplicateFilter
from watchnext.reranking.rules.filters import RegionFilter, SeenFilter, UnavailableFilter
from watchnext.reranking.rules.floors import FreshnessFloor, NewCreatorFloor
from watchnext.reranking.rules.hidden import HiddenDemotion
from watchnext.reranking.rules.registry import rule
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.rules.safety import SafetyFilter
from watchnext.reranking.value import RerankingError

ROWS = np.arange(5)


def situation(
    *, seen=(), region=None, region_bits=None, unavailable=None, continued=(), hidden=(), age=None, language=None, as_of_ms=0.0,
    **facts,
):  # fmt: skip
    return RuleContext(
        seen=np.array(sorted(seen), np.int64),
        region=region,
        facts=SimpleNamespace(**facts),
        region_bits=region_bits or {},
        unavailable=unavailable,
        continued=np.array(continued),
        hidden=np.array(hidden, np.int64),
        age=age,
        language=language,
        as_of_ms=as_of_ms,
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
    asked = situation(creator_rows=np.array([4, -1]), tag_rows=np.array([[1, 2], [3, -1]]))
    assert CreatorCap().keys(np.array([1, 0]), asked).tolist() == [[-1], [4]]
    assert CreatorWindow().keys(np.array([1, 0]), asked).tolist() == [[-1], [4]]
    assert TagCap().keys(np.array([1, 0]), asked).tolist() == [[3, -1], [1, 2]]


POLICY = [
    {"ages": ["18-24"], "regions": ["de"], "mature": "limit"},
    {"ages": ["13-17"], "mature": "drop"},
    {"regions": ["us"], "mature": "drop"},
    {"mature": "allow"},
]


@pytest.mark.parametrize(
    ("age", "region", "action"),
    [
        ("18-24", "de", "limit"),
        ("18-24", "fr", "allow"),
        ("25-34", "us", "drop"),
        ("13-17", "de", "drop"),
        (None, "de", "drop"),
        ("18-24", None, "drop"),  # may be us
        ("13-17", None, "drop"),
    ],
)
def test_the_first_line_that_fits_decides_and_the_unknown_get_the_strictest(age, region, action):
    safety = SafetyFilter(highest="mature", policy=POLICY)
    asked = situation(age=age, region=region, safety=np.array([0, 1, 2, 7, 1], np.uint8))
    assert safety.action(region, age) == action
    assert taken(safety, asked) == ([1, 2, 3, 4] if action == "drop" else [2, 3])
    assert safety.keys(ROWS, asked).tolist() == ([[-1], [0], [-1], [-1], [0]] if action == "limit" else [[]] * 5)


def test_without_a_line_that_fits_nothing_mature_is_allowed_and_without_lines_the_highest_level_is():
    lines = [{"ages": [18], "mature": "allow"}]
    assert SafetyFilter(highest="mature", policy=lines).action("de", "18") == "allow"
    assert SafetyFilter(highest="mature", policy=lines).action("de", "25") == "drop"
    assert SafetyFilter(highest="mature", policy=lines).action("de", None) == "drop"
    assert SafetyFilter(highest="safe", policy=[{"mature": "allow"}]).action("de", "18") == "drop"
    assert SafetyFilter(highest="mature").action(None, None) == "allow"


@pytest.mark.parametrize(("line", "message"), [({"mature": "hide"}, "'hide', expected one of"), ({"age": 1}, "'age'.*'ages'")])
def test_a_wrong_line_of_the_policy_is_named(line, message):
    with pytest.raises(RerankingError, match=message):
        SafetyFilter(policy=[line])


def test_another_language_counts_and_an_unknown_one_does_not():
    facts = {"languages": {"de": 1, "en": 2}, "language_codes": np.array([1, 2, 0, 2, 1]).take}
    assert LanguageCap().keys(ROWS, situation(language="de", **facts))[:, 0].tolist() == [-1, 0, -1, 0, -1]
    for unknown in (None, "fr"):
        assert (LanguageCap().keys(ROWS, situation(language=unknown, **facts)) == -1).all()


HOUR_MS = 3.6e6


def test_young_videos_and_videos_of_new_creators():
    uploads = HOUR_MS * np.array([100.0, 76.0, 75.9, np.nan, 0.0])
    creators = {"creator_rows": np.array([0, 1, -1, 1, 2]), "first_upload_ms": HOUR_MS * np.array([90.0, np.nan, 20.0])}
    asked = situation(as_of_ms=100 * HOUR_MS, upload_ms=uploads, **creators)
    assert FreshnessFloor(younger_h=24).group(ROWS, asked).tolist() == [True, True, False, False, False]
    assert NewCreatorFloor(younger_days=1).group(ROWS, asked).tolist() == [True, False, False, False, False]
    assert NewCreatorFloor(younger_days=4).group(ROWS, asked).tolist() == [True, False, False, False, True]


def test_what_is_like_a_hidden_video_weighs_less():
    facts = {
        "creator_rows": np.array([4, 4, -1, -1, 5, 6]),
        "fingerprints": np.array([0, 0, 7, 0, 0, 7]),
        "vectors": np.array([[1, 0], [0, 1], [0, 0], [0, 0], [1, 0.1], [0, 1]], np.float32),
    }
    every, rule_ = np.arange(6), HiddenDemotion(weight=0.5, cosine=0.9)
    assert rule_.factors(every, situation(hidden=[0], **facts)).tolist() == [0.5, 0.5, 1, 1, 0.5, 1]
    assert rule_.factors(every, situation(hidden=[2], **facts)).tolist() == [1, 1, 0.5, 1, 1, 0.5]
    assert rule_.factors(every, situation(hidden=[3], **facts)).tolist() == [1] * 6  # nothing is known of it
    assert rule_.factors(every, situation(**facts)).tolist() == [1] * 6


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
