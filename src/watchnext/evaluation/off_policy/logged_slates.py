"""Held-out requests of a stored log as a slate log, with the probabilities that a release gives to them."""

from dataclasses import fields

import numpy as np
import polars as pl

from watchnext.evaluation.off_policy.clusters import content_clusters, logged_shares
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.release_policy import ReleasePolicy, RequestRates
from watchnext.evaluation.off_policy.slate_log import LOGGING, OffPolicyError, SlateLog
from watchnext.evaluation.replay.held_out_log import HeldOutLog, LogPart
from watchnext.evaluation.replay.replay import Replay
from watchnext.serving.release.release import Release

UNNAMED = "unnamed"  # a logger without a name in `policy`


def logged_slates(
    release: Release, log: HeldOutLog, reward: np.ndarray, *, requests: int, seed: int
) -> tuple[SlateLog, PolicyRates, dict[str, int]]:
    """Return at most about `requests` slates of the held-out days, evenly spaced, the release's rates, and what was left out.

    `reward` (N,) is that of every row of the stored log. The release answers every request on the state of its moment (regime
    `streaming`). Raises OffPolicyError.
    """
    columns = ["request_id", "user_id", "video_id", "position", "propensity", "policy"]
    test = pl.concat([part.impressions.filter(pl.Series(part.held_out)).select(columns) for part in log.parts()])
    _require_logged(test)
    test = test.with_columns(
        row=pl.Series(release.video_ids.rows_of(test["video_id"])),
        reward=pl.Series(np.asarray(reward)[np.asarray(log.split) == log.held_out]),
        logger=pl.col("policy").fill_null(UNNAMED),
    )
    kept, left_out = _whole(test)
    chosen = kept.gather_every(max(1, -(-len(kept) // requests)))["request_id"].cast(pl.String).to_list()
    clusters = content_clusters(np.asarray(release.catalogue.vectors), seed)
    rows, rates = _replayed(release, log, set(chosen), clusters, seed)
    shown = test[np.concatenate(rows)]
    slates = SlateLog.of(
        request=shown["request_id"].to_numpy(),
        viewer=shown["user_id"].to_numpy(),
        position=shown["position"].to_numpy(),
        reward=shown["reward"].to_numpy(),
        propensity=shown["propensity"].to_numpy(),
        logger=shown["logger"].to_numpy(),
    )
    return slates, _spread(slates, rates, shown, clusters, _logger_shares(log, shown, release, clusters)), left_out


def _require_logged(test: pl.DataFrame) -> None:
    for name, repair in (("propensity", LOGGING), ("position", "log the position of each video in its slate")):
        if len(test) and test[name].null_count() == len(test):
            raise OffPolicyError(
                f"{name} is missing in all {len(test):,} impressions of the test days, expected one a row; {repair}, load the "
                "log (`python -m watchnext.data tables`), and run this again"
            )


def _whole(test: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the request ids that can be weighed, and the numbers of the others by what they lack. Raises OffPolicyError."""
    by_request = test.group_by("request_id", maintain_order=True).agg(
        pl.col("propensity").is_null().any().alias("a propensity is missing"),
        (pl.col("position") != pl.int_range(pl.len())).fill_null(True).any().alias("a position is missing"),
        (pl.col("row") < 0).any().alias("a video is unknown to the release"),
    )
    lacks = by_request.drop("request_id")
    kept = by_request.filter(~pl.any_horizontal(lacks.columns))
    left_out = {name: count for name, count in lacks.sum().row(0, named=True).items() if count}
    if len(test) and not len(kept):
        listed = ", ".join(f"{name}: {count:,}" for name, count in left_out.items())
        raise OffPolicyError(f"none of {len(by_request):,} test requests can be weighed ({listed}); {LOGGING}")
    return kept, left_out


def _replayed(
    release: Release, log: HeldOutLog, chosen: set[str], clusters: np.ndarray, seed: int
) -> tuple[list[np.ndarray], list[RequestRates]]:
    """Return the positions among the held-out rows of each chosen request, and the release's rates."""
    rng, rows, rates = np.random.default_rng(seed), [np.zeros(0, np.int64)], []
    replay = Replay(release=release, regime="streaming", slate=1, requests=0, depth=1)
    with replay.opened(log) as (recommender, requests):
        policy = ReleasePolicy(recommender, clusters)
        for each in requests:
            if each.request.request_id in chosen:
                rows.append(each.positions)
                rates.append(policy.rates(each.request, each.rows, rng))
    return rows, rates


def _spread(
    log: SlateLog, rates: list[RequestRates], shown: pl.DataFrame, clusters: np.ndarray, shares: np.ndarray
) -> PolicyRates:
    """Return the rates by request and position, as in the log."""
    joined = {each.name: np.concatenate([getattr(one, each.name) for one in rates]) for each in fields(RequestRates)}
    own = clusters[shown["row"].to_numpy()]
    joined |= {"of_cluster": joined.pop("clusters")[np.arange(len(own)), own], "cluster_logged": shares}
    return PolicyRates(**{name: log.spread(values, empty=1.0) for name, values in joined.items()})


def _logger_shares(log: HeldOutLog, shown: pl.DataFrame, release: Release, clusters: np.ndarray) -> np.ndarray:
    """Return how often its logger shows the cluster of each shown video (M,) to its viewer, by the earlier impressions."""
    numbers = {viewer: number for number, viewer in enumerate(shown["user_id"].unique(maintain_order=True).to_list())}
    numbered = pl.col("user_id").replace_strict(numbers, default=len(numbers), return_dtype=pl.Int64).alias("viewer")
    earlier = pl.concat([_exposures(part, numbered, release, clusters) for part in log.parts()])
    own, viewer = clusters[shown["row"].to_numpy()], shown.select(numbered).to_series().to_numpy()
    sizes, shares = {"viewers": len(numbers) + 1, "clusters": int(clusters.max()) + 1}, np.ones(len(shown))
    for logger in shown["logger"].unique().to_list():
        part, at = earlier.filter(pl.col("logger") == logger), (shown["logger"] == logger).to_numpy()
        learned = logged_shares(part["viewer"].to_numpy(), part["cluster"].to_numpy(), **sizes)
        shares[at] = learned[viewer[at], own[at]]
    return shares


def _exposures(part: LogPart, numbered: pl.Expr, release: Release, clusters: np.ndarray) -> pl.DataFrame:
    """Return logger, viewer and cluster of the impressions before the held-out ones, without unknown videos."""
    before = part.impressions.filter(pl.Series(~part.held_out))
    rows = release.video_ids.rows_of(before["video_id"])
    exposed = before.select(numbered, logger=pl.col("policy").fill_null(UNNAMED), cluster=pl.Series(clusters[rows]))
    return exposed.filter(pl.Series(rows >= 0))
