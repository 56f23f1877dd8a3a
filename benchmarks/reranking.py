"""Time the re-ranking of one viewer's scored candidates: `python -m benchmarks.reranking --candidates 500`.

In process and on one core, on the release that `dvc repro` built, over a fresh store in a temporary folder. Candidates come
from the whole catalogue, scored by the release; known viewers take turns, and the first requests are left out. A request is
filters (copies included), caps, near duplicates, diversity and exploration, from scores to the slate. Every method of diversity
takes the same requests, one method after another. The last line is one JSON object; its first figures are of the method that
the release serves.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.scoring import WARM, requests_of

from watchnext.cli import exits_on
from watchnext.metrics import rounded
from watchnext.reranking.diversity import METHODS, Diversity
from watchnext.reranking.rules.copies import NearDuplicateRule
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate import Reranker
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.serving.store.store import Store
from watchnext.types import Query, Scored


def scored_of(recommender: Recommender, *, count: int, candidates: int, seed: int) -> list[tuple[Query, Scored]]:
    """Score the candidates of many requests."""
    found = []
    for request, rows in requests_of(recommender.release, recommender.store, count=count, candidates=candidates, seed=seed):
        query = recommender.query(request)
        found.append((query, recommender.rank(query, recommender.retrieval.given(query, rows, []))))
    return found


def by_method(served: Reranker, trade_off: float) -> dict[str, Reranker]:
    """Return method > the re-ranker that serves, with that diversity, and with near duplicates kept apart."""
    rules = [each for each in served.rules if each.name != NearDuplicateRule.name] + [NearDuplicateRule()]
    return {
        method: Reranker(
            value=served.value,
            rules=rules,
            diversity=replace(served.diversity, method=method, trade_off=trade_off),
            exploration=served.exploration,
        )
        for method in METHODS
    }


def timed(reranker: Reranker, store: Store, requests: list[tuple[Query, Scored]]) -> dict[str, float]:
    """Time all requests but the first; `cpu_ms` is of the processor, which other running programs disturb less."""
    facts = {"facts": store.catalogue, "region_bits": store.catalogue.region_bits, "unavailable": store.unavailable}
    taken, lengths = [], []
    for query, scored in requests:
        began = time.perf_counter(), time.thread_time()
        slate = reranker.rerank(scored, query.request, RuleContext.of(query, **facts))
        taken.append((1e3 * (time.perf_counter() - began[0]), 1e3 * (time.thread_time() - began[1])))
        lengths.append(len(slate.picked))
    ms, cpu_ms = np.array(taken[WARM:]).T
    return {
        "p50_ms": float(np.median(ms)),
        "p99_ms": float(np.percentile(ms, 99)),
        "cpu_ms": float(np.median(cpu_ms)),
        "slate": float(np.mean(lengths[WARM:])),
    }


@exits_on(FileNotFoundError, ReleaseError, ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--trade-off", type=float, default=Diversity().trade_off)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="of the pipeline that built the release")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    release = Release.load(last_built(Path("releases"), options.outputs))
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        store = Store.open(Path(folder) / "store", release, durable=False)
        sizes = {"count": WARM + options.requests, "candidates": min(options.candidates, len(release.catalogue))}
        requests = scored_of(Recommender(release, store), **sizes, seed=options.seed)
        rerankers = by_method(release.reranker, options.trade_off)
        methods = {method: timed(reranker, store, requests) for method, reranker in rerankers.items()}
        store.close()
    figures = methods[release.reranker.diversity.method] | {"trade_off": options.trade_off, "methods": methods}
    print(json.dumps({"release": release.id, **sizes, **rounded(figures, 3)}))


if __name__ == "__main__":
    main()
