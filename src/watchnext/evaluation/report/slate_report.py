"""Measure slates request by request, so that means have intervals over viewers and two releases can be compared in pairs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from watchnext import metrics
from watchnext.evaluation.replay.funnel_trace import FunnelTrace
from watchnext.features.catalogue import Catalogue
from watchnext.features.state.fold import HOUR_MS

FRESH_H = 24.0
EXPECTED = "popular"  # the baseline whose videos surprise nobody
Slates = Sequence[np.ndarray]  # video rows of each request, best first


def slate_columns(
    traces: Sequence[FunnelTrace],
    slates: Slates,
    relevant: Slates,
    *,
    facts: Catalogue,
    popularity: np.ndarray,
    k: int,
) -> dict[str, np.ndarray]:
    """Measure the first `k` of each of B slates: figure > (B,), nan where a request has none.

    recall@k, ndcg@k, map@k, mrr@k  as in `metrics.list_figures`, of the videos `relevant`; a row beyond the catalogue is of a
                         video that it lacks
    serendipity          share of slots that are relevant and not in the baseline EXPECTED
    novelty_bits         as in `metrics.novelty`; `popularity` (V,) counts watches before the held-out days
    intra_list_distance  as in `metrics.intra_list_distance`, of content vectors
    popularity_lift      mean popularity over that of all that viewers watched, minus 1, as in `metrics.popularity_lift`
    fresh                share of videos younger than FRESH_H
    duplicates           slots that repeat a video or a copy of one
    """
    shown = [rows[:k] for rows in slates]
    expected = [trace.baselines[EXPECTED][:k] for trace in traces]
    watched = metrics.mean_defined(metrics.list_means([trace.watched for trace in traces], popularity))
    upload_ms = np.array(facts.upload_ms)
    ages = [(trace.as_of_ms - upload_ms[rows]) / HOUR_MS for trace, rows in zip(traces, shown, strict=True)]
    lift = metrics.list_means(shown, popularity) / watched - 1 if watched else np.full(len(traces), np.nan)
    return {
        **{f"{name}@{k}": figures for name, figures in metrics.list_figures(shown, relevant, k).items()},
        "serendipity": metrics.serendipity(shown, relevant, expected, k),
        "novelty_bits": metrics.novelty(shown, popularity),
        "intra_list_distance": metrics.intra_list_distance(shown, facts.vectors),
        "popularity_lift": lift,
        "fresh": metrics.freshness(ages, FRESH_H),
        "duplicates": metrics.duplicates(shown, facts.fingerprints).astype(np.float64),
    }


def whole_figures(slates: Slates, facts: Catalogue) -> dict[str, float]:
    """Measure all slates together: the share of the catalogue that they cover, and the Gini index of videos and of creators.

    They have no interval: each moves with the number of requests.
    """
    rows = np.concatenate([np.zeros(0, np.int64), *slates])
    return {
        "coverage": metrics.coverage(rows, len(facts)),
        "gini": metrics.gini(np.bincount(rows, minlength=len(facts))),
        "creator_gini": metrics.creator_gini(slates, facts.creator_rows),
    }


def with_intervals(
    columns: Mapping[str, np.ndarray], viewers: np.ndarray, seed: int, *, weights: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Return figure > `mean`, and `low` and `high` of its 95% interval over viewers (B,); `weights` (B,) weigh the mean."""
    values = np.stack([*columns.values()], axis=1)
    low, high = metrics.intervals(values, seed=seed, viewers=viewers, weights=weights)
    known = ~np.isnan(values) * (1.0 if weights is None else weights[:, None])
    means = metrics.divided((np.nan_to_num(values) * known).sum(axis=0), known.sum(axis=0))
    return {name: {"mean": float(means[at]), "low": float(low[at]), "high": float(high[at])} for at, name in enumerate(columns)}


def viewers_of(traces: Sequence[FunnelTrace]) -> np.ndarray:
    return np.array([str(trace.user_id) for trace in traces])


def broken_rules(traces: Sequence[FunnelTrace], part: str = "broken") -> dict[str, int]:
    """Return rule > number of slots that break it, over all slates; `part` is a field of `Broken`."""
    total = Counter()
    for trace in traces:
        total.update(getattr(trace.rules, part))
    return dict(total)


def mean_costs(traces: Sequence[FunnelTrace]) -> dict[str, float]:
    """Return rule, "diversity" and "exploration" > value that a slate loses by it on average, of the slates that have costs."""
    known = [trace.costs for trace in traces if trace.costs]
    return {name: float(np.mean([each.get(name, 0.0) for each in known])) for name in dict.fromkeys(chain(*known))}


def slate_report(traces: Sequence[FunnelTrace], *, facts: Catalogue, popularity: np.ndarray, k: int, seed: int) -> dict:
    """Report the served slates; {} if no request was traced.

    figures  as in `slate_columns`, each with its interval
    whole    as in `whole_figures`
    broken, bent  as in `broken_rules`: `bent` are slots that a soft rule could not keep, which the slate names
    costs    as in `mean_costs`
    gain     baseline > recall@k of the slate minus that of the baseline, with its interval
    """
    if not traces:
        return {}
    settings = {"facts": facts, "popularity": popularity, "k": k}
    slates = [trace.stages["slate"] for trace in traces]
    relevant, viewers, recall = [trace.relevant for trace in traces], viewers_of(traces), f"recall@{k}"
    columns = slate_columns(traces, slates, relevant, **settings)
    gains = {
        name: columns[recall] - metrics.list_figures([trace.baselines[name] for trace in traces], relevant, k)["recall"]
        for name in traces[0].baselines
    }
    return {
        "k": k,
        "figures": with_intervals(columns, viewers, seed),
        "whole": whole_figures(slates, facts),
        "broken": broken_rules(traces),
        "bent": broken_rules(traces, "bent"),
        "costs": mean_costs(traces),
        "gain": with_intervals(gains, viewers, seed),
    }
