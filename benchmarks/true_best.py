"""Does the ranker find what is truly best? `python -m benchmarks.true_best [--requests 500]`, on the sample after `dvc repro`.

Requests of the test day are replayed on streaming state. For each, 500 candidates are taken in two ways: those that retrieval
names, and ones drawn evenly from what is uploaded and was not watched. `World.truth` says how likely each is to be viewed long
if it is looked at, which no log shows; the figure is the share of the true best 10 that stand among a ranking's first 10, mean
over requests with twice the standard error. Rankings: the release's long-view head and its value, retrieval's own order, and
floors: long-view rates of videos as they are known, long views with their half-lives, and chance. The last line is one JSON
object.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from watchnext.data.days import read_tables
from watchnext.dispatch import composed, instantiate
from watchnext.evaluation.floors import Floors
from watchnext.evaluation.replay import Replay
from watchnext.features import history
from watchnext.features.batches import FeatureSet
from watchnext.features.encoding import PRIOR
from watchnext.metrics import rounded
from watchnext.serving.recommender import Recommender
from watchnext.serving.release import Release
from watchnext.types import TARGETS, Request

CANDIDATES, BEST = 500, 10
LONG_VIEW = TARGETS.index("long_view")
Rankings = dict[str, np.ndarray]


def share(truth: np.ndarray, score: np.ndarray) -> float:
    """Of the BEST highest of `truth` (C,), how many are among the BEST highest of `score` (C,); of equal scores the earlier."""
    best, named = (np.argsort(-values, kind="stable")[:BEST] for values in (truth, score))
    return len(np.intersect1d(best, named)) / BEST


def drawn(recommender: Recommender, request: Request, random: np.random.Generator) -> np.ndarray:
    """CANDIDATES rows, evenly from what is uploaded and was not watched."""
    release = recommender.release
    allowed = np.nan_to_num(np.array(release.catalogue.upload_ms), nan=-np.inf) <= request.as_of_ms
    layout = release.layout
    allowed[history.seen(recommender.store.viewer(request.user_id), layout.at_seen, layout.seen)] = False
    return random.choice(np.flatnonzero(allowed), CANDIDATES, replace=False)


def rates(recommender: Recommender, rows: np.ndarray) -> np.ndarray:
    """Smoothed long-view rate (C,) of the videos as they are known, by the longest half-life."""
    state = recommender.release.pipeline.schema.state
    slowest = len(state.half_lives_h)
    shown, long = (1 + state.counts.index(name) * slowest + slowest - 1 for name in ("impression", "long_view"))
    videos = np.asarray(recommender.store.videos)
    mean = videos[:, long].sum() / videos[:, shown].sum()
    return (videos[rows, long] + PRIOR * mean) / (videos[rows, shown] + PRIOR)


def rankings(recommender: Recommender, request: Request, rows: np.ndarray, floors: Rankings) -> Rankings:
    """Scores (C,) of the candidates `rows`, a ranking each. What a floor does not name stands behind all that it names."""
    predictions = recommender.score(request, rows)
    found = {
        "ranker": predictions[:, LONG_VIEW],
        "value": recommender.release.reranker.value.of(predictions),
        "retrieval": -np.arange(len(rows)),
        "video_rate": rates(recommender, rows),
    }
    for name, named in floors.items():
        place = np.full(len(recommender.release.catalogue), len(recommender.release.catalogue))
        place[named] = np.arange(len(named))
        found[name] = -place[rows]
    return found


def asked(config, requests: int) -> Iterator[tuple[Recommender, Request]]:
    outputs = Path(config.data.outputs)
    release = Release.load(Path(config.data.releases) / json.loads((outputs / "release.json").read_text())["release"])
    replay = Replay(release=release, regime="streaming", slate=20, requests=0, depth=CANDIDATES)
    split = np.asarray(FeatureSet.load(outputs / "features").columns["split"])
    tables = read_tables(outputs / "tables")
    total = tables.impressions.filter(split == 2)["request_id"].n_unique()
    for place, (recommender, request, _) in enumerate(replay.asked(tables, split)):
        if place % max(1, total // requests) == 0:
            yield recommender, request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    config = composed(["data=sample"])
    world, random = instantiate(composed(["data=world"]).data.loader), np.random.default_rng(0)
    shares: dict[str, dict[str, list[float]]] = {"retrieved": {}, "drawn": {}}
    for recommender, request in asked(config, options.requests):
        floors = Floors(recommender.release, recommender.store, depth=len(recommender.release.catalogue)).of(request)
        viewer = recommender.release.user_ids.rows([request.user_id])
        candidates = {
            "retrieved": recommender.retrieve(request, CANDIDATES).rows[:CANDIDATES],
            "drawn": drawn(recommender, request, random),
        }
        for way, rows in candidates.items():
            truth = world.truth(viewer, rows, np.array([request.as_of_ms])).probability["long_view"]
            for name, score in rankings(recommender, request, rows, floors).items():
                shares[way].setdefault(name, []).append(share(truth, score))
    found = {
        way: {name: [float(np.mean(x)), 2 * float(np.std(x)) / len(x) ** 0.5] for name, x in named.items()}
        for way, named in shares.items()
    }
    print(json.dumps(rounded(found | {"requests": len(shares["drawn"]["ranker"])}, 4)))


if __name__ == "__main__":
    main()
