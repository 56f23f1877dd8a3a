"""Merge weights: recall by hand, and a search that is never worse than its starts."""

import numpy as np
import pytest

from watchnext.evaluation.selection.merge_weights import MergeProblem, chosen_weights
from watchnext.retrieval.sources.merge import fused
from watchnext.types import SOURCES

ONE, TWO = SOURCES[:2]


def vector(**weights):
    return np.array([weights.get(name, 0.0) for name in SOURCES])


def ranks_of(*lists):
    """Ranks (C, SOURCES) of C candidates in the lists of the first sources."""
    ranks = np.zeros((len(lists[0]), len(SOURCES)), np.uint16)
    ranks[:, : len(lists)] = np.transpose(lists)
    return ranks


def problem(depths=(1, 2)):
    """Two requests. The first watches the best of source one; the second, the best of source two and a video nobody lists."""
    ranks = [ranks_of([1, 2, 3], [3, 2, 1]), ranks_of([1, 2, 0], [2, 1, 3])]
    watched = [np.array([True, False, False]), np.array([False, True, False])]
    return MergeProblem.of(ranks, watched, [0, 1], constant=60.0, depths=depths)


def test_recall_is_the_mean_over_depths_and_counts_what_no_source_lists():
    np.testing.assert_allclose(problem().recalls(vector(**{ONE: 1.0})), [1.0, 0.25])
    np.testing.assert_allclose(problem().recalls(vector(**{TWO: 1.0})), [0.0, 0.5])


def test_a_request_without_watched_videos_has_no_recall():
    empty = MergeProblem.of([ranks_of([1, 2])], [np.zeros(2, bool)], [0], constant=60.0, depths=(1,))
    assert np.isnan(empty.recalls(vector(**{ONE: 1.0}))).all()
    assert empty.quality(vector(**{ONE: 1.0})) == 0.0


def test_a_source_that_names_nothing_changes_nothing_and_keeps_its_weight():
    start = {ONE: 1.0, TWO: 0.5, SOURCES[2]: 0.25}
    chosen = chosen_weights(problem(), start)
    assert chosen[SOURCES[2]] == 0.25
    assert chosen_weights(problem(), {**start, SOURCES[2]: 0.0}) == {**chosen, SOURCES[2]: 0.0}
    silent = MergeProblem.of([np.zeros((0, len(SOURCES)), np.uint16)], [np.zeros(0, bool)], [2], constant=60.0, depths=(1,))
    assert chosen_weights(silent, start) == dict.fromkeys(SOURCES, 0.0) | start


def test_ranks_are_those_of_the_merge():
    random = np.random.default_rng(0)
    ranks = np.stack([random.permutation(50) + 1 for _ in SOURCES], axis=1).astype(np.uint16)
    weights = dict(zip(SOURCES, random.random(len(SOURCES)), strict=True))
    order = fused(np.arange(50), ranks, weights=weights, constant=60.0, most=50).rows
    for depth in (1, 10, 49):
        watched = np.zeros(50, bool)
        watched[order[:10]] = True
        made = MergeProblem.of([ranks], [watched], [0], constant=60.0, depths=(depth,))
        assert made.recalls(vector(**weights)) == pytest.approx([min(depth, 10) / 10])


@pytest.mark.parametrize("start", [{ONE: 1.0}, {TWO: 0.5}, dict.fromkeys(SOURCES, 1.0)])
def test_the_search_is_never_worse_than_its_start_or_a_source_alone(start):
    random = np.random.default_rng(1)
    ranks = [np.stack([random.permutation(40) + 1 for _ in SOURCES], axis=1).astype(np.uint16) for _ in range(20)]
    watched = [(each[:, 3] < 8) & (random.random(40) < 0.5) for each in ranks]
    made = MergeProblem.of(ranks, watched, [0] * 20, constant=60.0, depths=(5, 10))
    chosen = made.quality(vector(**chosen_weights(made, start)))
    assert chosen >= max(made.quality(row) for row in [vector(**start), *np.eye(len(SOURCES))])
