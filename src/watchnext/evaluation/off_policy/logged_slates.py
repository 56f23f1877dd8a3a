"""Held-out requests of the tables as a slate log, with the probabilities that a release gives to them."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.data.splits import SPLITS
from watchnext.data.tables import Tables
from watchnext.evaluation.off_policy.clusters import content_clusters, logged_shares
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.release_policy import ReleasePolicy, RequestRates
from watchnext.evaluation.off_policy.slate_log import LOGGING, OffPolicyError, SlateLog
from watchnext.evaluation.replay.replay import Replay
from watchnext.serving.release.release import Release

TEST = SPLITS.index("test")
UNNAMED = "unnamed"  # a logger without a name in `policy`


def logged_slates(
    release: Release, tables: Tables, split: np.ndarray, reward: np.ndarray, *, requests: int, seed: int
) -> tuple[SlateLog, PolicyRates, dict[str, int]]:
    """Return at most about `requests` slates of the test days, evenly spaced, the release's rates, and what was left out.

    `split` and `reward` (N,) are those of the impressions. The release answers every request on the state of its moment
    (regime `streaming`). Raises OffPolicyError.
    """
    test = tables.impressions.filter(pl.Series(split == TEST))
    _require_logged(test)
    test = test.with_columns(
        number=pl.int_range(pl.len()),
        row=pl.Series(release.video_ids.rows_of(test["video_id"])),
        reward=pl.Series(reward[split == TEST]),
        logger=pl.col("policy").fill_null(UNNAMED),
    )
    kept, left_out = _whole(test)
    chosen = kept.gather_every(max(1, -(-len(kept) // requests)))["request_id"].cast(pl.String).to_list()
    clusters = content_clusters(np.asarray(release.catalogue.vectors), seed)
    rows, rates = _replayed(release, tables, split, set(chosen), test["row"].to_numpy(), clusters, seed)
    shown = test[np.concatenate(rows)]
    log = SlateLog.of(
        request=shown["request_id"].to_numpy(),
        viewer=shown["user_id"].to_numpy(),
        position=shown["position"].to_numpy(),
        reward=shown["reward"].to_numpy(),
        propensity=shown["propensity"].to_numpy(),
        logger=shown["logger"].to_numpy(),
    )
    earlier = tables.impressions.filter(pl.Series(split < TEST))
    return log, _spread(log, rates, shown, clusters, _logger_shares(earlier, shown, release, clusters)), left_out


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
    release: Release,
    tables: Tables,
    split: np.ndarray,
    chosen: set[str],
    video_rows: np.ndarray,
    clusters: np.ndarray,
    seed: int,
) -> tuple[list[np.ndarray], list[RequestRates]]:
    """Return the positions among the test impressions of each chosen request, and the release's rates."""
    rng, rows, rates = np.random.default_rng(seed), [np.zeros(0, np.int64)], []
    replay = Replay(release=release, regime="streaming", slate=1, requests=0, depth=1)
    with replay.opened(tables, split) as (recommender, requests), tqdm(total=len(chosen), desc="off-policy") as bar:
        policy = ReleasePolicy(recommender, clusters)
        for request, positions in requests:
            if request.request_id in chosen:
                rows.append(positions)
                rates.append(policy.rates(request, video_rows[positions], rng))
                bar.update()
    return rows, rates


def _spread(
    log: SlateLog, rates: list[RequestRates], shown: pl.DataFrame, clusters: np.ndarray, shares: np.ndarray
) -> PolicyRates:
    """Return the rates by request and position, as in the log."""
    joined = {each.name: np.concatenate([getattr(one, each.name) for one in rates]) for each in fields(RequestRates)}
    own = clusters[shown["row"].to_numpy()]
    joined |= {"of_cluster": joined.pop("clusters")[np.arange(len(own)), own], "cluster_logged": shares}
    return PolicyRates(**{name: log.spread(values, empty=1.0) for name, values in joined.items()})


def _logger_shares(earlier: pl.DataFrame, shown: pl.DataFrame, release: Release, clusters: np.ndarray) -> np.ndarray:
    """Return how often its logger shows the cluster of each shown video (M,) to its viewer, by the earlier impressions."""
    rows = release.video_ids.rows_of(earlier["video_id"])
    viewers: Mapping = {viewer: number for number, viewer in enumerate(shown["user_id"].unique(maintain_order=True).to_list())}
    history = earlier.select("user_id", logger=pl.col("policy").fill_null(UNNAMED)).with_columns(
        cluster=pl.Series(np.where(rows >= 0, clusters[rows], -1)),
        viewer=pl.col("user_id").replace_strict(viewers, default=len(viewers), return_dtype=pl.Int64),
    )
    history = history.filter(pl.col("cluster") >= 0)
    own, viewer = clusters[shown["row"].to_numpy()], shown["user_id"].replace_strict(viewers, return_dtype=pl.Int64).to_numpy()
    shares = np.ones(len(shown))
    for logger in shown["logger"].unique().to_list():
        part, at = history.filter(pl.col("logger") == logger), (shown["logger"] == logger).to_numpy()
        sizes = {"viewers": len(viewers) + 1, "clusters": int(clusters.max()) + 1}
        learned = logged_shares(part["viewer"].to_numpy(), part["cluster"].to_numpy(), **sizes)
        shares[at] = learned[viewer[at], own[at]]
    return shares
