"""Attribute every held-out watch to the stage, source and rule that lost it, by slice."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from watchnext.evaluation.replay.funnel_trace import FunnelTrace
from watchnext.evaluation.report.retrieval_report import slices_of
from watchnext.serving.funnel.explanation.trace import LOST_AT
from watchnext.types import SOURCES

# Where a watch ends, in the order of the funnel; the last is not a loss.
REASONS = {
    "barred": "a rule or the request keeps it from the sources",
    "no source": "no source lists it, however deep it is asked",
    "beyond quota": "a source lists it, but beyond its quota",
    "merge": "a source proposed it, but the merge cut it",
    "filters": "a rule removed the candidate",
    "ranking": "ranked below the slate",
    "cap": "ranked high enough, but held back by a cap",
    "diversity": "ranked high enough, but pushed out by diversity or exploration",
    "shown": "in the slate",
}
RANKS = {"rank 50 or better": 50, "51 to 100": 100, "101 to 200": 200, "201 and worse": np.inf}


def loss_report(traces: Sequence[FunnelTrace]) -> dict:
    """Compute the shares of watched videos that end at each of REASONS; {} if no watch was traced.

    slices   slice > value > `watches` (their number), and reason > share of them
    rules    rule > reason > share of all watches that it barred, removed or held back
    sources  source > share of all watches: `proposed` within its quota, `beyond quota`, `missed`, and `alone` where it is the
             only one that proposed it
    ranks    reason "ranking" by rank after ranking > share of all watches

    All but the slices count videos watched for more than 0 s.
    """
    if not sum(len(trace.watched) for trace in traces):
        return {}
    ends = np.concatenate([reasons(trace) for trace in traces])
    surfaces = np.repeat([trace.surface or "none" for trace in traces], [len(trace.watched) for trace in traces])
    slices = {**slices_of(traces), "surface": {str(name): surfaces == name for name in np.unique(surfaces)}}
    return {
        "slices": {name: {value: _shares(ends[rows]) for value, rows in values.items()} for name, values in slices.items()},
        "rules": _by_rule(ends, [rule for trace in traces for rule in trace.ways.rules]),
        "sources": _by_source(traces),
        "ranks": _by_rank(ends, np.concatenate([trace.ways.value_ranks for trace in traces])),
    }


def reasons(trace: FunnelTrace) -> np.ndarray:
    """Return the index into REASONS (R,) of each video that the viewer of a request watched."""
    names, ways = list(REASONS), trace.ways
    ruled = np.array([rule is not None for rule in ways.rules], bool)
    missed, reranked = ways.ends == LOST_AT.index("retrieval"), ways.ends == LOST_AT.index("re-ranking")
    conditions = {
        "barred": missed & ruled,
        "merge": missed & trace.proposed.any(axis=1),
        "beyond quota": missed & (trace.listed > 0).any(axis=1),
        "no source": missed,
        "filters": ways.ends == LOST_AT.index("filters"),
        "ranking": ways.ends == LOST_AT.index("ranking"),
        "cap": reranked & ruled,
        "diversity": reranked,
    }
    return np.select(list(conditions.values()), [names.index(name) for name in conditions], names.index("shown"))


def survivors(shares: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return step of the funnel > share of watches that reach it, of one slice of `loss_report`; None without watches.

    >>> [round(share, 1) for share in survivors(dict.fromkeys(REASONS, 1 / 9) | {"watches": 9}).values()]
    [1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.1]
    """
    steps = {
        "watched later": (),
        "allowed by the rules": ("barred",),
        "listed by a source": ("no source",),
        "within a quota": ("beyond quota",),
        "retrieved": ("merge",),
        "not filtered": ("filters",),
        "ranked high enough": ("ranking",),
        "shown": ("cap", "diversity"),
    }
    if not shares["watches"]:
        return dict.fromkeys(steps)
    left, reached = 1.0, {}
    for step, lost in steps.items():
        left -= sum(shares[reason] for reason in lost)
        reached[step] = max(left, 0.0)
    return reached


def loss_rows(report: Mapping) -> list[dict]:
    """Return the shares by slice as rows, for `dvc plots`."""
    return [
        {"slice": f"{part}: {value}", "reason": reason, "share": each[reason]}
        for part, values in report.get("slices", {}).items()
        for value, each in values.items()
        for reason in REASONS
        if each["watches"]
    ]


def _shares(ends: np.ndarray) -> dict[str, float]:
    counts = np.bincount(ends, minlength=len(REASONS))
    shares = counts / len(ends) if len(ends) else np.full(len(REASONS), np.nan)
    return {"watches": len(ends), **dict(zip(REASONS, shares.tolist(), strict=True))}


def _by_rule(ends: np.ndarray, rules: Sequence[str | None]) -> dict[str, dict[str, float]]:
    names = list(REASONS)
    counts = Counter((rule, names[end]) for rule, end in zip(rules, ends.tolist(), strict=True) if rule is not None)
    report: dict[str, dict[str, float]] = {}
    for (rule, reason), count in sorted(counts.items()):
        report.setdefault(rule, {})[reason] = count / len(ends)
    return report


def _by_source(traces: Sequence[FunnelTrace]) -> dict[str, dict[str, float]]:
    listed, proposed = (np.concatenate([getattr(trace, name) for trace in traces]) for name in ("listed", "proposed"))
    alone = proposed.sum(axis=1) == 1
    report = {}
    for column, name in enumerate(SOURCES):
        within, anywhere = proposed[:, column], proposed[:, column] | (listed[:, column] > 0)
        report[name] = {
            "proposed": float(within.mean()),
            "beyond quota": float((anywhere & ~within).mean()),
            "missed": float((~anywhere).mean()),
            "alone": float((within & alone).mean()),
        }
    return report


def _by_rank(ends: np.ndarray, value_ranks: np.ndarray) -> dict[str, float]:
    below = value_ranks[ends == list(REASONS).index("ranking")]
    counts = np.bincount(np.searchsorted(list(RANKS.values()), below), minlength=len(RANKS))
    return dict(zip(RANKS, (counts / len(ends)).tolist(), strict=True))
