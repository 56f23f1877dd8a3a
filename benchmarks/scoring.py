"""Time the features and scores of one viewer's candidates, as they are served: `python -m benchmarks.scoring --candidates 500`.

In process and on one core, on the release that `dvc repro` built, over a fresh store in a temporary folder. A request reads the
viewer's record, the records of candidates drawn from the whole catalogue, encodes both (`features_ms`), runs the compiled
ranker and calibrates (`model_ms`); known viewers take turns, and the first requests are left out. Medians and 99th percentiles
are given for f32 and, if the processor has it (AMX or AVX-512 BF16), for bf16, else null; those of the faster come first.
`ONEDNN_MAX_CPU_ISA=AVX2` before the command measures a processor without AVX-512. `cpu_ms` is the mean processor time, which
other running programs disturb less. `rank/...` and `apart` compare the compiled ranker with the trained network on held-out
impressions. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.backends.cpu import get_cpu_capability

from watchnext.cli import exits_on
from watchnext.features.dataset.batches import FeatureSet
from watchnext.lifecycle.parity import parity
from watchnext.metrics import rounded
from watchnext.nn.training import has_amx
from watchnext.ranking.scoring import Ranker
from watchnext.serving.funnel.query import QueryEncoder
from watchnext.serving.funnel.ranking_stage import RankingStage
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.compiled import CompiledRanker
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.serving.store.store import Store
from watchnext.types import Request

WARM = 50  # requests before the clock starts


class Scoring:
    """Time the two parts of `Recommender.score`: features and model."""

    def __init__(self, release: Release, store: Store, ranker: CompiledRanker) -> None:
        self._release, self._store, self._ranker = release, store, ranker
        self._encoder, self._ranking = QueryEncoder(release, store.catalogue), RankingStage(release, store)

    def __call__(self, request: Request, rows: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Return predictions (C, T), and milliseconds for features and model."""
        began = time.perf_counter()
        (query,) = self._encoder.hydrate([request], *self._store.viewers([request.user_id]))
        inputs = {**query.inputs, **self._ranking.encode(query, rows)}
        encoded = time.perf_counter()
        predictions = self._release.calibration(self._ranker(inputs))
        return predictions, 1e3 * (encoded - began), 1e3 * (time.perf_counter() - encoded)


def requests_of(release: Release, store: Store, *, count: int, candidates: int, seed: int) -> list[tuple[Request, np.ndarray]]:
    """Yield viewers in turn, one second apart, each with random candidates."""
    random, users = np.random.default_rng(seed), store.viewer_ids(count)
    return [
        (
            Request(str(i), users[i % len(users)], 20, release.as_of_ms + 1 + 1000 * i),
            random.choice(len(release.catalogue), candidates, replace=False),
        )
        for i in range(count)
    ]


def measured(scoring: Scoring, requests: list[tuple[Request, np.ndarray]]) -> dict[str, float]:
    for request, rows in requests[:WARM]:
        scoring(request, rows)
    worked = time.process_time()
    features_ms, model_ms = np.array([scoring(request, rows)[1:] for request, rows in requests[WARM:]]).T
    cpu_ms = 1e3 * (time.process_time() - worked) / len(features_ms)
    return {
        "p50_ms": float(np.median(features_ms + model_ms)),
        "p99_ms": float(np.percentile(features_ms + model_ms, 99)),
        "features_ms": float(np.median(features_ms)),
        "model_ms": float(np.median(model_ms)),
        "cpu_ms": cpu_ms,
    }


def of_precision(precision: str, release: Release, outputs: Path, store: Store, requests: list) -> dict[str, float]:
    compiled = CompiledRanker.load(release.folder / "graphs", precision=precision)
    scoring = Scoring(release, store, compiled)
    if precision == "f32":  # measure the code that serves
        np.testing.assert_array_equal(scoring(*requests[0])[0], Recommender(release, store).score(*requests[0]))
    features = FeatureSet.load(outputs / "features")
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    return measured(scoring, requests) | parity(compiled, ranker.network, features, features.rows("valid"))


@exits_on(FileNotFoundError, ReleaseError, ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--releases", type=Path, default=Path("releases"))
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    release = Release.load(last_built(options.releases, options.outputs))
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        store = Store.open(Path(folder), release)
        requests = requests_of(release, store, count=WARM + options.requests, candidates=options.candidates, seed=options.seed)
        by_precision: dict[str, Mapping | None] = {
            "f32": of_precision("f32", release, options.outputs, store, requests),
            "bf16": None,
        }
        if "ONEDNN_MAX_CPU_ISA" not in os.environ and (has_amx() or torch.cpu._is_avx512_bf16_supported()):
            by_precision["bf16"] = of_precision("bf16", release, options.outputs, store, requests)
        store.close()
    best = min((name for name in by_precision if by_precision[name]), key=lambda name: by_precision[name]["p50_ms"])
    setting = {
        "precision": best,
        "cores": 1,
        "instructions": os.environ.get("ONEDNN_MAX_CPU_ISA", get_cpu_capability()),
        "release": release.id,
    }
    setting |= {"videos": len(release.catalogue), "candidates": options.candidates, "requests": options.requests}
    times = {name: value for name, value in by_precision[best].items() if name.endswith("_ms")}
    print(json.dumps(rounded(times | setting | by_precision, 6)))


if __name__ == "__main__":
    main()
