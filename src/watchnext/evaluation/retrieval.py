"""How much of what viewers watch retrieval finds: by source and merged, beside the floors, by video age and viewer activity.

Watched is what played for more than 0 ms, from a viewer's first request of a day to the end of that day, of the videos that
existed at the request: what the state, too, keeps as a watch. Of it, what was watched long stands beside it. Recall is a
request's share of it, averaged over the requests that have any.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import polars as pl

from watchnext import metrics
from watchnext.evaluation.funnel import Funnel
from watchnext.features.catalogue import Ids
from watchnext.ranking.calibration.reliability import buckets

VIDEO_AGE_H = (24.0, 168.0)
WATCHES = (1.0, 5.0, 20.0)
LEARNED = "sources/two_tower"  # the other sources need no training and count among the floors
NOWHERE = np.iinfo(np.int64).max

Lists = Mapping[str, Sequence[np.ndarray]]  # name > rows of each of the N requests, best first
Slices = Mapping[str, Mapping[str, np.ndarray]]  # slice > value > (R,) bool, of the R videos watched after all requests


def retrieval_metrics(funnels: Sequence[Funnel], *, k: Sequence[int], popularity: np.ndarray, seed: int) -> dict:
    """The report; {} if no request was followed.

    relevant  slice > value > number of watched videos
    merged, served, slate, sources/<name>, floors/<name>  `candidates` (their mean number), recall by depth and slice, and over
              all requests the share of the catalogue named (`coverage`), `gini` and `popularity_lift`
    gain      recall of `merged` minus that of the best list without a trained model, with its interval over viewers

    `popularity` (V,) is the watches of every video before the held-out days. Merged and single sources are asked for more than
    their quotas, as deep as `k` looks. Served and slate are as long as a request gets them: their recall is that of all.
    """
    if not funnels:
        return {}
    lists, slices = lists_of(funnels), slices_of(funnels)
    requests = np.repeat(np.arange(len(funnels)), [len(funnel.watched) for funnel in funnels])
    watched = [funnel.watched for funnel in funnels]
    found = {"relevant": {name: {value: int(rows.sum()) for value, rows in of.items()} for name, of in slices.items()}}
    shares: dict[str, dict[str, np.ndarray]] = {}
    for name, ranked in lists.items():
        at = np.concatenate([places(rows, wanted) for rows, wanted in zip(ranked, watched, strict=True)])
        depths = {"recall": NOWHERE} if name in ("served", "slate") else {f"recall@{depth}": depth for depth in k}
        hits = {label: at < depth for label, depth in depths.items()}
        shares[name] = {label: share(hit, requests, len(funnels)) for label, hit in hits.items()}
        recall = {label: _by_slice(hit, requests, slices) for label, hit in hits.items()}
        found[name] = (
            {"candidates": float(np.mean([len(rows) for rows in ranked]))} | recall | bias(ranked, watched, popularity)
        )
    viewers = np.array([str(funnel.user_id) for funnel in funnels])
    found["gain"] = {f"recall@{depth}": gain(shares, f"recall@{depth}", viewers, seed) for depth in k}
    return nested(found)


def popularity_of(impressions: pl.DataFrame, video_ids: Ids) -> np.ndarray:
    """(V,) watches of every video in a log; videos that are not in the catalogue count nowhere."""
    rows = video_ids.rows_of(impressions.filter(pl.col("watch_ms") > 0)["video_id"])
    return np.bincount(rows[rows >= 0], minlength=len(video_ids.ids))


def lists_of(funnels: Sequence[Funnel]) -> Lists:
    lists = {
        "merged": [funnel.merged for funnel in funnels],
        "served": [funnel.stages["retrieval"] for funnel in funnels],
        "slate": [funnel.stages["slate"] for funnel in funnels],
    }
    for part in ("sources", "floors"):
        of = [getattr(funnel, part) for funnel in funnels]
        names = dict.fromkeys(chain.from_iterable(of))  # a source that failed for a request named nothing
        lists |= {f"{part}/{name}": [each.get(name, np.zeros(0, np.int64)) for each in of] for name in names}
    return lists


def places(ranked: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(R,) place from 0 of each of `wanted` (R,) in `ranked` (distinct rows, best first); NOWHERE if it is not there."""
    if not len(ranked):
        return np.full(len(wanted), NOWHERE)
    order = np.argsort(ranked)
    at = order[np.minimum(np.searchsorted(ranked, wanted, sorter=order), len(ranked) - 1)]
    return np.where(ranked[at] == wanted, at, NOWHERE)


def slices_of(funnels: Sequence[Funnel]) -> Slices:
    """A value that nothing has is there too, in order."""
    long_view, age_h = (np.concatenate([getattr(f, name) for f in funnels]) for name in ("long_view", "age_h"))
    watches = np.repeat([float(f.watches) for f in funnels], [len(f.watched) for f in funnels])
    return {
        "outcome": {"watched": np.ones(len(long_view), bool), "long_view": long_view},
        "video_age": _values(age_h, VIDEO_AGE_H, "h", unknown=True),
        "activity": _values(watches, WATCHES, "watches", unknown=False),
    }


def _values(values: np.ndarray, edges: Sequence[float], unit: str, *, unknown: bool) -> dict[str, np.ndarray]:
    names = buckets(np.array([-np.inf, *edges, *([np.nan] if unknown else [])]), edges, unit)
    of = buckets(values, edges, unit)
    return {str(name): of == name for name in names}


def share(hits: np.ndarray, requests: np.ndarray, count: int) -> np.ndarray:
    """(count,) share of hits (R,) of each request, nan where it has none; `requests` (R,) says whose each is."""
    sizes = np.bincount(requests, minlength=count)
    return np.divide(np.bincount(requests, hits, count), sizes, out=np.full(count, np.nan), where=sizes > 0)


def _by_slice(hits: np.ndarray, requests: np.ndarray, slices: Slices) -> dict[str, dict[str, float]]:
    return {name: {value: _recall(hits[rows], requests[rows]) for value, rows in of.items()} for name, of in slices.items()}


def _recall(hits: np.ndarray, requests: np.ndarray) -> float:
    shares = share(hits, requests, int(requests.max(initial=-1)) + 1)
    shares = shares[np.isfinite(shares)]
    return float(shares.mean()) if len(shares) else float("nan")


def bias(ranked: Sequence[np.ndarray], watched: Sequence[np.ndarray], popularity: np.ndarray) -> dict[str, float]:
    """What a list shows of the catalogue, over all requests."""
    named = np.concatenate(ranked)
    return {
        "coverage": metrics.coverage(named, len(popularity)),
        "gini": metrics.gini(np.bincount(named, minlength=len(popularity))),
        "popularity_lift": metrics.popularity_lift(ranked, watched, popularity),
    }


def gain(shares: Mapping[str, Mapping[str, np.ndarray]], depth: str, viewers: np.ndarray, seed: int) -> dict:
    """Of `merged` over the best list that no model was trained for, floor or source; 95% over viewers."""
    known = np.isfinite(shares["merged"][depth])
    if not known.any():
        return {}
    floors = {name: of[depth] for name, of in shares.items() if "/" in name and name != LEARNED}
    strongest = max(floors, key=lambda name: floors[name][known].mean())
    differences = (shares["merged"][depth] - floors[strongest])[known]
    low, high = metrics.interval(differences, seed=seed, viewers=viewers[known])
    return {"over": strongest, "mean": float(differences.mean()), "low": low, "high": high}


def nested(found: Mapping[str, dict]) -> dict:
    """ "sources/popular" as ["sources"]["popular"]."""
    tree: dict = {}
    for name, entry in found.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = entry
    return tree
