"""Time the re-ranking of one viewer's scored candidates: `python -m benchmarks.reranking --candidates 500`.

In process and on one core, on the release that `dvc repro` built, over a fresh store in a temporary folder. Candidates come
from the whole catalogue, scored by the release; known viewers take turns, and the first requests are left out. A request is
filters (copies included), caps, diversity and exploration, from scores to the slate. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.scoring import WARM, requests_of

from watchnext.cli import exits_on
from watchnext.metrics import rounded
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.serving.store.store import Store
from watchnext.types import Query, Scored, Slate


def scored_of(recommender: Recommender, *, count: int, candidates: int, seed: int) -> list[tuple[Query, Scored]]:
    """Score the candidates of many requests."""
    found = []
    for request, rows in requests_of(recommender.release, recommender.store, count=count, candidates=candidates, seed=seed):
        query = recommender.query(request)
        found.append((query, recommender.rank(query, recommender.retrieval.given(query, rows, []))))
    return found


def timed(recommender: Recommender, requests: list[tuple[Query, Scored]]) -> tuple[np.ndarray, list[Slate]]:
    """Return the milliseconds (N,) of each, and the slates."""
    taken, slates = [], []
    for query, scored in requests:
        began = time.perf_counter()
        slates.append(recommender.rerank(query, scored))
        taken.append(1e3 * (time.perf_counter() - began))
    return np.array(taken), slates


@exits_on(FileNotFoundError, ReleaseError, ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="of the pipeline that built the release")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    release = Release.load(last_built(Path("releases"), options.outputs))
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        store = Store.open(Path(folder) / "store", release, durable=False)
        sizes = {"count": WARM + options.requests, "candidates": min(options.candidates, len(release.catalogue))}
        recommender = Recommender(release, store)
        requests = scored_of(recommender, **sizes, seed=options.seed)
        timed(recommender, requests[:WARM])
        worked = time.process_time()
        taken, slates = timed(recommender, requests[WARM:])
        cpu_ms = 1e3 * (time.process_time() - worked) / len(taken)
        store.close()
    figures = {
        "p50_ms": float(np.median(taken)),
        "p99_ms": float(np.percentile(taken, 99)),
        "cpu_ms": cpu_ms,
        "slate": float(np.mean([len(slate.picked) for slate in slates])),
        "trade_off": release.reranker.diversity.trade_off,
    }
    print(json.dumps({"release": release.id, **sizes, **rounded(figures, 3)}))


if __name__ == "__main__":
    main()
