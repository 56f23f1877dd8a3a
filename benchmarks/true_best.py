"""Measure how many of the truly best videos the ranker finds: `python -m benchmarks.true_best [--requests 500]`.

It needs the sample after `dvc repro`. Requests of the test day are replayed on streaming state. For each, 500 candidates are
taken in two ways: those of retrieval, and a uniform draw of uploaded videos that the viewer has not watched. `World.truth`
gives the probability of a long view of each, if it is examined, and its expected seconds, which no log shows. `share` is the
share of the true best 10 by long views among a ranking's first 10, mean over requests with twice the standard error;
`long_view` and `watch_s` are the truth of these first 10, mean over requests. Beside them `recall` is what a log can count:
the share of the videos that the viewer viewed long afterwards on that day (watched, if none was) among the first 10.

Rankings of any candidates: the release's long-view head, its value of an impression, the order of retrieval, and baselines:
long-view rates of videos as they are known, long views with their half-lives, and chance. Rankings of retrieved candidates
alone:

    engage   how likely a watch is, by the trees that stage `selection` fitted; `value x engage` multiplies the value by a power
    served   the order that the release serves, which `selection` chose
    slate    the first 10 of the slate made of it
    before   the value of an impression, with nothing chosen on this log: 500 candidates by the weights of conf/retrieval

The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from watchnext import metrics
from watchnext.cli import composed, exits_on, instantiate, plain
from watchnext.data.storage import StoredTables
from watchnext.evaluation.replay.baselines import Baselines
from watchnext.evaluation.replay.funnel_trace import distinct_watches
from watchnext.evaluation.replay.held_out_log import HeldOutLog, LogPart
from watchnext.evaluation.replay.replay import Replay
from watchnext.evaluation.selection.selection import HeldOut, Merged, Selection
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import PRIOR
from watchnext.retrieval.sources.merge import ranks_in
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.simulator.world import World
from watchnext.types import TARGETS, Request, Scored

CANDIDATES, BEST, SLATE = 500, 10, 20
POWERS = (0.25, 1.0, 4.0)  # of engage
LONG_VIEW = TARGETS.index("long_view")
Rankings = dict[str, np.ndarray]


def among_best(values: np.ndarray) -> np.ndarray:
    """Return the probability (C,) of each to be among the BEST highest `values` (C,): 1 or 0, except for ties."""
    return metrics.worth_of_ranks(values, np.zeros(len(values), np.int64), lambda ranks: ranks < BEST)


def among_first(score: np.ndarray, long_view: np.ndarray, watch_s: np.ndarray) -> tuple[float, float, float]:
    """Evaluate a ranking against the truth (C,) of its candidates: the share of the BEST by long views, mean long views and
    mean seconds among its first BEST, in expectation over the order of ties."""
    first = among_best(score)
    return tuple(float(np.average(truth, weights=first)) for truth in (among_best(long_view), long_view, watch_s))


def recalled(score: np.ndarray, rows: np.ndarray, relevant: np.ndarray) -> float:
    """Compute the share of the videos `relevant` (R,) among the first BEST of the candidates `rows` (C,); nan of none."""
    return float(among_best(score)[np.isin(rows, relevant)].sum() / len(relevant)) if len(relevant) else float("nan")


def summary(samples: list[tuple[float, float, float, float]]) -> dict[str, float | list[float]]:
    shares, long_view, watch_s, recall = np.array(samples).T
    return {"share": [float(shares.mean()), 2 * float(shares.std()) / len(shares) ** 0.5],
            "long_view": float(long_view.mean()), "watch_s": float(watch_s.mean()),
            "recall": float(np.nanmean(recall)) if np.isfinite(recall).any() else float("nan")}  # fmt: skip


def rates(recommender: Recommender, rows: np.ndarray) -> np.ndarray:
    """Return the smoothed long-view rate (C,) of the videos as they are known, by the longest half-life."""
    state = recommender.release.pipeline.schema.state
    slowest = len(state.half_lives_h)
    shown, long = (1 + state.counts.index(name) * slowest + slowest - 1 for name in ("impression", "long_view"))
    videos = recommender.store.videos
    mean = videos[:, long].sum() / videos[:, shown].sum()
    return (videos[rows, long] + PRIOR * mean) / (videos[rows, shown] + PRIOR)


class Measurement:
    """Rank the candidates of requests in every way, and compare each ranking with the truth of a world.

    start  the merge before anything was chosen on the log
    """

    def __init__(self, recommender: Recommender, world: World, selection: Selection, start: Mapping) -> None:
        self.recommender, self.world = recommender, world
        self._merges = {"chosen": selection.merge, "before": start}
        self._engage, self._value = selection.trees, recommender.release.reranker.value
        self._baselines = Baselines(recommender.release, recommender.store, depth=len(recommender.release.catalogue))
        self.samples: dict[str, dict[str, list]] = {"retrieved": {}, "drawn": {}}

    def add(self, request: Request, watched: np.ndarray, long_view: np.ndarray) -> None:
        """Measure a request whose viewer watched the videos `watched` (R,) afterwards, those of the mask `long_view` long."""
        lists = self._baselines.rank(request)
        held = self._held_out(request, watched, long_view)
        chosen, before = (Merged.of(held, merge).scored(self._engage) for merge in self._merges.values())
        drawn = lists["random"][:CANDIDATES]
        predictions = self.recommender.score(request, drawn)
        self._sample("retrieved", request, chosen.candidates.rows, self._served(held, chosen), held.relevant)
        self._sample(
            "retrieved", request, before.candidates.rows, {"before": self._value.of(before.predictions)}, held.relevant
        )
        for way, rows, found in (("retrieved", chosen.candidates.rows, chosen.predictions), ("drawn", drawn, predictions)):
            self._sample(way, request, rows, self._rankings(rows, found, lists), held.relevant)

    def _held_out(self, request: Request, watched: np.ndarray, long_view: np.ndarray) -> HeldOut:
        query = self.recommender.query(request)
        rows, ranks = ranks_in(self.recommender.retrieval.by_source(query, []))
        inputs = self.recommender.ranking.encode(query, rows)
        predictions = self.recommender.ranking.predict(query, inputs)
        return HeldOut(
            query, watched, long_view, np.ones(len(watched)), {}, rows, ranks, inputs["candidate_values"], predictions
        )

    def _sample(self, way: str, request: Request, rows: np.ndarray, rankings: Rankings, relevant: np.ndarray) -> None:
        viewer = self.recommender.release.user_ids.rows([request.user_id])
        truth = self.world.truth(viewer, rows, np.array([request.as_of_ms]))
        known = truth.probability["long_view"], truth.watch_ms / 1000.0
        for name, score in rankings.items():
            sample = (*among_first(score, *known), recalled(score, rows, relevant))
            self.samples[way].setdefault(name, []).append(sample)

    def _served(self, held: HeldOut, scored: Scored) -> Rankings:
        """Score retrieved candidates (C,) as the release orders them, as its slate does, and by `engage` if there is one."""
        picked = self.recommender.rerank(held.query, scored).picked
        slate = np.zeros(len(scored))
        slate[picked] = len(picked) - np.arange(len(picked))
        orders = {"served": self._value.order(scored), "slate": slate}
        if scored.engage is None:
            return orders
        powers = {f"value x engage {power:g}": replace(self._value, engage=power, source=None) for power in POWERS}
        return orders | {"engage": scored.engage} | {name: value.order(scored) for name, value in powers.items()}

    def _rankings(self, rows: np.ndarray, predictions: np.ndarray, baselines: Rankings) -> Rankings:
        """Score the candidates `rows` (C,) per ranking. Videos that a baseline omits rank behind all it lists."""
        scores = {
            "ranker": predictions[:, LONG_VIEW],
            "value": self._value.of(predictions),
            "retrieval": -np.arange(len(rows)),
            "video_rate": rates(self.recommender, rows),
        }
        for name, listed in baselines.items():
            rank = np.full(len(self.recommender.release.catalogue), len(self.recommender.release.catalogue))
            rank[listed] = np.arange(len(listed))
            scores[name] = -rank[rows]
        return scores

    @property
    def figures(self) -> dict[str, dict[str, dict]]:
        """Candidates > ranking > figures."""
        return {way: {name: summary(each) for name, each in rankings.items()} for way, rankings in self.samples.items()}


class Afterwards:
    """Tell what a viewer watched on the test days from a time on."""

    def __init__(self, release: Release, log: HeldOutLog) -> None:
        self._upload_ms = np.array(release.catalogue.upload_ms)
        frame = pl.concat(self._watched(release, part) for part in log.parts())
        self._of = {user: part for (user,), part in frame.partition_by("user_id", as_dict=True).items()}

    @staticmethod
    def _watched(release: Release, part: LogPart) -> pl.DataFrame:
        watched = part.held_out & (part.impressions["watch_ms"] > 0).to_numpy()
        found = part.impressions.filter(pl.Series(watched))
        rows = release.video_ids.rows_of(found["video_id"])
        return found.select("user_id", "time_ms").with_columns(row=rows, long=part.long_view[watched])

    def of(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct videos (R,) that the viewer watched, and which of them long (R,)."""
        if (watched := self._of.get(request.user_id)) is None:
            return np.zeros(0, np.int64), np.zeros(0, bool)
        after = watched.filter(pl.col("time_ms") >= request.as_of_ms)
        return distinct_watches(after["row"].to_numpy(), after["long"].to_numpy(), self._upload_ms, request.as_of_ms)


def measured(outputs: Path, releases: Path, world: World, *, start: Mapping, requests: int) -> dict:
    """Measure the last built release of `outputs` on at most about `requests` requests, evenly spaced over the test day."""
    release, stored = Release.load(last_built(releases, outputs)), StoredTables.open(outputs / "tables")
    _require_known(release, world)
    columns, selection = FeatureSet.load(outputs / "features").columns, Selection.load(outputs / "selection")
    log = HeldOutLog(stored, np.asarray(columns["split"]), columns["targets"][:, LONG_VIEW])
    held_out = sum(part.impressions.filter(pl.Series(part.held_out))["request_id"].n_unique() for part in log.parts())
    if not held_out:
        raise ValueError(f"{outputs} holds no request of a test day to measure; simulate more days (data.loader.days)")
    step = max(1, held_out // max(requests, 1))
    after = Afterwards(release, log)
    replay = Replay(release=release, regime="streaming", slate=SLATE, requests=0, depth=CANDIDATES)
    with replay.opened(log) as (recommender, replayed):
        measurement = Measurement(recommender, world, selection, start)
        for each in islice(replayed, 0, None, step):
            measurement.add(each.request, *after.of(each.request))
    return measurement.figures | {"requests": len(measurement.samples["drawn"]["ranker"])}


def _require_known(release: Release, world: World) -> None:
    """Raise ValueError unless users and videos of the release may be those of the world, by number."""
    held, simulated = (len(release.user_ids.ids), len(release.catalogue)), (len(world.viewers), len(world.catalogue))
    if held != simulated:
        raise ValueError(
            f"{release.id} has {held[0]:,} users and {held[1]:,} videos, the world {simulated[0]:,} and {simulated[1]:,}: "
            "the truth is known of a simulated log alone; give the data.loader of the world that made it"
        )


@exits_on(FileNotFoundError, ReleaseError, ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = composed(["data=sample", *options.overrides])
    world, start = instantiate(composed(["data=world"]).data.loader), plain(config.retrieval.merge)
    figures = measured(Path(config.data.outputs), Path(config.data.releases), world, start=start, requests=options.requests)
    print(json.dumps(metrics.rounded(figures, 4)))


if __name__ == "__main__":
    main()
