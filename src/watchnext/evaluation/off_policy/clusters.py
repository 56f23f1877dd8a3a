"""Clusters of videos by content, and how often a logger shows each to a viewer: what marginalised estimators weigh."""

import numpy as np

CLUSTERS = 10
ROUNDS = 10
PRIORS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 1e9)  # impressions that the shares of all viewers count as


def content_clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return the cluster (V,) of each content vector (V, D) by spherical k-means (Dhillon & Modha 2001); a missing vector, all
    zeros, has a cluster of its own."""
    norms = np.linalg.norm(vectors, axis=1)
    clusters = np.full(len(vectors), CLUSTERS)
    units = vectors[norms > 0] / norms[norms > 0, None]
    if len(units):
        clusters[norms > 0] = _k_means(units, np.random.default_rng(seed))
    return np.unique(clusters, return_inverse=True)[1]


def _k_means(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centres = units[rng.choice(len(units), min(CLUSTERS, len(units)), replace=False)]
    for _ in range(ROUNDS):
        nearest = (units @ centres.T).argmax(axis=1)
        sums = np.stack([np.bincount(nearest, column, len(centres)) for column in units.T], axis=1)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.where(norms > 0, norms, 1.0), centres).astype(units.dtype)
    return nearest


def logged_shares(viewer: np.ndarray, cluster: np.ndarray, *, viewers: int, clusters: int) -> np.ndarray:
    """Return how often a logger shows each cluster to each viewer (viewers, clusters), from impressions (M,) in time order.

    A viewer's own shares are drawn to those of all viewers as if the viewer had seen so many more impressions of these; the
    number is that of PRIORS under which the second half of every viewer's impressions is likeliest.
    """
    late = _rank_in(viewer) >= np.bincount(viewer, minlength=viewers)[viewer] / 2
    first = _counts(viewer[~late], cluster[~late], viewers, clusters)
    likelihood = [np.log(_shares(first, prior)[viewer[late], cluster[late]]).sum() for prior in PRIORS]
    return _shares(_counts(viewer, cluster, viewers, clusters), PRIORS[int(np.argmax(likelihood))])


def _counts(viewer: np.ndarray, cluster: np.ndarray, viewers: int, clusters: int) -> np.ndarray:
    return np.bincount(viewer * clusters + cluster, minlength=viewers * clusters).reshape(viewers, clusters).astype(np.float64)


def _shares(counts: np.ndarray, prior: float) -> np.ndarray:
    """Return the shares (viewers, clusters); a cluster that was never shown counts as one impression of all."""
    every = counts.sum(axis=0) + 1.0
    return (counts + prior * every / every.sum()) / (counts.sum(axis=1, keepdims=True) + prior)


def _rank_in(groups: np.ndarray) -> np.ndarray:
    """Return the number (M,) of earlier entries of the same group."""
    order, counts = np.argsort(groups, kind="stable"), np.bincount(groups)
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks
