"""Policies of an experiment: a release, ablations of its funnel by settings alone, and later releases."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from watchnext.assignment import ExperimentError
from watchnext.reranking.rules.rule import Filter
from watchnext.reranking.slate import Exploration, Reranker
from watchnext.reranking.value import MERGE
from watchnext.serving.release.release import Release, release_in, releases_in
from watchnext.serving.release.surfaces import Surfaces

EPSILON = 0.15  # share of the slots of `exploring` that are drawn at random


def _unranked(release: Release) -> Release:
    reranker = _with(release.reranker, source=MERGE)
    return replace(release, ranker=None, engage=None, reranker=reranker, surfaces=Surfaces())


def _only(source: str) -> Callable[[Release], Release]:
    """Make the policy whose videos come from one source alone, in its order."""

    def ablated(release: Release) -> Release:
        merge = {**release.retrieval["merge"], "weights": {source: 1.0}}
        retrieval = {**release.retrieval, "quotas": {source: merge["most"]}, "merge": merge}
        return replace(_unranked(release), retrieval=retrieval)

    return ablated


def _with(reranker: Reranker, *, source: str) -> Reranker:
    value = replace(reranker.value, source=source)
    return Reranker(value=value, rules=reranker.rules, diversity=reranker.diversity, exploration=reranker.exploration)


def _undiversified(release: Release) -> Release:
    own = release.reranker
    rules = [rule for rule in own.rules if isinstance(rule, Filter)]
    diversity = replace(own.diversity, trade_off=1.0)
    reranker = Reranker(value=own.value, rules=rules, diversity=diversity, exploration=own.exploration)
    return replace(release, reranker=reranker, surfaces=Surfaces())


def _exploring(release: Release) -> Release:
    own = release.reranker
    reranker = Reranker(value=own.value, rules=own.rules, diversity=own.diversity, exploration=Exploration(epsilon=EPSILON))
    return replace(release, reranker=reranker, surfaces=Surfaces())


def _full(release: Release) -> Release:
    return release


# Name > the policy made of a release. All keep the filters of re-ranking.
ABLATIONS: Mapping[str, Callable[[Release], Release]] = {
    "full": _full,  # the release as it would serve
    "exploring": _exploring,  # the release with more of its slots drawn at random
    "no_diversity": _undiversified,  # by value alone, without soft rules
    "unranked": _unranked,  # all sources, in the order of the merge
    "two_tower_only": _only("two_tower"),  # the nearest videos, unranked
    "trending": _only("trending"),  # by surface and region, unranked
    "popular": _only("popular"),  # of the whole log
    "popular_now": _only("popular_now"),  # of the last hours
}


def policy_named(name: str, release: Release, root: Path) -> Release:
    """Return the release that answers under a policy: an ablation of `release`, or another one of the folder `root`.

    Raises ExperimentError for an unknown name.
    """
    if name in ABLATIONS:
        return ABLATIONS[name](release)
    if name in (known := releases_in(root)):
        return Release.load(release_in(root, name))
    raise ExperimentError(
        f"policy {name!r} is unknown, expected one of {', '.join(ABLATIONS)}, or a release of {root}: "
        f"{', '.join(known) or 'none'}"
    )
