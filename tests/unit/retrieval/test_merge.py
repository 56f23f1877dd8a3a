"""The merge of sources by hand, and against a slow one."""

import numpy as np
import pytest

from watchnext.retrieval.sources.merge import merge
from watchnext.types import SOURCES

BITS = {name: 1 << bit for bit, name in enumerate(SOURCES)}
WEIGHTS = {name: 1.0 + bit for bit, name in enumerate(SOURCES)}


def test_the_bits_of_sources_are_what_served_logs_hold():
    assert BITS == {
        "two_tower": 1, "trending": 2, "fresh": 4, "related": 8, "transitions": 16, "followed": 32, "continue": 64,
        "popular": 128, "popular_recently": 256, "popular_now": 512
    }  # fmt: skip


def test_merge_by_hand():
    found = {"two_tower": np.array([4, 2, 7]), "trending": np.array([2, 5]), "fresh": np.array([5, 2])}
    merged = merge(found, weights={"two_tower": 1.0, "trending": 2.0, "fresh": 0.5}, constant=10.0, most=9)
    scores = {4: 1 / 11, 2: 1 / 12 + 2 / 11 + 0.5 / 12, 7: 1 / 13, 5: 2 / 12 + 0.5 / 11}
    assert merged.rows.tolist() == [2, 5, 4, 7]
    assert merged.scores.tolist() == pytest.approx([scores[row] for row in (2, 5, 4, 7)])
    assert merged.sources.tolist() == [7, 6, 1, 1]
    assert merged.ranks[:, :3].tolist() == [[2, 1, 2], [0, 2, 1], [1, 0, 0], [3, 0, 0]]
    assert not merged.ranks[:, 3:].any()
    assert (merged.rows.dtype, merged.sources.dtype, merged.scores.dtype) == (np.int64, np.uint16, np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_merge_against_the_slow_one_whatever_the_order_of_the_sources(seed):
    random = np.random.default_rng(seed)
    found = {name: random.permutation(30)[: random.integers(0, 20)] for name in random.permutation(SOURCES)}
    scores, sources = {}, {}
    for name, rows in found.items():
        for place, row in enumerate(rows.tolist(), 1):
            scores[row] = scores.get(row, 0.0) + WEIGHTS[name] / (60.0 + place)
            sources[row] = sources.get(row, 0) | BITS[name]
    merged = merge(found, weights=WEIGHTS, constant=60.0, most=100)
    wanted = sorted(scores, key=lambda row: (-round(scores[row], 12), row))
    assert merge(found, weights=WEIGHTS, constant=60.0, most=3).rows.tolist() == wanted[:3]
    assert merged.rows.tolist() == wanted
    assert merged.sources.tolist() == [sources[row] for row in wanted]
    for name in SOURCES:
        assert set(merged.rows[merged.named_by(name)]) == set(found[name])


def test_equal_scores_go_by_row():
    found = {"two_tower": np.array([9]), "fresh": np.array([3])}
    merged = merge(found, weights=dict.fromkeys(SOURCES, 1.0), constant=60.0, most=9)
    assert merged.rows.tolist() == [3, 9]


def test_merge_of_nothing_is_no_candidate():
    for found in ({}, {"trending": np.zeros(0, np.int64)}):
        assert len(merge(found, weights=WEIGHTS, constant=60.0, most=9)) == 0
