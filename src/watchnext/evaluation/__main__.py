"""`python -m watchnext.evaluation replay`: how good the release is on days it never saw."""

from pathlib import Path

import numpy as np
import polars as pl
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, plain, write_report
from watchnext.data.storage import read_tables
from watchnext.data.tables import DataError
from watchnext.evaluation.funnel import funnel_metrics, lost
from watchnext.evaluation.plots import retrieval_plot
from watchnext.evaluation.replay import Replay, ranking_metrics, skew
from watchnext.evaluation.retrieval import popularity_of, retrieval_metrics
from watchnext.evaluation.text import table
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.freshness import REGIMES
from watchnext.metrics import rounded
from watchnext.ranking.scoring import Ranker
from watchnext.schema import SchemaError
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.types import TARGETS


def flat(nested: dict, prefix: str = "") -> dict[str, float]:
    """Nested figures as one level, "ranking/long_view/auc"."""
    found = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def replayed_under(regime: str, config: DictConfig, release: Release) -> Replay:
    """The funnel is followed under the configured regime alone; under the others impressions are scored."""
    requests = config.evaluation.requests if regime == config.regime else 0
    options = config.evaluation
    return Replay(release=release, regime=regime, slate=options.slate, requests=requests, depth=max(options.retrieval_k))


def nothing(release: str, regime: str) -> dict:
    """The report where no day is held out."""
    return {
        "release": release,
        "regime": regime,
        "requests": 0,
        "impressions": 0,
        "funnel": {},
        "lost": {},
        "retrieval": {},
        "ranking": {},
        "skew": None,
        "skew_watch_s": None,
    }


def replay(config: DictConfig) -> None:
    """Replay the test days through the release that the pipeline built; the table, with floors, goes to metrics and MLflow."""
    if config.regime not in REGIMES:
        raise ValueError(f"regime is {config.regime!r}, expected one of {', '.join(REGIMES)}")
    outputs = Path(config.data.outputs)
    release, features = Release.load(last_built(config.data.releases, outputs)), FeatureSet.load(outputs / "features")
    name = release.id
    if not len(features.rows("test")):
        write_report(outputs / "metrics" / "evaluation.json", nothing(name, config.regime))
        print(f"{name}: no data, as there are no test days to replay")
        return
    tables = read_tables(outputs / "tables")
    split, rows = np.asarray(features.columns["split"]), features.rows("test")
    targets, users = features.columns["targets"][rows], features.columns["user_rows"][rows]
    long_view = features.columns["targets"][:, TARGETS.index("long_view")]
    replayed = {regime: replayed_under(regime, config, release).run(tables, split, long_view) for regime in REGIMES}
    followed = replayed[config.regime]
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    report = {
        "release": name,
        "regime": config.regime,
        "requests": len(followed.funnels),
        "impressions": len(rows),
        "funnel": funnel_metrics(followed.funnels, config.evaluation.k, len(release.catalogue)),
        "lost": lost(followed.funnels),
        "retrieval": retrieval_metrics(
            followed.funnels,
            k=config.evaluation.retrieval_k,
            popularity=popularity_of(tables.impressions.filter(pl.Series(split != 2)), release.video_ids),
            seed=config.seed,
        ),
        "ranking": {regime: ranking_metrics(found.scores, targets, users) for regime, found in replayed.items()},
    }
    built = features.report["regime"]
    report |= skew(replayed[built].scores, ranker.scored(features, rows))
    printed, report = table(report), rounded(report, 6)
    picture = outputs / "evaluation" / "retrieval.png"
    if report["retrieval"]:
        retrieval_plot(report["retrieval"], picture)
    facts = {
        "data_hash": features.report["data_hash"],
        "schema_fingerprint": features.report["schema"],
        "release": name,
        "regime": config.regime,
    }
    with tracking.start_run("evaluation", config=plain(config), tags=facts) as tracked:
        tracked.log_metrics(flat(report))
        if report["retrieval"]:
            tracked.log_file(picture)
    write_report(outputs / "metrics" / "evaluation.json", report)
    print(printed)


if __name__ == "__main__":
    dispatch("watchnext.evaluation", {"replay": replay}, (DataError, SchemaError, ReleaseError, FileNotFoundError, ValueError))
