"""Shown slates and the requests that they answered > a slate log, with the probabilities that a release gives to them."""

from collections.abc import Iterable
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import polars as pl

from watchnext.evaluation.off_policy.clusters import content_clusters, logged_shares
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import SlateLog
from watchnext.evaluation.off_policy.slates.release_policy import ReleasePolicy, RequestRates
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.types import Request

LEARNED = ("user_id", "row", "logger")  # columns of earlier impressions, of which the shares of clusters are learned


class ShownRequest(NamedTuple):
    """A request, the recommender on the state of its moment, and the positions (K,) of what was shown, best first."""

    recommender: Recommender
    request: Request
    positions: np.ndarray


def valued(
    release: Release, shown: pl.DataFrame, earlier: pl.DataFrame, requests: Iterable[ShownRequest], seed: int
) -> tuple[SlateLog, PolicyRates]:
    """Return the slates of some requests, and the rates of a release on them.

    shown    one row an impression: request_id, position, propensity, reward and LEARNED; every video is known to the release
    earlier  impressions before them, with LEARNED; `row` is -1 where the release does not know the video
    """
    clusters, rng = content_clusters(np.asarray(release.catalogue.vectors), seed), np.random.default_rng(seed)
    videos, positions, rates = shown["row"].to_numpy(), [np.zeros(0, np.int64)], []
    for each in requests:
        positions.append(each.positions)
        rates.append(ReleasePolicy(each.recommender, clusters).rates(each.request, videos[each.positions], rng))
    shown = shown[np.concatenate(positions)]
    slates = SlateLog.of(
        request=shown["request_id"].to_numpy(),
        viewer=shown["user_id"].to_numpy(),
        position=shown["position"].to_numpy(),
        reward=shown["reward"].to_numpy(),
        propensity=shown["propensity"].to_numpy(),
        logger=shown["logger"].to_numpy(),
    )
    own = clusters[shown["row"].to_numpy()]
    return slates, _spread(slates, rates, own, _logger_shares(shown, own, earlier, clusters))


def _spread(log: SlateLog, rates: list[RequestRates], own: np.ndarray, shares: np.ndarray) -> PolicyRates:
    """Return the rates by request and position, as in the log; `own` (M,) are the clusters of the shown videos."""
    joined = {each.name: np.concatenate([getattr(one, each.name) for one in rates]) for each in fields(RequestRates)}
    joined |= {"of_cluster": joined.pop("clusters")[np.arange(len(own)), own], "cluster_logged": shares}
    return PolicyRates(**{name: log.spread(values, empty=1.0) for name, values in joined.items()})


def _logger_shares(shown: pl.DataFrame, own: np.ndarray, earlier: pl.DataFrame, clusters: np.ndarray) -> np.ndarray:
    """Return how often its logger shows the cluster of each shown video (M,) to its viewer, by the earlier impressions."""
    numbers = {viewer: number for number, viewer in enumerate(shown["user_id"].unique(maintain_order=True).to_list())}
    numbered = pl.col("user_id").replace_strict(numbers, default=len(numbers), return_dtype=pl.Int64)
    earlier = earlier.filter(pl.col("row") >= 0).with_columns(numbered.alias("viewer"))
    viewer = shown.select(numbered).to_series().to_numpy()
    sizes, shares = {"viewers": len(numbers) + 1, "clusters": int(clusters.max()) + 1}, np.ones(len(shown))
    for logger in shown["logger"].unique().to_list():
        part, at = earlier.filter(pl.col("logger") == logger), (shown["logger"] == logger).to_numpy()
        learned = logged_shares(part["viewer"].to_numpy(), clusters[part["row"].to_numpy()], **sizes)
        shares[at] = learned[viewer[at], own[at]]
    return shares
