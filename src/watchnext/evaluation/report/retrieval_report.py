"""Measure the recall of retrieval: by source and merged, beside baselines, by video age and viewer activity.

Relevant are the videos that a viewer watches for more than 0 ms from the first request of a day to the end of that day, if they
were uploaded before the request; the state uses the same definition of a watch. Long views are reported beside them. Recall is
the share of relevant videos in a list, averaged over the requests that have any.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import polars as pl

from watchnext import metrics
from watchnext.evaluation.replay.funnel_trace import FunnelTrace
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.features.catalogue import Ids
from watchnext.ranking.calibration.reliability import buckets

VIDEO_AGE_H = (24.0, 168.0)
WATCHES = (1.0, 5.0, 20.0)
LEARNED = "sources/two_tower"  # the other sources need no training and count as baselines
NOT_LISTED = np.iinfo(np.int64).max

Lists = Mapping[str, Sequence[np.ndarray]]  # name > rows of each of the N requests, best first
Slices = Mapping[str, Mapping[str, np.ndarray]]  # slice > value > (R,) bool, of the R videos watched after all requests


def retrieval_metrics(traces: Sequence[FunnelTrace], *, k: Sequence[int], popularity: np.ndarray, seed: int) -> dict:
    """Compute the report; {} if no request was traced.

    relevant  slice > value > number of watched videos
    merged, served, slate, sources/<name>, floors/<name>  `candidates` (mean number), recall by depth and slice, and over all
              requests the share of the catalogue listed (`coverage`), `gini` and `popularity_lift`; `floors` are the baselines
    gain      recall of `merged` minus that of the best list without a trained model, with its interval over viewers

    `popularity` (V,) is the number of watches of every video before the held-out days. Merged and single sources go beyond
    their quotas, to the largest of `k`. Served and slate have the length that a request gets; their recall is over all of it.
    """
    if not traces:
        return {}
    lists, slices = lists_of(traces), slices_of(traces)
    requests = np.repeat(np.arange(len(traces)), [len(trace.watched) for trace in traces])
    watched = [trace.watched for trace in traces]
    relevant = {name: {value: int(rows.sum()) for value, rows in values.items()} for name, values in slices.items()}
    report = {"relevant": relevant}
    shares: dict[str, dict[str, np.ndarray]] = {}
    for name, ranked in lists.items():
        at = np.concatenate([ranks(rows, wanted) for rows, wanted in zip(ranked, watched, strict=True)])
        depths = {"recall": NOT_LISTED} if name in ("served", "slate") else {f"recall@{depth}": depth for depth in k}
        hits = {label: at < depth for label, depth in depths.items()}
        shares[name] = {label: share(hit, requests, len(traces)) for label, hit in hits.items()}
        recall = {label: _by_slice(hit, requests, slices) for label, hit in hits.items()}
        report[name] = (
            {"candidates": float(np.mean([len(rows) for rows in ranked]))} | recall | bias(ranked, watched, popularity)
        )
    viewers = np.array([str(trace.user_id) for trace in traces])
    report["gain"] = {f"recall@{depth}": gain(shares, f"recall@{depth}", viewers, seed) for depth in k}
    return nested(report)


def popularity_of(impressions: pl.DataFrame, video_ids: Ids) -> np.ndarray:
    """Count the watches (V,) of every video in a log; videos outside the catalogue are left out."""
    rows = video_ids.rows_of(impressions.filter(pl.col("watch_ms") > 0)["video_id"])
    return np.bincount(rows[rows >= 0], minlength=len(video_ids.ids))


def popularity_before(log: HeldOutLog, video_ids: Ids) -> np.ndarray:
    """Count the watches (V,) of every video before the held-out days."""
    counts = np.zeros(len(video_ids.ids), np.int64)
    for part in log.parts():
        counts += popularity_of(part.impressions.filter(pl.Series(~part.held_out)), video_ids)
    return counts


def lists_of(traces: Sequence[FunnelTrace]) -> Lists:
    """Return every list of the report; the baselines are `floors/<name>`."""
    lists = {
        "merged": [trace.merged for trace in traces],
        "served": [trace.stages["retrieval"] for trace in traces],
        "slate": [trace.stages["slate"] for trace in traces],
    }
    for key, part in (("sources", "sources"), ("floors", "baselines")):
        parts = [getattr(trace, part) for trace in traces]
        names = dict.fromkeys(chain.from_iterable(parts))  # a source that failed for a request has no list
        lists |= {f"{key}/{name}": [each.get(name, np.zeros(0, np.int64)) for each in parts] for name in names}
    return lists


def ranks(ranked: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the rank (R,), from 0, of each of `wanted` (R,) in `ranked` (distinct rows, best first), or NOT_LISTED."""
    if not len(ranked):
        return np.full(len(wanted), NOT_LISTED)
    order = np.argsort(ranked)
    at = order[np.minimum(np.searchsorted(ranked, wanted, sorter=order), len(ranked) - 1)]
    return np.where(ranked[at] == wanted, at, NOT_LISTED)


def slices_of(traces: Sequence[FunnelTrace]) -> Slices:
    """Slice the watched videos; values without any video are included, in order."""
    long_view, age_h = (np.concatenate([getattr(trace, name) for trace in traces]) for name in ("long_view", "age_h"))
    watches = np.repeat([float(trace.watches) for trace in traces], [len(trace.watched) for trace in traces])
    return {
        "outcome": {"watched": np.ones(len(long_view), bool), "long_view": long_view},
        "video_age": _values(age_h, VIDEO_AGE_H, "h", unknown=True),
        "activity": _values(watches, WATCHES, "watches", unknown=False),
    }


def _values(values: np.ndarray, edges: Sequence[float], unit: str, *, unknown: bool) -> dict[str, np.ndarray]:
    names = buckets(np.array([-np.inf, *edges, *([np.nan] if unknown else [])]), edges, unit)
    labels = buckets(values, edges, unit)
    return {str(name): labels == name for name in names}


def share(hits: np.ndarray, requests: np.ndarray, count: int) -> np.ndarray:
    """Return the share (count,) of hits (R,) of each request, nan without any; `requests` (R,) is the request of each."""
    sizes = np.bincount(requests, minlength=count)
    return np.divide(np.bincount(requests, hits, count), sizes, out=np.full(count, np.nan), where=sizes > 0)


def _by_slice(hits: np.ndarray, requests: np.ndarray, slices: Slices) -> dict[str, dict[str, float]]:
    return {
        name: {value: _recall(hits[rows], requests[rows]) for value, rows in values.items()} for name, values in slices.items()
    }


def _recall(hits: np.ndarray, requests: np.ndarray) -> float:
    shares = share(hits, requests, int(requests.max(initial=-1)) + 1)
    shares = shares[np.isfinite(shares)]
    return float(shares.mean()) if len(shares) else float("nan")


def bias(ranked: Sequence[np.ndarray], watched: Sequence[np.ndarray], popularity: np.ndarray) -> dict[str, float]:
    """Measure over all requests how much of the catalogue a list covers, and how popular its videos are."""
    listed = np.concatenate(ranked)
    return {
        "coverage": metrics.coverage(listed, len(popularity)),
        "gini": metrics.gini(np.bincount(listed, minlength=len(popularity))),
        "popularity_lift": metrics.popularity_lift(ranked, watched, popularity),
    }


def gain(shares: Mapping[str, Mapping[str, np.ndarray]], depth: str, viewers: np.ndarray, seed: int) -> dict:
    """Compare the recall of `merged` with the best list without a trained model; 95% interval over viewers."""
    known = np.isfinite(shares["merged"][depth])
    if not known.any():
        return {}
    baselines = {name: by_depth[depth] for name, by_depth in shares.items() if "/" in name and name != LEARNED}
    strongest = max(baselines, key=lambda name: baselines[name][known].mean())
    differences = (shares["merged"][depth] - baselines[strongest])[known]
    low, high = metrics.interval(differences, seed=seed, viewers=viewers[known])
    return {"over": strongest, "mean": float(differences.mean()), "low": low, "high": high}


def nested(flat: Mapping[str, dict]) -> dict:
    """Turn a key such as "sources/popular" into ["sources"]["popular"]."""
    tree: dict = {}
    for name, entry in flat.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = entry
    return tree
