"""Clusters by content, and the logger's shares of them."""

import numpy as np
import pytest

from watchnext.evaluation.off_policy import clusters
from watchnext.evaluation.off_policy.clusters import content_clusters, logged_shares


def test_videos_of_one_direction_are_one_cluster_and_those_without_a_vector_another(monkeypatch):
    monkeypatch.setattr(clusters, "CLUSTERS", 2)
    rng, directions = np.random.default_rng(0), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    vectors = directions[[0, 1, 0, 1, 1, 0]] + 0.05 * rng.standard_normal((6, 3))
    vectors = np.concatenate([vectors * rng.uniform(1, 9, (6, 1)), np.zeros((2, 3))])
    found = content_clusters(vectors, seed=0)
    assert len(np.unique(found)) == 3
    assert [len(set(found[rows].tolist())) for rows in ([0, 2, 5], [1, 3, 4], [6, 7])] == [1, 1, 1]
    assert np.array_equal(found, content_clusters(vectors, seed=0))


def test_without_any_vector_there_is_one_cluster():
    assert content_clusters(np.zeros((3, 4)), seed=0).tolist() == [0, 0, 0]


def test_shares_are_those_of_viewers_where_they_differ_and_of_all_where_not():
    rng = np.random.default_rng(0)
    viewer = np.repeat(np.arange(50), 200)
    apart = np.where(rng.random(len(viewer)) < 0.9, viewer % 2, 1 - viewer % 2)
    own = logged_shares(viewer, apart, viewers=51, clusters=2)
    assert own[:50, 0] == pytest.approx(np.where(np.arange(50) % 2 == 0, 0.9, 0.1), abs=0.08)
    assert own[50].tolist() == pytest.approx([0.5, 0.5], abs=0.02)  # a viewer who was never shown anything
    alike = logged_shares(viewer, (rng.random(len(viewer)) < 0.3).astype(int), viewers=51, clusters=2)
    assert alike[:, 1] == pytest.approx(0.3, abs=0.05)
    assert np.abs(alike[:50, 1] - 0.3).mean() < 0.02
    assert own.sum(axis=1) == pytest.approx(1.0)


def test_a_logger_without_history_has_equal_shares():
    nothing = np.zeros(0, np.int64)
    assert logged_shares(nothing, nothing, viewers=2, clusters=4).tolist() == [[0.25] * 4] * 2
