"""Replay two releases, or a release and the log of an incumbent, and compare them on the same held-out requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext import metrics
from watchnext.data.tables import DataError
from watchnext.evaluation.comparison.paired import areas_apart, noise_floors, paired
from watchnext.evaluation.replay.funnel_trace import FunnelTrace
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Given, Replay, ReplayResult
from watchnext.evaluation.report.ranking_report import PROBABILITIES
from watchnext.evaluation.report.retrieval_report import popularity_before
from watchnext.evaluation.report.slate_report import broken_rules, slate_columns, viewers_of, whole_figures
from watchnext.serving.release.release import Release

ORDERED = ("ndcg", "map", "mrr")  # figures of an order of given videos


@dataclass(frozen=True)
class Replayed:
    """A release after its replay; `popularity` (V,) counts the watches of its videos before the held-out days."""

    release: Release
    result: ReplayResult
    popularity: np.ndarray

    @classmethod
    def of(
        cls,
        release: Release,
        log: HeldOutLog,
        *,
        regime: str,
        slate: int,
        requests: int,
        given: Given,
        traced_only: bool = False,
    ) -> "Replayed":
        """Replay the held-out days beside the videos `given` by another recommender; with `traced_only`, slates alone.

        Raises ReleaseError if the release knows them already.
        """
        log.require_unseen(release)
        replay = Replay(release=release, regime=regime, slate=slate, requests=requests, depth=slate)
        result = replay.run(log, given, traced_only=traced_only)
        return cls(release, result, popularity_before(log, release.video_ids))

    @property
    def traces(self) -> list[FunnelTrace]:
        return self.result.traces

    def columns(self, slates: Sequence[np.ndarray], relevant: Sequence[np.ndarray], k: int) -> dict[str, np.ndarray]:
        """Measure slates of this release's video rows for its traces."""
        return slate_columns(self.traces, slates, relevant, facts=self.release.catalogue, popularity=self.popularity, k=k)

    def columns_beside(self, other: "Replayed", k: int, stage: str = "slate") -> dict[str, np.ndarray]:
        """Measure the slates of this release by the videos that either catalogue knows."""
        return self.columns(self.stage(stage), self.relevant_beside(other), k)

    def stage(self, name: str) -> list[np.ndarray]:
        return [trace.stages[name] for trace in self.traces]

    def relevant_beside(self, other: "Replayed") -> list[np.ndarray]:
        """Return the relevant rows of each request that either catalogue knows; those that this one lacks get rows beyond."""
        size, joined = len(self.release.catalogue), []
        for own, theirs in zip(self.traces, other.traces, strict=True):
            rows = self.release.video_ids.rows([other.release.video_ids.value(row) for row in theirs.relevant.tolist()])
            unknown = size + np.arange(np.count_nonzero(rows < 0))
            joined.append(np.unique(np.concatenate([own.relevant, rows[rows >= 0], unknown])))
        return joined


def compare_releases(
    one: Replayed,
    other: Replayed,
    targets: np.ndarray,
    users: np.ndarray,
    *,
    k: int,
    seed: int,
    retrained: Replayed | None = None,
) -> dict:
    """Compare two releases that were replayed on the same log; `targets` (N, T) and `users` (N,) are of its held-out rows.

    `retrained` is the first release as built with another seed: what moves between the two is noise of training.

    floor    of what it knows: "exploration", and "retraining" where `retrained` is given
    slate    figure > as `paired`, of served slates; the floor is the release's difference to itself
    whole    figure > [one, other] of all slates together, without an interval
    broken   [one, other]: rule > slots that break it
    ranking  target > `gauc` and `logloss` as `paired`, of the impressions that both releases score
    """
    return {
        "requests": len(one.traces),
        "floor": ["exploration", "retraining"][: 1 if retrained is None else 2],
        "slate": compare_slates(one, other, k=k, seed=seed, retrained=retrained),
        "whole": _both({name: whole_figures(each.stage("slate"), each.release.catalogue) for name, each in _named(one, other)}),
        "broken": [broken_rules(one.traces), broken_rules(other.traces)],
        "ranking": _ranking(one.result.scores, other.result.scores, targets, users, seed),
    }


def compare_slates(one: Replayed, other: Replayed, *, k: int, seed: int, retrained: Replayed | None = None) -> dict:
    """Return figure > as `paired`, of the served slates, as in `compare_releases`."""
    viewers, against = viewers_of(one.traces), other.columns_beside(one, k)
    served, redrawn = (one.columns_beside(other, k, name) for name in ("slate", "redrawn"))
    again = [redrawn] if retrained is None else [redrawn, retrained.columns_beside(other, k)]
    return paired(served, against, viewers, seed=seed, floors=noise_floors(served, again, viewers, seed))


def _named(one: Replayed, other: Replayed) -> tuple[tuple[str, Replayed], ...]:
    return ("one", one), ("other", other)


def _both(figures: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    one, other = figures.values()
    return {name: [one[name], other[name]] for name in one}


def _ranking(one: np.ndarray, other: np.ndarray, targets: np.ndarray, users: np.ndarray, seed: int) -> dict:
    scored = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    one, other, targets, users = one[scored], other[scored], targets[scored], users[scored]
    report = {}
    for column, name in enumerate(PROBABILITIES):
        labels = targets[:, column]
        areas, viewers, positives = areas_apart(labels, (one[:, column], other[:, column]), users)
        if not len(viewers):
            continue
        gauc = paired({"gauc": areas[0]}, {"gauc": areas[1]}, viewers, seed=seed, floors={}, weights=positives)
        losses = ({"logloss": metrics.log_losses(labels, each[:, column])} for each in (one, other))
        report[name] = gauc | paired(*losses, users, seed=seed, floors={})
    return report


def compare_incumbent(one: Replayed, *, k: int, seed: int) -> dict:
    """Compare a release with the videos that an incumbent gave the same viewers on the same days.

    Each request counts as many slots of the slate as the incumbent filled, at most `k`.

    requests  number of requests for which the incumbent's log has a video
    unknown   share of the incumbent's videos that the catalogue lacks; they stand in no slate
    slate, whole, broken   as in `compare_releases`; recall is of what the incumbent showed, which favours it
    order     figure > as `paired`: the incumbent's own videos in its order, and as the release ranks them

    Raises DataError if the log has no video for any request.
    """
    matched = [at for at, given in enumerate(one.stage("given")) if len(given)]
    if not matched:
        raise DataError(
            "the incumbent's log has no impression of a held-out viewer and day; expected a log of the same days with the same "
            "user ids"
        )
    traces = [one.traces[at] for at in matched]
    one = Replayed(one.release, ReplayResult(one.result.scores, traces, one.result.groups), one.popularity)
    viewers, relevant = viewers_of(traces), [trace.relevant for trace in traces]
    everything = [trace.stages["given"][:k] for trace in traces]
    given = [rows[rows >= 0] for rows in everything]
    slates, redrawn = (
        [rows[: len(own)] for rows, own in zip(one.stage(name), everything, strict=True)] for name in ("slate", "redrawn")
    )
    served, again, theirs = (one.columns(each, relevant, k) for each in (slates, redrawn, given))
    facts = one.release.catalogue
    return {
        "requests": len(traces),
        "slots": float(np.mean([len(rows) for rows in everything])),
        "unknown": float(np.mean(np.concatenate(everything) < 0)),
        "slate": paired(served, theirs, viewers, seed=seed, floors=noise_floors(served, [again], viewers, seed)),
        "whole": _both({"one": whole_figures(slates, facts), "incumbent": whole_figures(given, facts)}),
        "broken": [broken_rules(traces), {}],
        "order": _order(one, viewers, k, seed),
    }


def _order(one: Replayed, viewers: np.ndarray, k: int, seed: int) -> dict:
    """Compare two orders of the incumbent's videos: as the release ranks them, and as the incumbent showed them."""
    shown = [rows[rows >= 0] for rows in one.stage("given")]
    relevant = [np.intersect1d(trace.relevant, rows) for trace, rows in zip(one.traces, shown, strict=True)]
    ours, theirs = (metrics.list_figures(each, relevant, k) for each in (one.stage("reordered"), shown))
    return paired(
        {name: ours[name] for name in ORDERED}, {name: theirs[name] for name in ORDERED}, viewers, seed=seed, floors={}
    )
