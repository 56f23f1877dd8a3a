"""Measure how many of the truly best videos the ranker finds: `python -m benchmarks.true_best [--requests 500]`.

It needs the sample after `dvc repro`. Requests of the test day are replayed on streaming state. For each, 500 candidates are
taken in two ways: those of retrieval, and a uniform draw of uploaded videos that the viewer has not watched. `World.truth`
gives the probability of a long view of each, if it is examined, and its expected seconds, which no log shows. `share` is the
share of the true best 10 by long views among a ranking's first 10, mean over requests with twice the standard error;
`long_view` and `watch_s` are the truth of these first 10, mean over requests. Rankings: the release's long-view head, its value
of an impression, the order that it serves and how likely a watch is (`engage`; these two of retrieved candidates alone), the
order of retrieval, and baselines: long-view rates of videos as they are known, long views with their half-lives, and chance.
The last line is one JSON object.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np

from watchnext import metrics
from watchnext.cli import composed, exits_on, instantiate
from watchnext.data.storage import read_tables
from watchnext.evaluation.baselines import Baselines
from watchnext.evaluation.replay import Replay
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import PRIOR
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.types import TARGETS, Candidates, Request

CANDIDATES, BEST = 500, 10
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


def summary(samples: list[tuple[float, float, float]]) -> dict[str, float | list[float]]:
    shares, long_view, watch_s = np.array(samples).T
    return {"share": [float(shares.mean()), 2 * float(shares.std()) / len(shares) ** 0.5],
            "long_view": float(long_view.mean()), "watch_s": float(watch_s.mean())}  # fmt: skip


def rates(recommender: Recommender, rows: np.ndarray) -> np.ndarray:
    """Return the smoothed long-view rate (C,) of the videos as they are known, by the longest half-life."""
    state = recommender.release.pipeline.schema.state
    slowest = len(state.half_lives_h)
    shown, long = (1 + state.counts.index(name) * slowest + slowest - 1 for name in ("impression", "long_view"))
    videos = recommender.store.videos
    mean = videos[:, long].sum() / videos[:, shown].sum()
    return (videos[rows, long] + PRIOR * mean) / (videos[rows, shown] + PRIOR)


def served(recommender: Recommender, request: Request, candidates: Candidates) -> Rankings:
    """Score retrieved candidates (C,) as the release orders them, and by `engage` alone where it has one."""
    scored = recommender.rank(recommender.query(request), candidates)
    order = {"served": recommender.release.reranker.value.order(scored)}
    return order if scored.engage is None else order | {"engage": scored.engage}


def rankings(recommender: Recommender, request: Request, rows: np.ndarray, baselines: Rankings) -> Rankings:
    """Score the candidates `rows` (C,) per ranking. Videos that a baseline omits rank behind all it lists."""
    predictions = recommender.score(request, rows)
    scores = {
        "ranker": predictions[:, LONG_VIEW],
        "value": recommender.release.reranker.value.of(predictions),
        "retrieval": -np.arange(len(rows)),
        "video_rate": rates(recommender, rows),
    }
    for name, listed in baselines.items():
        rank = np.full(len(recommender.release.catalogue), len(recommender.release.catalogue))
        rank[listed] = np.arange(len(listed))
        scores[name] = -rank[rows]
    return scores


@exits_on(FileNotFoundError, ReleaseError, ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = composed(["data=sample", *options.overrides])
    world, outputs = instantiate(composed(["data=world"]).data.loader), Path(config.data.outputs)
    release, tables = Release.load(last_built(config.data.releases, outputs)), read_tables(outputs / "tables")
    split, catalogue_size = FeatureSet.load(outputs / "features").columns["split"], len(release.catalogue)
    step = max(1, tables.impressions.filter(split == 2)["request_id"].n_unique() // options.requests)
    samples: dict[str, dict[str, list]] = {"retrieved": {}, "drawn": {}}
    replay = Replay(release=release, regime="streaming", slate=20, requests=0, depth=CANDIDATES)
    with replay.opened(tables, split) as (recommender, requests):
        baselines = Baselines(release, recommender.store, depth=catalogue_size)
        for request, _ in islice(requests, 0, None, step):
            lists, viewer = baselines.rank(request), release.user_ids.rows([request.user_id])
            retrieved = recommender.retrieve(request)
            for way, rows in {"retrieved": retrieved.rows, "drawn": lists["random"][:CANDIDATES]}.items():
                truth = world.truth(viewer, rows, np.array([request.as_of_ms]))
                known = truth.probability["long_view"], truth.watch_ms / 1000.0
                scores = rankings(recommender, request, rows, lists)
                scores |= served(recommender, request, retrieved) if way == "retrieved" else {}
                for name, score in scores.items():
                    samples[way].setdefault(name, []).append(among_first(score, *known))
    count = len(samples["drawn"]["ranker"])
    figures = {way: {name: summary(each) for name, each in by_name.items()} for way, by_name in samples.items()}
    print(json.dumps(metrics.rounded(figures | {"requests": count}, 4)))


if __name__ == "__main__":
    main()
